"""Labels from a file beside the images: a list of names and labels, Kaggle's solution, or the devkit's ground truth.

The devkit of ILSVRC 2012 numbers the classes in an order of its own (ILSVRC2012_ID 1 to 1000). Networks are trained
with the order of the sorted synsets instead, so the ground truth of the devkit means nothing without its meta.mat.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from rmpsweep.data.classes import class_labels, count_classes, synset_labels
from rmpsweep.data.store import basename, stem, texts
from rmpsweep.errors import DataError

GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_META = "meta.mat"
_DEVKIT = "ILSVRC2012_devkit_t12"
_DEVKIT_URL = f"https://image-net.org/data/ILSVRC/2012/{_DEVKIT}.tar.gz"
_NEAR = ("", f"{_DEVKIT}/data", _DEVKIT)
_LEVELS = 4
"""The number of folders above the images that are searched: from Kaggle's ILSVRC/Data/CLS-LOC/val, its
LOC_val_solution.csv is four folders up."""
_VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})")
_KAGGLE_HEADER = "ImageId,PredictionString"


@dataclass(frozen=True)
class NamedLabels:
    """The labels of images, by name."""

    labels: dict[str, int]
    """Name of an image, without folder and extension -> its label."""
    files: tuple[Path, ...]
    """The files that the labels were read from."""
    num_classes: int | None
    """None if the files do not tell it."""


def find_labels(folder: Path, split: str, given: str | None) -> NamedLabels:
    """Find the labels of images that are all in one folder, by the images' names without extension.

    Args:
        given: the file that holds the labels. If it is None, such a file is searched for in the folder and up to four
            folders above it, and where the devkit is unpacked in one of these. The search prefers the devkit's ground
            truth to Kaggle's solution, and that to a list such as Caffe's val.txt.
    Raises:
        DataError: there is no such file, or it cannot be used.
    """
    if given is not None:
        named = Path(given).expanduser()
        if not named.is_file():
            raise DataError(f"labels: got {given!r}, but there is no such file")
        return _read(named, folder)
    splits = dict.fromkeys((split, "val"))
    kinds = ([GROUND_TRUTH], [f"LOC_{each}_solution.csv" for each in splits], [f"{each}.txt" for each in splits])
    for names in kinds:
        for name in names:
            file = _find(folder, name)
            if file is not None:
                return _read(file, folder)
    packed = _find(folder, f"{_DEVKIT}.tar.gz")
    remedy = f"unpack {packed}" if packed else f"unpack {_DEVKIT_URL} beside it"
    raise DataError(
        f"{folder}: the images lie in one folder, not in a folder for each class, so a file must give their "
        f"labels. Looked in it and up to {_LEVELS} folders above for {GROUND_TRUTH} and {_META} of the devkit (also in "
        f"{_DEVKIT}/data), {', '.join(kinds[1])} of Kaggle, and {', '.join(kinds[2])} with lines 'name label': "
        f"{remedy}, sort the images into class folders, or name a file by data.labels"
    )


def read_pairs(file: Path) -> Iterator[tuple[int, str, str]]:
    """Read (line number, path, label) from a table separated by commas, tabs or spaces.

    A first row that holds "path" and "label" names the columns. Without it, the table has just these two columns.

    Raises:
        DataError: a row lacks the path or the label, or has another number of columns; or the file is not UTF-8.
    """
    with open(file, encoding="utf-8-sig", newline="") as lines:
        first = lines.readline()
        lines.seek(0)
        delimiter = next((each for each in "\t," if each in first), None)
        rows: Iterator[list[str]] = (
            csv.reader(lines, delimiter=delimiter) if delimiter else (line.rsplit(maxsplit=1) for line in lines)
        )
        at, columns, width = (0, 1), 2, None
        try:
            for number, row in enumerate(rows, 1):
                names = [cell.strip().lower() for cell in row] if number == 1 else []
                if {"path", "label"} <= set(names):
                    at, width = (names.index("path"), names.index("label")), len(names)
                elif row:
                    if len(row) != (width or columns) or not all(row[i].strip() for i in at):
                        raise DataError(
                            f"{file}: line {number}: got {row!r}, expected a path and a label, or a first line that "
                            "names the columns path and label"
                        )
                    yield number, row[at[0]].strip(), row[at[1]].strip()
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{file}: not a table in UTF-8 ({error})") from error


def parse_labels(values: pa.ChunkedArray, where: str) -> tuple[pa.ChunkedArray, int | None]:
    """Turn integers or names of classes into labels, i64.

    Returns:
        The labels, and the number of classes if the values are names (None for integers).
    Raises:
        DataError: integers and names are mixed, or a few names are no synsets while most are.
    """
    numeric = pc.match_substring_regex(values, r"^[+-]?\d{1,18}$")
    if pc.all(numeric).as_py():
        return values.cast(pa.int64()), None
    if pc.any(numeric).as_py():
        stray = values[pc.index(numeric, False).as_py()].as_py()
        raise DataError(f"{where}: label: got {stray!r} among integers, expected either integers or names of classes")
    encoded = values.combine_chunks().dictionary_encode()
    labels = class_labels(encoded.dictionary.to_pylist(), where)
    ranks = pa.array([labels[name] for name in encoded.dictionary.to_pylist()], pa.int64())
    return pa.chunked_array([ranks.take(encoded.indices)]), count_classes(labels)


def _read(file: Path, folder: Path) -> NamedLabels:
    with open(file, encoding="utf-8-sig", errors="replace") as lines:
        first = lines.readline().strip()
    if first == _KAGGLE_HEADER:
        return _read_kaggle(file)
    if first.isdigit():
        return _read_ground_truth(file, folder)
    return _read_list(file)


def _read_ground_truth(file: Path, folder: Path) -> NamedLabels:
    """Read the devkit's ground truth as torchvision does: line n is the ILSVRC2012_ID of image ILSVRC2012_val_n."""
    beside = file.parent / _META
    meta = beside if beside.is_file() else _find(folder, _META)
    if meta is None:
        raise DataError(
            f"{file}: its numbers are the devkit's (ILSVRC2012_ID), not labels, and the {_META} that tells which "
            f"synsets they are is neither beside it nor near {folder}; put it there, from {_DEVKIT_URL}"
        )
    labels = _read_meta(meta)
    numbers = file.read_text(encoding="utf-8").split()
    unknown = next((line for line, number in enumerate(numbers, 1) if number not in labels), None)
    if unknown is not None:
        raise DataError(f"{file}: line {unknown}: got {numbers[unknown - 1]!r}, which {meta} does not have")
    named = {f"ILSVRC2012_val_{line:08d}": labels[number] for line, number in enumerate(numbers, 1)}
    return NamedLabels(named, (file, meta), len(synset_labels()))


