"""Labelled images: where they come from, how they are numbered, and how they become network input.

``sources`` opens a split; ``split`` says what a split is; ``transforms`` are the pixel transforms; ``digits``,
``cifar`` and ``parquet`` (with its ``index``) read one kind of storage each; ``cache`` keeps files between runs.
"""

from rmpsweep.data.cache import cache_dir
from rmpsweep.data.sources import SOURCES, OnBadImage, open_split
from rmpsweep.data.split import ImageSplit, Skipped, image_order
from rmpsweep.data.transforms import TRANSFORMS, Transform

__all__ = [
    "SOURCES", "TRANSFORMS", "ImageSplit", "OnBadImage", "Skipped", "Transform", "cache_dir", "image_order",
    "open_split",
]  # fmt: skip
