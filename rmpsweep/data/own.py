"""Images from outside the package: a user's sequence of (image, label), such as a data set of torchvision."""

import hashlib
import operator
import threading
from typing import Any

import numpy as np

from rmpsweep.data.split import ImageSplit
from rmpsweep.data.transforms import Transform
from rmpsweep.environment import find_function
from rmpsweep.errors import DataError

KEY = "data.source"


class OwnSplit(ImageSplit):
    """The images of a user's sequence; an image_id is a position in the sequence.

    All images are read when the split is opened, since the fingerprint covers their contents.
    """

    def __init__(self, source: str, path: str | None, split: str, transform: Transform) -> None:
        """Call `factory(path, split)`, which `source` names as "package.module:factory".

        The factory returns a sequence of (image, label). An image is a PIL image or a uint8 array [H, W] or [H, W, C];
        a label is an integer >= 0. If the sequence has an attribute `classes`, it holds the class names by label.

        Raises:
            DataError: the factory cannot be imported, fails, or returns something else; or the images differ in shape,
                and the transform does not crop them to one size.
        """
        self._where = f"{KEY}: {source}"
        self._resizes, self._lock = bool(transform.resize or transform.crop), threading.Lock()
        factory = find_function(source, KEY, DataError)
        try:
            self._items = factory(path, split)
        except Exception as error:
            raise DataError(f"{self._where}: the factory failed: {type(error).__name__}: {error}") from error
        if not (hasattr(self._items, "__len__") and hasattr(self._items, "__getitem__")):
            got = type(self._items).__name__
            raise DataError(f"{self._where}: returned {got}, expected a sequence of (image, label)")
        if len(self._items) == 0:
            raise DataError(f"{self._where}: split {split!r} has no images; expected at least one")
        self._classes = tuple(map(str, getattr(self._items, "classes", ())))
        first, largest, content = self._item(0)[0], 0, hashlib.sha256()
        for position in range(len(self._items)):
            image, label = self._item(position)
            if image.shape != first.shape and not (transform.makes_one_size and image.shape[2] == first.shape[2]):
                raise DataError(
                    f"{self._where}: image {position}: got {_shape(image)}, the first one has {_shape(first)}; return "
                    "images of one size, or name a transform that crops: 'imagenet-224'"
                )
            content.update(f"{image.shape} {label}\0".encode() + image.tobytes())
            largest = max(largest, label)
        if self._classes and largest >= len(self._classes):
            raise DataError(f"{self._where}: got label {largest}, but `classes` has {len(self._classes)} names")
        height, width, channels = first.shape
        super().__init__(
            f"{source}/{split}",
            num_images=len(self._items),
            num_classes=len(self._classes) or None,
            max_label=largest,
            stored_shape=(channels, height, width),
            content=content.hexdigest(),
            transform=transform,
        )

    def class_names(self) -> tuple[str, ...]:
        """The class names in the sequence's attribute `classes`; empty if it has none."""
        return self._classes

    def _read(self, ids: np.ndarray) -> "tuple[Any, np.ndarray]":
        images, labels = zip(*(self._item(int(position)) for position in ids), strict=True)
        return images, np.array(labels, np.int64)

    def _item(self, position: int) -> tuple[np.ndarray, int]:
        """Read an image, uint8 [H, W, C], and its label."""
        where = f"{self._where}: image {position}"
        try:
            with self._lock:  # a sequence need not be safe to use from several threads
                image, label = self._items[position]
            pixels, number = _pixels(image), operator.index(label)
        except Exception as error:
            raise DataError(
                f"{where}: cannot be read as (image, label): {type(error).__name__}: {error}; expected a PIL image or "
                "a uint8 array [H, W] or [H, W, C], and an integer"
            ) from error
        if number < 0:
            raise DataError(f"{where}: got label {number}, expected 0 or more")
        if self._resizes and pixels.shape[2] != 3:
            raise DataError(
                f"{where}: got {_shape(pixels)}, but a transform that resizes or crops takes RGB images; return "
                "image.convert('RGB')"
            )
        return pixels, number


def _pixels(image: Any) -> np.ndarray:
    """Convert an image to uint8 [H, W, C]; PIL images become RGB, unless their mode is "L" (grey).

    Raises:
        TypeError: it is neither a PIL image nor a uint8 array of two or three dimensions.
    """
    if hasattr(image, "convert"):
        image = np.asarray(image if image.mode == "L" else image.convert("RGB"))
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3):
        got = f"{image.dtype} {list(image.shape)}" if hasattr(image, "shape") else type(image).__name__
        raise TypeError(f"got an image of {got}")
    return image[:, :, None] if image.ndim == 2 else image


def _shape(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]} pixels of {image.shape[2]} channels"
