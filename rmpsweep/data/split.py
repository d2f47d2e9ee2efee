"""The interface of a split of images, whatever the images are stored in, and slices of a split."""

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
"""Called while an index is made, with the name of the split, the number of images done, and the number of all images
(None while they are being listed)."""


@dataclass(frozen=True, order=True)
class Skipped:
    """An image that was left out."""

    where: str
    """The file of the image, with its key or its place in that file."""
    reason: str


class ImageSplit(ABC):
    """Labelled images under stable numbers.

    An image_id is the rank of the image's key among the sorted keys of the split, so it does not depend on the order or
    the packing of the images in storage. (Splits without keys number their images themselves.) All attributes are known
    once the split is open.

    Attributes:
        name: the source or folder and the split, such as "digits/test".
        num_images: the number of images in the split.
        num_classes: the number of classes; None if the storage does not tell it.
        max_label: the largest label, a lower bound of num_classes - 1.
        image_shape: [C, H, W] of an image after the transform.
        pixel_max: the largest value that a pixel can have in what `pixels` returns.
        skipped: images that cannot be decoded and were left out, if that was asked for; they have no image_id.
        notes: what a person should know about the storage, such as files that were ignored, in a sentence each.
        fingerprint: the SHA-256 (hex) of keys, labels, image contents and transform.
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
        """Like `pixels`, with the same exceptions, but normalised: float32 [N, C, H, W], and labels int64 [N]."""
        pixels, labels = self.pixels(image_ids)
        return self.normalise(pixels), labels

    def pixels(self, image_ids: "Sequence[int] | np.ndarray") -> "tuple[torch.Tensor, torch.Tensor]":
        """Read images, decoded, resized and cropped, and their labels, in the order asked for; an id may repeat.

        It is safe to call this from several threads.

        Args:
            image_ids: at least one integer in [0, num_images), [N].
        Returns:
            Pixels uint8 [N, C, H, W], and labels int64 [N].
        Raises:
            DataError: there are no ids, ids are out of range, or an image cannot be read or decoded.
            StorageError: remote files cannot be reached.
        """
        import torch

        images, labels = self._checked(image_ids)
        return self._transform.pixels(images), torch.from_numpy(labels.astype(np.int64))

    def shown(self, image_ids: "Sequence[int] | np.ndarray") -> np.ndarray:
        """Read the same pixels as `pixels` for people to look at: uint8 [N, H, W, C]. Raises as `pixels` does."""
        return self._transform.shown(self._checked(image_ids)[0])

    def _checked(self, image_ids: "Sequence[int] | np.ndarray") -> "tuple[Images, np.ndarray]":
        """Do as `_read` does, after a check of the ids."""
        ids = np.asarray(image_ids)
        if ids.ndim != 1 or len(ids) == 0 or ids.dtype.kind not in "iu":
            raise DataError(
                f"{self.name}: image_ids: got {ids.dtype} {list(ids.shape)}, expected integers, [N], N >= 1"
            )
        if ids.min() < 0 or ids.max() >= self.num_images:
            outside = ids[(ids < 0) | (ids >= self.num_images)][0]
            raise DataError(f"{self.name}: image_ids: got {outside}, expected 0 to {self.num_images - 1}")
        return self._read(ids.astype(np.int64))

    def normalise(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Turn what `pixels` returned into network input: float32 [N, C, H, W]."""
        return self._transform.normalise(pixels, self.pixel_max)

    def keep_index(self, folder: "Location") -> None:  # noqa: B027
        """Put the index of the images, if there is one, into a folder, where `open_split` can find it.

        Raises:
            StorageError: the folder cannot be written.
        """

    def class_names(self) -> tuple[str, ...]:
        """The names that the storage gives its classes, by label; empty if it gives none.

        Raises:
            DataError, StorageError: the storage cannot be read.
        """
        return ()

    @abstractmethod
    def _read(self, ids: np.ndarray) -> "tuple[Images, np.ndarray]":
        """Read stored images (uint8 [N, H, W, C] or PIL images) and labels [N]."""


class ImageSlice(ImageSplit):
    """The images at positions [start, stop) of a split's fixed order, as a split of their own.

    The fixed order is a permutation, so every slice is a fair sample. Equal images have equal slices in any storage.
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
        """Put the index of the whole split into a folder."""
        self._whole.keep_index(folder)

    def class_names(self) -> tuple[str, ...]:
        """The class names of the whole split."""
        return self._whole.class_names()

    def _read(self, ids: np.ndarray) -> "tuple[Images, np.ndarray]":
        return self._whole._read(self._ids[ids])


def image_order(num_images: int) -> np.ndarray:
    """The fixed permutation of a split: position -> image_id, int64 [num_images]."""
    return np.random.RandomState(0).permutation(num_images).astype(np.int64)


def positions(num_images: int) -> np.ndarray:
    """The inverse of `image_order`: image_id -> position, int64 [num_images]."""
    return np.argsort(image_order(num_images))