def _read_meta(meta: Path) -> dict[str, int]:
    """ILSVRC2012_ID (as text) -> label, from the devkit's meta.mat."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        leaves = [
            (str(int(number)), str(synset))
            for number, synset, children in zip(
                synsets["ILSVRC2012_ID"], synsets["WNID"], synsets["num_children"], strict=True
            )
            if children == 0
        ]
        return {number: synset_labels()[synset] for number, synset in leaves}
    except Exception as error:  # a damaged file can make scipy's readers raise anything
        raise DataError(
            f"{meta}: not the meta.mat of ILSVRC 2012's devkit ({type(error).__name__}: {error})"
        ) from error


def _read_kaggle(file: Path) -> NamedLabels:
    """Read Kaggle's solution, with columns ImageId,PredictionString; a PredictionString starts with the synset."""
    labels, known = {}, synset_labels()
    with open(file, encoding="utf-8", newline="") as lines:
        for number, row in enumerate(csv.reader(lines), 1):
            synset = row[1].split()[:1] if len(row) == 2 else []
            if number > 1 and row:
                if not synset or synset[0] not in known:
                    raise DataError(
                        f"{file}: line {number}: got {row!r}, expected an image and one of the 1,000 synsets"
                    )
                labels[row[0]] = known[synset[0]]
    return NamedLabels(labels, (file,), len(known))


def _read_list(file: Path) -> NamedLabels:
    """Read a list of names, with or without folders and extensions, and labels.

    Numbers are taken for labels in the order of the sorted synsets if all names are those of ILSVRC validation images.
    """
    pairs = list(read_pairs(file))
    if not pairs:
        raise DataError(f"{file}: has no labels")
    names = stem(basename(pa.chunked_array([texts([name for _, name, _ in pairs], str(file))]))).to_pylist()
    values, classes = parse_labels(pa.chunked_array([pa.array([value for *_, value in pairs])]), str(file))
    if classes is None and all(_VALIDATION.fullmatch(name) for name in names):
        classes = len(synset_labels())
    return NamedLabels(dict(zip(names, values.to_pylist(), strict=True)), (file,), classes)


def _find(folder: Path, name: str) -> Path | None:
    """The nearest file of this name, in or above a folder or in the devkit unpacked there; None if there is none."""
    above = (folder, *folder.absolute().parents[:_LEVELS])
    found = (where / near / name for where in above for near in _NEAR)
    return next((file for file in found if file.is_file()), None)
