"""What every split of images offers, whatever it is stored in, and slices of one."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from rmpsweep.data.transforms import Transform, data_fingerprint
from rmpsweep.errors import DataError

if TYPE_CHECKING:
    import torch

    from rmpsweep.data.transforms import Images
    from rmpsweep.storage import Location

OnBadImage = Literal["fail", "skip"]
OnIndex = Callable[[str, int, int | None], None]
"""Called while an index is made: the split's name, images done, and how many there are (None while they are listed)."""


@dataclass(frozen=True, order=True)
class Skipped:
    """An image left out. where: its file, and its key or place in it."""

    where: str
    reason: str


class ImageSplit(ABC):
    """Labelled images under stable numbers.

    An image_id is the rank of the image's key among the sorted keys of the split, so it does not depend on the order or
    the packing of storage. Attributes are known without decoding an image.

    Attributes:
        name: source and split, e.g. "digits/test".
        num_images: images in the split.
        num_classes: None where the storage does not say.
        max_label: the largest label, a lower bound of num_classes - 1.
        image_shape: [C, H, W] after the transform.
        pixel_max: the largest value a pixel can have, in what `pixels` gives.
        skipped: images that cannot be decoded and were left out, where that was asked for; they have no image_id.
        notes: what a person should know of the storage, such as files that were ignored, a sentence each.
        fingerprint: SHA-256 (hex) of keys, labels, image contents and transform.
    """

    def __init__(
        self,
        name: str,
        *,
        num_images: int,
        num_classes: int | None,
        max_label: int,
        stored_shape: tuple[int, int, int],
        content: str,
        transform: Transform,
        pixel_max: int = 255,
        skipped: tuple[Skipped, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> None:
        if transform.mean and len(transform.mean) != stored_shape[0]:
            raise DataError(
                f"{name}: transform: got mean and std of {len(transform.mean)} channels, the images have "
                f"{stored_shape[0]}; name one that fits, e.g. 'unit'"
            )
        self.name = name
        self.num_images = num_images
        self.num_classes = num_classes
        self.max_label = max_label
        self.image_shape = transform.output_shape(*stored_shape)
        self.fingerprint = data_fingerprint(content, transform, pixel_max)
        self.skipped, self.notes = skipped, notes
        self._transform = transform
        self.pixel_max = pixel_max

    def load(self, image_ids: "Sequence[int] | np.ndarray") -> "tuple[torch.Tensor, torch.Tensor]":
        """`pixels`, normalised: float32 [N, C, H, W], and labels int64 [N]."""
        pixels, labels = self.pixels(image_ids)
        return self.normalise(pixels), labels

    def pixels(self, image_ids: "Sequence[int] | np.ndarray") -> "tuple[torch.Tensor, torch.Tensor]":
        """Images, decoded, resized and cropped, and labels, in the order asked for; an id may repeat.

        Safe to call from several threads.

        Args:
            image_ids: at least one integer in [0, num_images), [N].
        Returns:
            uint8 [N, C, H, W], and labels int64 [N].
        Raises:
            DataError: no ids, ids out of range, or an image that cannot be decoded.
        """
        import torch

        ids = np.asarray(image_ids)
        if ids.ndim != 1 or len(ids) == 0 or ids.dtype.kind not in "iu":
            raise DataError(
                f"{self.name}: image_ids: got {ids.dtype} {list(ids.shape)}, expected integers, [N], N >= 1"
            )
        if ids.min() < 0 or ids.max() >= self.num_images:
            outside = ids[(ids < 0) | (ids >= self.num_images)][0]
            raise DataError(f"{self.name}: image_ids: got {outside}, expected 0 to {self.num_images - 1}")
        images, labels = self._read(ids.astype(np.int64))
        return self._transform.pixels(images), torch.from_numpy(labels.astype(np.int64))

    def normalise(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """What `pixels` gave, as network input: float32 [N, C, H, W]."""
        return self._transform.normalise(pixels, self.pixel_max)

    def keep_index(self, folder: "Location") -> None:  # noqa: B027
        """Put the index of the images, where there is one, into a folder that `open_split` then finds it in.

        Raises:
            StorageError: the folder cannot be written.
        """

    def class_names(self) -> tuple[str, ...]:
        """What the storage calls its classes, by label; empty where it does not say.

        Raises:
            DataError, StorageError: the storage cannot be read.
        """
        return ()

    @abstractmethod
    def _read(self, ids: np.ndarray) -> "tuple[Images, np.ndarray]":
        """Stored images (uint8 [N, H, W, C] or PIL) and labels [N]."""


class ImageSlice(ImageSplit):
    """Positions start to stop of a split's fixed order, as a split of their own.

    The order is a permutation, so that every slice is a fair sample, and equal images get equal slices in any storage.
    """

    def __init__(self, whole: ImageSplit, start: int, stop: int) -> None:
        self.name = f"{whole.name}[{start}:{stop}]"
        self.num_images = stop - start
        self.num_classes, self.max_label = whole.num_classes, whole.max_label
        self.image_shape, self.skipped, self.notes = whole.image_shape, whole.skipped, whole.notes
        self.fingerprint = hashlib.sha256(f"{whole.fingerprint}[{start}:{stop}]".encode()).hexdigest()
        self._transform, self.pixel_max = whole._transform, whole.pixel_max
        self._whole, self._ids = whole, np.sort(image_order(whole.num_images)[start:stop])

    def keep_index(self, folder: "Location") -> None:
        """The whole split's."""
        self._whole.keep_index(folder)

    def class_names(self) -> tuple[str, ...]:
        """The whole split's."""
        return self._whole.class_names()

    def _read(self, ids: np.ndarray) -> "tuple[Images, np.ndarray]":
        return self._whole._read(self._ids[ids])


def image_order(num_images: int) -> np.ndarray:
    """The fixed permutation of a split: position -> image_id, int64 [num_images]."""
    return np.random.RandomState(0).permutation(num_images).astype(np.int64)


def positions(num_images: int) -> np.ndarray:
    """The inverse of `image_order`: image_id -> position, int64 [num_images]."""
    return np.argsort(image_order(num_images))
