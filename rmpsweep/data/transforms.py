"""Pixel transforms, which turn images into network input; a sweep can name one or spell it out.

N = images, C = channels, H, W = height and width in pixels.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from rmpsweep.errors import DataError

if TYPE_CHECKING:
    import torch
    from PIL import Image

    Images = np.ndarray | Sequence[Image.Image]

Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Resize and crop if set, scale pixels to [0, 1], then subtract the mean and divide by the standard deviation.

    All fields are part of the data fingerprint. The results equal those of torchvision's Resize, CenterCrop, ToTensor
    and Normalize on PIL images.

    Raises:
        ValueError: a field is out of its range.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 (read by pydantic where transforms come from files)

    resize: int | None = None
    """The length of the shorter side after resizing (antialiased); None keeps the size."""
    interpolation: Interpolation = "bilinear"
    """How resizing interpolates; always bilinear if nothing is resized, so that equal transforms compare equal."""
    crop: int | None = None
    """The side of the central square that is cut out after resizing; None keeps everything."""
    mean: tuple[float, ...] = ()
    """The mean of each channel on the [0, 1] scale; empty for no normalisation."""
    std: tuple[float, ...] = ()
    """The standard deviation of each channel on the [0, 1] scale; empty for no normalisation."""

    def __post_init__(self) -> None:
        for name in ("resize", "crop"):
            if (side := getattr(self, name)) is not None and side < 1:
                raise ValueError(f"{name}: got {side}, expected 1 pixel or more, or none")
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean, std: got {len(self.mean)} and {len(self.std)} values, expected one per channel each"
            )
        if not all(math.isfinite(value) for value in self.mean):
            raise ValueError(f"mean: got {list(self.mean)}, expected finite numbers")
        if not all(0 < value < math.inf for value in self.std):
            raise ValueError(f"std: got {list(self.std)}, expected finite numbers > 0")
        if self.resize is None:
            object.__setattr__(self, "interpolation", "bilinear")

    def __str__(self) -> str:
        steps = []
        if self.resize:
            steps.append(f"resize shorter side to {self.resize} ({self.interpolation})")
        if self.crop:
            steps.append(f"crop the central {self.crop}")
        steps.append("pixels to [0, 1]")
        if self.mean:
            steps.append(f"mean {self.mean}, std {self.std}")
        return "; ".join(steps)

    @property
    def makes_one_size(self) -> bool:
        """Whether images of any size have the same size after the transform."""
        return self.crop is not None

    def output_shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """The shape [C, H, W] that an image of this size has after the transform."""
        if self.crop:
            return channels, self.crop, self.crop
        if self.resize:
            height, width = _resized(height, width, self.resize)
        return channels, height, width

    def pixels(self, images: "Images") -> "torch.Tensor":
        """Resize and crop images, uint8 [N, H, W, C] or PIL images. Returns uint8 [N, C, H, W]."""
        import torch

        return torch.from_numpy(self.shown(images)).permute(0, 3, 1, 2).contiguous()

    def shown(self, images: "Images") -> np.ndarray:
        """Do as `pixels` does, but return an array [N, H, W, C]. Only resizing and cropping load torch."""
        if self.resize or self.crop:
            images = [self._resize_and_crop(image) for image in images]
        return np.stack([np.asarray(image) for image in images])

    def normalise(self, pixels: "torch.Tensor", pixel_max: int) -> "torch.Tensor":
        """Turn what `pixels` returned into network input, float32 [N, C, H, W].

        Args:
            pixel_max: the largest value that a pixel can have; the scale maps it to 1.
        """
        import torch

        x = pixels.to(torch.float32).div_(pixel_max)
        if self.mean:
            x.sub_(torch.tensor(self.mean).view(-1, 1, 1)).div_(torch.tensor(self.std).view(-1, 1, 1))
        return x

    def _resize_and_crop(self, image: "np.ndarray | Image.Image") -> "Image.Image":
        from PIL import Image
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        pil = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        if self.resize:
            how = InterpolationMode(self.interpolation)
            pil = functional.resize(pil, [self.resize], interpolation=how, antialias=True)
        if self.crop:
            pil = functional.center_crop(pil, [self.crop])
        return pil


def _resized(height: int, width: int, shorter: int) -> tuple[int, int]:
    """The height and width after resizing, rounded as torchvision's Resize does."""
    if height <= width:
        return shorter, int(shorter * width / height)
    return int(shorter * height / width), shorter


_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

TRANSFORMS: dict[str, Transform] = {
    "unit": Transform(),
    "cifar10": Transform(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    "cifar100": Transform(mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761)),
    "imagenet-224": Transform(resize=256, crop=224, mean=_IMAGENET_MEAN, std=_IMAGENET_STD),
    "imagenet-224-bicubic": Transform(
        resize=256, interpolation="bicubic", crop=224, mean=_IMAGENET_MEAN, std=_IMAGENET_STD
    ),
    "imagenet-norm": Transform(mean=_IMAGENET_MEAN, std=_IMAGENET_STD),
}


WEIGHTS = "weights"
"""The name by which a sweep file asks for the transform that the published weights were made with."""

KEYS = ", ".join(Transform.__dataclass_fields__)


def find_transform(name: str) -> Transform:
    """The transform of this name.

    Raises:
        DataError: there is no such transform; the message lists the names.
    """
    if name not in TRANSFORMS:
        raise DataError(f"transform: got {name!r}, expected one of {', '.join(TRANSFORMS)}")
    return TRANSFORMS[name]


def data_fingerprint(content: str, transform: Transform, pixel_max: int) -> str:
    """The SHA-256 (hex) over the digest of images and labels, `content`, and everything that is done to the images."""
    spec = {"content": content, "pixel_max": pixel_max, "transform": asdict(transform)}
    return hashlib.sha256(json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
