"""A store of images in WebDataset tar files: the files of one name form a sample, an image and its label."""

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from rmpsweep.data.files import absolute, find_files, stamp
from rmpsweep.data.images import EXTENSIONS
from rmpsweep.data.store import Listing, OnListed, Store, basename, first_distinct, row_numbers, shard_column, texts
from rmpsweep.errors import DataError

_LISTED_EVERY = 10_000
_BLOCK = 512
_UTF8 = ("utf-8", "surrogateescape")


class TarStore(Store):
    """A split in tar files that are not compressed. Images are read at any place; none is streamed, padded or left out.

    All files with the same name up to the first dot after the last slash form a sample. `.jpg`, `.png` and so on hold
    the image; `.cls` (a number) or `.json` (`{"label": number}`) holds the label; other files are ignored. The key of
    an image is that name without folders if these are distinct, else with folders, else the number of the image,
    counted over the files in order of name. Besides the columns of every listing, this one has offset i64 and length
    i64, in bytes.
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
        """List the images from the headers of all tar files and from the labels; no image is read."""
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
        """The stamp of one of the files."""
        return stamp(Path(name))

    def encoded(self, rows: pa.Table) -> Iterator[tuple[int, bytes]]:
        """Read the images file by file, in the order in which each file holds them."""
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
    """The samples of a tar file: name with folders -> (offset of the image, length of the image, label).

    Raises:
        DataError: the file is not an uncompressed tar file, or its samples are not as `TarStore` describes them.
    """
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with open(path, "rb") as file:
            for member, offset, length in _members(file):
                folder, slash, name = member.rpartition("/")
                key, _, extension = name.partition(".")
                name, extension = f"{folder}{slash}{key}", extension.lower()
                if f".{extension}".endswith((*EXTENSIONS, ".gif")):
                    if name in images:
                        raise ValueError(f"sample {name!r} has two images, the second in {member}")
                    images[name] = offset, length
                    if len(images) % _LISTED_EVERY == 0:
                        on_listed(len(images))
                elif extension in ("cls", "json"):
                    file.seek(offset)
                    label = _label(member, extension, file.read(length))
                    if label is not None and labels.setdefault(name, label) != label:
                        raise ValueError(f"sample {name!r} has two labels, the second in {member}")
        for name in sorted(images.keys() ^ labels.keys()):
            missing = 'label (NAME.cls, or NAME.json with a number as "label")' if name in images else "image"
            raise ValueError(f"sample {name!r} has no {missing}")
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return {name: (*image, labels[name]) for name, image in images.items()}


def _members(file: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """Yield (name, offset, length) of every regular file in a tar file of the formats ustar, GNU or pax.

    This gives what the tarfile module gives, but much faster.

    Raises:
        ValueError: the file is not a tar file, ends before its end marker, or holds sparse files.
    """
    at, extended = 0, dict[str, str]()
    while True:
        file.seek(at)
        header = file.read(_BLOCK)
        if header == bytes(_BLOCK):
            return
        if len(header) < _BLOCK:
            raise ValueError(
                f"ends early, at byte {at + len(header)}; fetch it again, or unpack it if it is compressed"
            )
        try:
            checksum, length, kind = _number(header[148:156]), _number(header[124:136]), header[156:157]
        except ValueError:
            checksum, length, kind = -1, 0, b""
        if checksum != sum(header[:148]) + 8 * ord(" ") + sum(header[156:]):
            raise ValueError(f"not a tar file (at byte {at}); fetch it again, or unpack it if it is compressed")
        offset = at + _BLOCK
        if kind in b"xL":  # pax records, or GNU's long name, for the next member
            content = file.read(length)
            extended |= _records(content) if kind == b"x" else {"path": content.rstrip(b"\0").decode(*_UTF8)}
        elif kind in b"S" or extended.keys() & {"GNU.sparse.major", "GNU.sparse.map"}:
            raise ValueError(f"holds sparse files (at byte {at}); pack it again without them")
        else:
            if kind not in b"gK":
                length = int(extended.get("size", length)) if kind in b"0\0" else 0
                if kind in b"0\0":
                    yield extended.get("path") or _name(header), offset, length
                extended = {}
        at = offset + -(-length // _BLOCK) * _BLOCK


def _number(field: bytes) -> int:
    """Read a number of a header: octal text, or base 256 if the first bit is set."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    return int(field.rstrip(b" \0") or b"0", 8)


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode(*_UTF8)


def _records(content: bytes) -> dict[str, str]:
    """Read pax records "LENGTH key=value\\n", where LENGTH is the length of the whole record."""
    found = {}
    while content:
        length = int(content.partition(b" ")[0])
        if not 0 < length <= len(content):
            raise ValueError(f"has a damaged pax header ({content[:40]!r}); fetch it again")
        key, _, value = content[: length - 1].partition(b" ")[2].partition(b"=")
        found[key.decode(*_UTF8)] = value.decode(*_UTF8)
        content = content[length:]
    return found


def _label(member: str, extension: str, content: bytes) -> int | None:
    """The label in a .cls or .json file; None if a .json file holds none.

    Raises:
        ValueError: the label is not an integer.
    """
    text = content.decode("utf-8", errors="replace").strip()
    try:
        value: Any = int(text) if extension == "cls" else json.loads(text)
    except ValueError:
        value = None
    if extension == "json":
        if not isinstance(value, Mapping) or "label" not in value:
            return None
        value = value["label"]
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{member}: label: got {text[:80]!r}, expected an integer of 0 or more")
    return value
