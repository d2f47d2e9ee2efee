"""1,797 real handwritten digits in ten classes, 8x8 pixels with values 0 to 16, in a file that comes with the package.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998 (the
test part), as packed by scikit-learn. ``digits_license.txt`` holds the terms.
"""

import gzip
import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np

from rmpsweep.data.split import ImageSplit
from rmpsweep.data.transforms import Transform
from rmpsweep.errors import DataError

FILE = Path(__file__).with_name("digits.csv.gz")
"""Each line of this file holds 64 pixels and the label."""
NUM_ROWS = 1797
NUM_TRAIN = 1297
SPLITS = ("train", "test")


class DigitsSplit(ImageSplit):
    """A split of the digits: the first 1,297 rows of a fixed permutation are "train", the other 500 are "test"."""

    def __init__(self, path: str | None, split: str, transform: Transform) -> None:
        if path is not None:
            raise DataError(f"digits: path: got {path!r}, expected none: the images come with rmpsweep")
        if split not in SPLITS:
            raise DataError(f"digits: split: got {split!r}, expected one of {', '.join(SPLITS)}")
        permutation = np.random.RandomState(0).permutation(NUM_ROWS)
        self._rows = np.sort(permutation[:NUM_TRAIN] if split == "train" else permutation[NUM_TRAIN:])
        content = hashlib.sha256(FILE.read_bytes())
        content.update(self._rows.astype("<i8").tobytes())
        super().__init__(
            f"digits/{split}",
            num_images=len(self._rows),
            num_classes=10,
            max_label=9,
            stored_shape=(1, 8, 8),
            content=content.hexdigest(),
            transform=transform,
            pixel_max=16,
        )

    @cached_property
    def _table(self) -> np.ndarray:
        with gzip.open(FILE, "rt") as file:
            return np.loadtxt(file, delimiter=",", dtype=np.uint8)

    def _read(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = self._table[self._rows[ids]]
        return rows[:, :64].reshape(-1, 8, 8, 1), rows[:, 64]
