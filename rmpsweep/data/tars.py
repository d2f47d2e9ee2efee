"""WebDataset tar files: a sample is the files of one name, its image and its label told by their extensions."""

import functools
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rmpsweep.data.files import absolute, find_files, stamp
from rmpsweep.data.images import EXTENSIONS
from rmpsweep.data.store import Listing, OnListed, Store, basename, first_distinct, row_numbers, shard_column, texts
from rmpsweep.errors import DataError

_LISTED_EVERY = 10_000


class TarStore(Store):
    """A split held in tar files that are not compressed, read at any place: nothing is streamed, padded or left out.

    A sample is what has the same name up to the first dot after the last slash: `.jpg`, `.png` and so on the image,
    `.cls` (a number) or `.json` (`{"label": number}`) the label, all else is ignored. The key of an image is that name
    without folders where those are distinct, else with folders, else its number over the files in order of name.
    Columns of the listing beside those of every one: offset i64 and length i64, in bytes.
    """

    def __init__(self, path: str | None, split: str) -> None:
        if path is not None and "://" in path:
            raise DataError(
                f"webdataset: path: got {path!r}, expected files of this machine; parquet is the source for URLs"
            )
        files = find_files("webdataset", path, split, ".tar")
        self._files = [absolute(str(file)) for file in files]
        self.name = f"{Path(self._files[0]).parent.name}/{split}"
        self.identity = ("webdataset", *self._files)

    def listing(self, on_listed: OnListed) -> Listing:
        """The headers of all tar files are read, and the labels."""
        made_from = {file: self.stamp(file) for file in self._files}
        names, numbers, rows, done = [], [], [], 0
        for number, file in enumerate(self._files):
            found = _scan(file, functools.partial(_ahead, on_listed, done))
            names.append(texts(list(found), file))
            rows.append(np.array(list(found.values()), np.int64).reshape(-1, 3))
            numbers.append(np.full(len(found), number, np.int32))
            done += len(found)
            on_listed(done)
        if done == 0:
            raise DataError(f"{self._files[0]}: no images in {len(self._files)} tar file(s)")
        whole, table = pa.chunked_array(names), np.concatenate(rows)
        keys = first_distinct((basename(whole), whole))
        columns = {
            "key": row_numbers(done) if keys is None else keys,
            "label": pa.array(table[:, 2]),
            "path": shard_column(self._files, pa.array(np.concatenate(numbers))),
            "offset": pa.array(table[:, 0]),
            "length": pa.array(table[:, 1]),
        }
        return Listing(pa.table(columns), made_from)

    def stamp(self, name: str) -> str:
        """Of one of the files."""
        return stamp(Path(name))

    def encoded(self, rows: pa.Table) -> Iterator[tuple[int, bytes]]:
        """File by file, in the order in which they lie there."""
        wanted: dict[str, list[tuple[int, int, int]]] = {}
        columns = (rows[name].to_pylist() for name in ("path", "offset", "length"))
        for position, (path, offset, length) in enumerate(zip(*columns, strict=True)):
            wanted.setdefault(path, []).append((offset, length, position))
        for path, places in wanted.items():
            try:
                with open(path, "rb") as file:
                    for offset, length, position in sorted(places):
                        file.seek(offset)
                        yield position, file.read(length)
            except OSError as error:
                raise DataError(
                    f"{path}: cannot be read ({error.strerror}); put it back, or make it readable"
                ) from error


def _ahead(on_listed: OnListed, before: int, listed: int) -> None:
    on_listed(before + listed)


def _scan(path: str, on_listed: OnListed) -> dict[str, tuple[int, int, int]]:
    """The samples of a tar file: name with folders -> offset and length of the image, label.

    Raises:
        DataError: not a tar file that can be read in part, or not such samples.
    """
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep every header
                folder, slash, file = member.name.rpartition("/")
                key, _, extension = file.partition(".")
                name, extension = f"{folder}{slash}{key}", extension.lower()
                if not member.isfile():
                    continue
                if f".{extension}".endswith((*EXTENSIONS, ".gif")):
                    if name in images:
                        raise DataError(f"{path}: sample {name!r} has two images, the second in {member.name}")
                    images[name] = member.offset_data, member.size
                    if len(images) % _LISTED_EVERY == 0:
                        on_listed(len(images))
                elif extension in ("cls", "json"):
                    label = _label(extension, tar, member, path)
                    if label is not None and labels.setdefault(name, label) != label:
                        raise DataError(f"{path}: sample {name!r} has two labels, the second in {member.name}")
    except tarfile.TarError as error:
        raise DataError(
            f"{path}: not a tar file that can be read in part ({error}); unpack it if it is compressed"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    for name in images.keys() ^ labels.keys():
        missing = 'label (NAME.cls, or NAME.json with a number as "label")' if name in images else "image"
        raise DataError(f"{path}: sample {name!r} has no {missing}")
    return {name: (*image, labels[name]) for name, image in images.items()}


def _label(extension: str, tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> int | None:
    """Of a .cls or .json file; None where a .json file says none. Raises DataError."""
    stream = tar.extractfile(member)
    assert stream is not None
    text = stream.read().decode("utf-8", errors="replace").strip()
    try:
        value: Any = int(text) if extension == "cls" else json.loads(text)
    except ValueError:
        value = None
    if extension == "json":
        if not isinstance(value, Mapping) or "label" not in value:
            return None
        value = value["label"]
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"{path}: {member.name}: label: got {text[:80]!r}, expected an integer of 0 or more")
    return value
