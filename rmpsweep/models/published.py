"""What torchvision and timm state about weights they publish: the transform of the images, and the accuracy."""

import math
from pathlib import Path
from typing import Any, get_args

from rmpsweep.data.transforms import KEYS, TRANSFORMS, Interpolation, Transform
from rmpsweep.errors import DataError
from rmpsweep.models.external import TIMM_WEIGHTS, timm_data_config, torchvision_file, torchvision_weights
from rmpsweep.models.weights import SUFFIXES

TIMM_FILE = "model.safetensors"
"""The name that timm gives every weights file it publishes."""
_REMEDY = f"name a preset ({', '.join(TRANSFORMS)}) or give {KEYS}"


def published_transform(network: str, weights: Path | None) -> Transform:
    """The transform that published weights were made with, from the library's metadata of these weights.

    Args:
        network: "torchvision:NAME" or "timm:NAME"; any name if `weights` is a file that torchvision publishes.
        weights: the name of published weights, or a file that has the name they are published under.
    Raises:
        DataError: the weights are not published, or no `Transform` equals theirs; the message lists the presets.
        NetworkError: the library has no such network or weights, or is not installed.
    """
    found = _torchvision_weights(network, weights)
    if found is not None:
        preset = found.transforms()
        return _checked(
            f"torchvision's {found}",
            preset.resize_size,
            preset.crop_size,
            preset.interpolation.value,
            preset.mean,
            preset.std,
        )
    if network.startswith("timm:") and weights is not None and weights.name in (TIMM_WEIGHTS, TIMM_FILE):
        return _of_timm(network)
    raise DataError(
        f"transform: weights: no transform is known for the weights {weights} of {network}; torchvision and timm state "
        f"one for weights they publish, found by name or file name (such as resnet34-b627a593.pth); {_REMEDY}"
    )


def published_accuracy(network: str, weights: Path | None) -> float | None:
    """The top-1 accuracy on ImageNet-1K, a fraction, that torchvision states for weights of 1,000 classes.

    It is None if torchvision publishes no file of this name or states no accuracy, and for networks and weights that
    are not torchvision's. The arguments are those of `published_transform`.

    Raises:
        NetworkError: `weights` is a name, and torchvision has no such classifier or no weights of this name.
    """
    found = _torchvision_weights(network, weights)
    if found is None or len(found.meta["categories"] or ()) != 1000:
        return None
    accuracy = found.meta["_metrics"].get("ImageNet-1K", {}).get("acc@1", math.nan)
    return None if math.isnan(accuracy) else accuracy / 100


def _torchvision_weights(network: str, weights: Path | None) -> Any:
    """A member of the weights enum of a torchvision classifier, by its name or by its file's; None if there is none."""
    if weights is None:
        return None
    if weights.suffix == ".pth":
        return torchvision_file(weights.name)
    named = network.startswith("torchvision:") and weights.suffix not in SUFFIXES
    return torchvision_weights(network, str(weights)) if named else None


def _of_timm(network: str) -> Transform:
    """The resize and centre crop that timm.data.create_transform makes for evaluation at the training size."""
    config = timm_data_config(network)
    _, height, width = config["input_size"]
    if height != width or config["crop_mode"] != "center":
        raise DataError(
            f"transform: weights: timm evaluates {network} at {height}x{width} with crop_mode {config['crop_mode']!r}, "
            f"expected a square and 'center'; {_REMEDY}"
        )
    resize = math.floor(height / config["crop_pct"])
    return _checked(f"timm's {network}", [resize], [height], config["interpolation"], config["mean"], config["std"])


def _checked(where: str, resize: Any, crop: Any, interpolation: Any, mean: Any, std: Any) -> Transform:
    known = get_args(Interpolation)
    if interpolation not in known:
        raise DataError(
            f"transform: weights: {where} resizes with interpolation {interpolation!r}, expected "
            f"{' or '.join(known)}; {_REMEDY}"
        )
    return Transform(resize=resize[0], interpolation=interpolation, crop=crop[0], mean=tuple(mean), std=tuple(std))
