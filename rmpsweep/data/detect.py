"""Detection of the source that a folder holds, for sweeps that leave it open: ImageNet is stored in many forms."""

import os
from pathlib import Path
from typing import NamedTuple

from rmpsweep.data.files import absolute
from rmpsweep.errors import DataError

_BY_SUFFIX = {".parquet": "parquet", ".tar": "webdataset", ".csv": "csv", ".tsv": "csv", ".txt": "csv"}
_INSIDE = ("", "data", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")
"""Subfolders that may hold the splits: the folder itself, or where Hugging Face and Kaggle put them."""
_ALIASES = {"val": "validation", "validation": "val"}


class Found(NamedTuple):
    """Arguments for `open_split`."""

    source: str
    path: str
    split: str


def detect(path: str | None, split: str) -> Found:
    """Find the source, its path, and the name that the split has there.

    Args:
        path: a folder, or a file or pattern whose extension tells the source. If a folder holds the split in several
            forms, a folder named after the split is preferred, then the first file by name.
        split: "val" also finds "validation", and the other way round.
    Raises:
        DataError: `path` is None, or no source reads what it holds.
    """
    if path is None:
        raise DataError("auto: path: got none, expected the folder that holds the images")
    whole = absolute(path)
    if not os.path.isdir(whole):
        file = path.partition("?")[0] if "://" in path else path
        if (source := _BY_SUFFIX.get(Path(file).suffix)) is not None:
            return Found(source, path, split)
        raise DataError(f"auto: path: got {path!r}, which is not a folder on this machine; name the source ({_FORMS})")
    for inside in _INSIDE:
        folder = Path(whole, inside)
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        for name in (split, *filter(None, [_ALIASES.get(split)])):
            if (source := _source_of(folder, names, name)) is not None:
                return Found(source, str(folder), name)
    if any((Path(whole) / name).is_dir() for name in os.listdir(whole)):
        return Found("imagefolder", path, split)  # whose message tells what is missing
    raise DataError(f"auto: path: got {path!r}, which holds no split {split!r} in any of these forms: {_FORMS}")


_FORMS = "imagefolder: SPLIT/CLASS/*.JPEG; parquet: SPLIT-*.parquet; webdataset: SPLIT-*.tar; csv: SPLIT.csv"


def _source_of(folder: Path, names: list[str], split: str) -> str | None:
    if split in names and (folder / split).is_dir():
        return "imagefolder"
    for name in names:
        stem, suffix = os.path.splitext(name)
        source = _BY_SUFFIX.get(suffix)
        if stem == split and source is not None and suffix != ".txt":
            return source
        if stem.startswith(f"{split}-") and source in ("parquet", "webdataset"):
            return source
    return None
