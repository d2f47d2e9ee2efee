"""Stores of images that have one file each: in class folders, in one flat folder, or listed in a CSV file."""

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rmpsweep.data.classes import class_labels, class_names, count_classes
from rmpsweep.data.files import absolute, stamp
from rmpsweep.data.images import EXTENSIONS
from rmpsweep.data.labels import find_labels, parse_labels, read_pairs
from rmpsweep.data.store import Listing, OnListed, Store, basename, first_distinct, stem, texts
from rmpsweep.errors import DataError

_SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test"}
_CHUNK = 50_000


class _LooseStore(Store):
    """Images that have one file each, under a common root folder."""

    def __init__(self, root: Path, touched: Path) -> None:
        """Open a store.

        Args:
            root: the folder that the paths of images start from.
            touched: the file or folder to touch in order to have a new index made.
        """
        self._root = root
        self.remedy = f"put it back, or run `touch {touched}` to have a new index made, and start again"

    def stamp(self, name: str) -> str:
        """The stamp of a file, or of the names in a folder."""
        return stamp(Path(name))

    def where(self, row: Mapping[str, Any]) -> str:
        """The path of the image's file."""
        return str(self._root / row["path"])

    def encoded(self, rows: pa.Table) -> Iterator[tuple[int, bytes]]:
        """Read the images file by file."""
        for position, path in enumerate(rows["path"].to_pylist()):
            file = self._root / path
            try:
                content = file.read_bytes()
            except OSError as error:
                raise DataError(
                    f"{file}: cannot be read ({error.strerror}); put it back, or make it readable"
                ) from error
            yield position, content


class FolderStore(_LooseStore):
    """A split in class folders, as torchvision's ImageFolder reads it, or in one flat folder with labels in a file.

    The label of a class folder is the rank of its name among the 1,000 ILSVRC synsets if all folders are synsets, else
    its rank among the sorted names, as in torchvision. The key of an image is its name without extension if these names
    are distinct, else its path below what all paths have in common, without extension if that is distinct. Files with
    extensions that torchvision does not read are ignored and counted.
    """

    def __init__(self, path: str | None, split: str, labels: str | None = None) -> None:
        if path is None:
            raise DataError("imagefolder: path: got none, expected a folder")
        if "://" in path:
            raise DataError(f"imagefolder: path: got {path!r}, expected a folder; parquet is the source for URLs")
        whole = Path(absolute(path))
        root = _find_split(whole, split)
        super().__init__(root, root)
        self._split, self._labels = split, labels
        self.name = f"{whole.name}/{split}"
        self.identity = ("imagefolder", str(root), absolute(labels) if labels else "")

    def listing(self, on_listed: OnListed) -> Listing:
        """List every image below the folder of the split."""
        before = {str(self._root): stamp(self._root)}
        folders, names = _entries(self._root)
        if self._has_classes(folders, names):
            return self._of_classes(folders, len(names), before, on_listed)
        listing = self._flat(names, before)
        on_listed(len(listing.table))
        return listing

    def class_names(self) -> tuple[str, ...]:
        """The names of the class folders, or of what they stand for if they are synsets; empty for a flat folder."""
        folders, names = _entries(self._root)
        return class_names(folders) if self._has_classes(folders, names) else ()

    def _has_classes(self, folders: list[str], names: list[str]) -> bool:
        images = any(map(_is_image, names))
        return bool(folders) and (not images or any(_has_image(self._root / name) for name in folders))

    def _of_classes(self, classes: list[str], strays: int, made_from: dict[str, str], on_listed: OnListed) -> Listing:
        if self._labels is not None:
            raise DataError(
                f"labels: got {self._labels!r}, but {self._root} has class folders, which give the labels; leave it out"
            )
        labels = class_labels(classes, str(self._root))
        paths, numbers, empty, ignored, done = [], [], [], strays, 0
        for name in classes:
            found, others = _walk(self._root, name, made_from)
            ignored += others
            if not found:
                empty.append(name)
            for start in range(0, len(found), _CHUNK):
                part = texts(found[start : start + _CHUNK], str(self._root / name))
                paths.append(part)
                numbers.append(pa.repeat(pa.scalar(labels[name], pa.int64()), len(part)))
            done += len(found)
            on_listed(done)
        if empty:
            more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
            raise DataError(
                f"{self._root}: class folder {', '.join(map(repr, empty[:3]))}{more}: holds no images (names ending in "
                f"{', '.join(EXTENSIONS)}); fill or remove it"
            )
        notes = (f"{ignored:,} files in {self._root} are not named as images and were ignored",) if ignored else ()
        table = _table(pa.chunked_array(paths), pa.chunked_array(numbers))
        return Listing(table, made_from, count_classes(labels), notes)

    def _flat(self, names: list[str], made_from: dict[str, str]) -> Listing:
        found = [name for name in names if _is_image(name)]
        if not found:
            raise DataError(
                f"{self._root}: holds neither class folders nor images (names ending in {', '.join(EXTENSIONS)})"
            )
        paths = pa.chunked_array([texts(found, str(self._root))])
        named = find_labels(self._root, self._split, self._labels)
        labels = [named.labels.get(name) for name in stem(paths).to_pylist()]
        if None in labels:
            raise DataError(
                f"{named.files[0]}: has no label for {labels.count(None)} of {len(found)} images in {self._root}, such "
                f"as {found[labels.index(None)]}; expected a line for each"
            )
        notes = [f"{self._root} is flat; its labels are from {' and '.join(map(str, named.files))}"]
        if len(named.labels) > len(found):
            notes.append(f"{len(found):,} of the {len(named.labels):,} images that {named.files[0]} labels are there")
        if len(names) > len(found):
            notes.append(f"{len(names) - len(found):,} files in {self._root} are not named as images and were ignored")
        made_from |= {str(file): stamp(file) for file in named.files}
        table = _table(paths, pa.chunked_array([pa.array(labels, pa.int64())]))
        return Listing(table, made_from, named.num_classes, tuple(notes))


