"""CIFAR-10 and CIFAR-100 in the original batch files, read, checked and downloaded by torchvision.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

import hashlib
import pickle
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rmpsweep.data.split import ImageSplit
from rmpsweep.data.transforms import Transform
from rmpsweep.errors import DataError


@dataclass(frozen=True)
class _Layout:
    """Where the files of a data set are. The names repeat torchvision's, so that planning needs no torchvision."""

    torchvision_class: str
    folder: str
    num_classes: int
    files: dict[str, tuple[str, ...]]
    """Split -> the names of its batch files."""
    url: str


_LAYOUTS = {
    "cifar10": _Layout(
        "CIFAR10",
        "cifar-10-batches-py",
        10,
        {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    ),
    "cifar100": _Layout(
        "CIFAR100",
        "cifar-100-python",
        100,
        {"train": ("train",), "test": ("test",)},
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    ),
}
_NUM_IMAGES = {"train": 50_000, "test": 10_000}


class CifarSplit(ImageSplit):
    """A split of CIFAR-10 or CIFAR-100; the key of an image is its file name in the batch files."""

    def __init__(self, source: str, path: str | None, split: str, transform: Transform, download: bool) -> None:
        layout = _LAYOUTS[source]
        if path is None:
            raise DataError(f"{source}: path: got none, expected the folder that holds {layout.folder}/")
        if split not in layout.files:
            raise DataError(f"{source}: split: got {split!r}, expected one of {', '.join(layout.files)}")
        self._source, self._layout, self._split = source, layout, split
        self._root = Path(path).expanduser()
        files = self._files = [self._root / layout.folder / name for name in layout.files[split]]
        if download and not all(file.is_file() for file in files):
            self._open(download=True)
        content = hashlib.sha256()
        for file in files:
            if not file.is_file():
                raise DataError(f"{source}: {file}: missing; {self._remedy()}")
            with open(file, "rb") as stream:
                content.update(hashlib.file_digest(stream, "sha256").digest())
        super().__init__(
            f"{source}/{split}",
            num_images=_NUM_IMAGES[split],
            num_classes=layout.num_classes,
            max_label=layout.num_classes - 1,
            stored_shape=(3, 32, 32),
            content=content.hexdigest(),
            transform=transform,
        )

    def _remedy(self) -> str:
        return f"unpack {self._layout.url} in {self._root}, or let it be downloaded (download=True)"

    def _open(self, download: bool) -> Any:
        """Open torchvision's data set, which checks its files against the published checksums."""
        import torchvision.datasets

        try:
            return getattr(torchvision.datasets, self._layout.torchvision_class)(
                self._root, train=self._split == "train", download=download
            )
        except (OSError, RuntimeError) as error:
            what = "the download failed" if download else "files are missing or damaged"
            raise DataError(f"{self._source}: {self._root}: {what} ({error}); {self._remedy()}") from error

    @cached_property
    def _dataset(self) -> Any:
        return self._open(download=False)

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        dataset, names = self._dataset, list[str]()  # checks the files against the published checksums
        for file in self._files:
            with open(file, "rb") as stream:
                names += pickle.load(stream, encoding="latin1")["filenames"]
        by_key = np.argsort(np.array(names), kind="stable")
        return dataset.data[by_key], np.asarray(dataset.targets)[by_key]

    def class_names(self) -> tuple[str, ...]:
        """The class names in the file that comes with the batches."""
        return tuple(self._dataset.classes)

    def _read(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images, labels = self._arrays
        return images[ids], labels[ids]
