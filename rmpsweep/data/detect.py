"""Which of the sources a folder holds, where a sweep leaves that open: ImageNet lies in many forms."""

import os
from pathlib import Path
from typing import NamedTuple

from rmpsweep.data.files import absolute
from rmpsweep.errors import DataError

_BY_SUFFIX = {".parquet": "parquet", ".tar": "webdataset", ".csv": "csv", ".tsv": "csv", ".txt": "csv"}
_INSIDE = ("", "data", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")
"""Where people's folders have the splits: there, or as Hugging Face and Kaggle pack them."""
_ALIASES = {"val": "validation", "validation": "val"}


class Found(NamedTuple):
    """What `open_split` takes."""

    source: str
    path: str
    split: str


def detect(path: str | None, split: str) -> Found:
    """The source, its path and its own name of the split.

    Args:
        path: a folder, or a file or pattern whose extension says what it is; of several forms in one folder the split's
            own folder counts, else the first by name.
        split: "val" finds "validation" too, and the other way round.
    Raises:
        DataError: nothing there is any of them.
    """
    if path is None:
        raise DataError("auto: path: got none, expected the folder that holds the images")
    whole = absolute(path)
    if not os.path.isdir(whole):
        file = path.partition("?")[0] if "://" in path else path
        if (source := _BY_SUFFIX.get(Path(file).suffix)) is not None:
            return Found(source, path, split)
        raise DataError(f"auto: path: got {path!r}, which is no folder here; name the source ({_FORMS})")
    for inside in _INSIDE:
        folder = Path(whole, inside)
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        for name in (split, *filter(None, [_ALIASES.get(split)])):
            if (source := _source_of(folder, names, name)) is not None:
                return Found(source, str(folder), name)
    if any((Path(whole) / name).is_dir() for name in os.listdir(whole)):
        return Found("imagefolder", path, split)  # which says what it misses
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