class CsvStore(_LooseStore):
    """A split listed in a file with columns path and label.

    Paths are relative to the folder of the file. Labels are integers, or class names that are numbered as `FolderStore`
    numbers folders. The key of an image is made as `FolderStore` makes it.
    """

    def __init__(self, path: str | None, split: str) -> None:
        if path is None:
            raise DataError("csv: path: got none, expected a CSV file, or a folder of them")
        self._file = _find_list(Path(absolute(path.replace("{split}", split))), split)
        super().__init__(self._file.parent, self._file)
        self.name = f"{self._file.parent.name}/{split}"
        self.identity = ("csv", str(self._file))

    def listing(self, on_listed: OnListed) -> Listing:
        """List the images from the lines of the file; no image is looked at."""
        made_from = {str(self._file): stamp(self._file)}
        paths, values, done = [], [], 0
        pairs = read_pairs(self._file)
        while part := list(islice(pairs, _CHUNK)):
            paths.append(texts([path for _, path, _ in part], str(self._file)))
            values.append(pa.array([value for *_, value in part], pa.string()))
            done += len(part)
            on_listed(done)
        if not paths:
            raise DataError(f"{self._file}: lists no images")
        labels, num_classes = parse_labels(pa.chunked_array(values), str(self._file))
        paths = pc.replace_substring_regex(pa.chunked_array(paths), r"^(\./+)+", "")
        return Listing(_table(paths, labels), made_from, num_classes)


def _table(paths: pa.ChunkedArray, labels: pa.ChunkedArray) -> pa.Table:
    """Make the table of a listing, with a key for every image.

    Raises:
        DataError: a path is listed twice.
    """
    low, high = pc.min_max(paths).as_py().values()
    common = os.path.commonprefix([low, high]).rpartition("/")[0]  # noqa: RUF071  # cut at a slash
    within = pc.utf8_slice_codeunits(paths, len(common) + 1) if common else paths
    keys = first_distinct((stem(basename(paths)), stem(within), within))
    if keys is None:
        counts = pc.value_counts(paths)
        twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")[0].as_py()
        raise DataError(f"{twice}: is listed more than once; leave one line")
    return pa.table({"key": keys, "label": labels, "path": paths})


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the folders and of the files in a folder, both sorted.

    Raises:
        DataError: the folder cannot be listed.
    """
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                (folders if entry.is_dir() else files).append(entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error
    return sorted(folders), sorted(files)


def _has_image(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(_is_image(entry.name) for entry in entries)


def _walk(root: Path, name: str, made_from: dict[str, str]) -> tuple[list[str], int]:
    """The paths of the images below a folder, and the number of other files; stamps of all folders go to made_from."""
    found, ignored, left = [], 0, [name]
    while left:
        folder = left.pop()
        made_from[str(root / folder)] = stamp(root / folder)
        folders, files = _entries(root / folder)
        left += [f"{folder}/{each}" for each in folders]
        images = [f"{folder}/{each}" for each in files if _is_image(each)]
        found += images
        ignored += len(files) - len(images)
    return found, ignored


def _find_split(path: Path, split: str) -> Path:
    """The folder of a split: the subfolder of its name, or the path itself if that holds images but no splits."""
    if not path.is_dir():
        raise DataError(f"imagefolder: path: got {str(path)!r}, but there is no such folder")
    if (path / split).is_dir():
        return path / split
    folders, files = _entries(path)
    holds_splits = not _SPLIT_NAMES.isdisjoint(name.lower() for name in folders)
    if not holds_splits and (any(map(_is_image, files)) or any(_has_image(path / name) for name in folders)):
        return path
    raise DataError(f"imagefolder: split: got {split!r}, found in {path}: {', '.join(folders) or 'no folders'}")


def _find_list(path: Path, split: str) -> Path:
    if path.is_file():
        return path
    there = sorted(file for file in path.glob("*") if file.suffix in (".csv", ".tsv", ".txt"))
    found = next((file for file in there if file.stem == split), None)
    if found is None:
        if not path.is_dir():
            raise DataError(f"csv: path: got {str(path)!r}, but there is no such file or folder")
        names = ", ".join(file.stem for file in there) or "no files named *.csv, *.tsv or *.txt"
        raise DataError(f"csv: split: got {split!r}, found in {path}: {names}")
    return found
