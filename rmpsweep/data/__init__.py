"""Labelled images: where they come from, how they are numbered, and how they become network input.

``sources`` opens a split, and ``detect`` finds the source where a sweep leaves it open. ``split`` defines what a split
is, and ``transforms`` the pixel transforms. ``digits`` and ``cifar`` read files of their own kind; ``own`` takes images
from a function outside the package.

All other images are encoded in files. ``stored`` is a split of such images, and ``store`` the interface that every
packing implements: ``loose`` (folders and CSV lists), ``parquet`` and ``tars`` (WebDataset). ``index`` makes one pass
over a store; ``images`` decodes; ``classes`` and ``labels`` find the labels; ``files`` finds and opens files.

``prefetch`` decodes the images of a unit ahead of the simulation, ``decoded`` keeps decoded images between runs, and
``figures`` tells whether the engine waited for them. ``cache`` is the folder where files are kept between runs.
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
