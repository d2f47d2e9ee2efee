"""Labelled images: where they come from, how they are numbered, and how they become network input.

``sources`` opens a split; ``split`` says what a split is; ``transforms`` are the pixel transforms. ``digits`` and
``cifar`` read their own files, ``own`` takes images from a function outside the package. Other images lie encoded in
files: ``stored`` is a split of them, ``store`` what a packing offers (``loose``: folders and CSV lists, ``parquet``,
``tars``: WebDataset), ``index`` the one pass over it, ``images`` decodes, ``classes`` and ``labels`` say the labels,
``files`` finds and opens. ``cache`` keeps files between runs.
"""

from rmpsweep.data.cache import cache_dir
from rmpsweep.data.files import absolute
from rmpsweep.data.sources import DEFAULT_TRANSFORMS, SOURCES, is_source, open_split
from rmpsweep.data.split import ImageSplit, OnBadImage, OnIndex, Skipped, image_order, positions
from rmpsweep.data.transforms import TRANSFORMS, Transform

__all__ = [
    "DEFAULT_TRANSFORMS",
    "SOURCES",
    "TRANSFORMS",
    "ImageSplit",
    "OnBadImage",
    "OnIndex",
    "Skipped",
    "Transform",
    "absolute",
    "cache_dir",
    "image_order",
    "is_source",
    "open_split",
    "positions",
]
