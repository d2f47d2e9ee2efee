"""Images to network input: the pixel transforms a sweep can name.

N = images, C = channels, H, W = height and width in pixels.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from rmpsweep.errors import DataError

if TYPE_CHECKING:
    import torch
    from PIL import Image

    Images = np.ndarray | Sequence[Image.Image]


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Resize and crop where set, scale pixels to [0, 1], then subtract the mean and divide by the standard deviation.

    The fields are what the data fingerprint covers. Results equal torchvision's Resize, CenterCrop, ToTensor,
    Normalize.

    Args:
        resize_bilinear: length of the shorter side after resizing (antialiased, on PIL images); None keeps the size.
        center_crop: side of the square cut out after resizing; None keeps everything.
        mean, std: per channel, in units of the [0, 1] scale; empty for no normalisation.
    """

    resize_bilinear: int | None = None
    center_crop: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __str__(self) -> str:
        steps = ["pixels to [0, 1]"]
        if self.center_crop:
            steps.insert(
                0, f"resize shorter side to {self.resize_bilinear} (bilinear), crop the central {self.center_crop}"
            )
        if self.mean:
            steps.append(f"mean {self.mean}, std {self.std}")
        return "; ".join(steps)

    def output_shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """[C, H, W] of an image of this size after the transform."""
        if self.center_crop:
            return channels, self.center_crop, self.center_crop
        return channels, height, width

    def __call__(self, images: "Images", pixel_max: int) -> "torch.Tensor":
        """Apply to uint8 arrays [N, H, W, C] or PIL images whose largest pixel value is pixel_max.

        Returns:
            float32 [N, C, H, W].
        """
        import torch

        if self.resize_bilinear:
            images = [self._resize_and_crop(image) for image in images]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
        x = pixels.permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(pixel_max)
        if self.mean:
            x.sub_(torch.tensor(self.mean).view(-1, 1, 1)).div_(torch.tensor(self.std).view(-1, 1, 1))
        return x

    def _resize_and_crop(self, image: "np.ndarray | Image.Image") -> "Image.Image":
        from PIL import Image
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        pil = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        pil = functional.resize(pil, [self.resize_bilinear], interpolation=InterpolationMode.BILINEAR, antialias=True)
        cropped: Image.Image = functional.center_crop(pil, [self.center_crop])
        return cropped


_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

TRANSFORMS: dict[str, Transform] = {
    "unit": Transform(),
    "cifar10": Transform(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    "cifar100": Transform(mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761)),
    "imagenet-224": Transform(resize_bilinear=256, center_crop=224, mean=_IMAGENET_MEAN, std=_IMAGENET_STD),
    "imagenet-norm": Transform(mean=_IMAGENET_MEAN, std=_IMAGENET_STD),
}


def find_transform(name: str) -> Transform:
    """The transform of this name. Raises DataError, listing the names, if there is none."""
    if name not in TRANSFORMS:
        raise DataError(f"transform: got {name!r}, expected one of {', '.join(TRANSFORMS)}")
    return TRANSFORMS[name]


def data_fingerprint(content: str, transform: Transform, pixel_max: int) -> str:
    """SHA-256 (hex) of the images' and labels' digest and of everything done to them on the way to the network."""
    spec = {"content": content, "pixel_max": pixel_max, "transform": asdict(transform)}
    return hashlib.sha256(json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
