"""What torchvision and timm say of the weights they publish: the transform they were made with, and their accuracy."""

import math
from pathlib import Path
from typing import Any, get_args

from rmpsweep.data.transforms import KEYS, TRANSFORMS, Interpolation, Transform
from rmpsweep.errors import DataError
from rmpsweep.models.external import TIMM_WEIGHTS, timm_data_config, torchvision_file, torchvision_weights
from rmpsweep.models.weights import SUFFIXES

TIMM_FILE = "model.safetensors"
"""The name of every file of weights that timm publishes."""
_REMEDY = f"name a preset ({', '.join(TRANSFORMS)}) or give {KEYS}"


def published_transform(network: str, weights: Path | None) -> Transform:
    """The transform that published weights were made with, from their own metadata.

    Args:
        network: "torchvision:NAME", "timm:NAME" or another; any, where `weights` is a file of torchvision's.
        weights: the name of published weights, or a file that has the name they are published under.
    Raises:
        DataError: weights that are not published, or whose transform is none of ours; lists the presets.
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
        f"transform: weights: the weights {weights} of {network} do not say it: torchvision's and timm's do, by their "
        f"name or the file's (such as resnet34-b627a593.pth); {_REMEDY}"
    )


def published_accuracy(network: str, weights: Path | None) -> float | None:
    """Top-1 accuracy on ImageNet-1K, a fraction, that torchvision states for weights of 1,000 classes; None if none.

    Args: as of `published_transform`.
    """
    found = _torchvision_weights(network, weights)
    if found is None or len(found.meta["categories"] or ()) != 1000:
        return None
    accuracy = found.meta["_metrics"].get("ImageNet-1K", {}).get("acc@1", math.nan)
    return None if math.isnan(accuracy) else accuracy / 100


def _torchvision_weights(network: str, weights: Path | None) -> Any:
    """A member of a torchvision classifier's enum of weights, by its name or its file's; None if there is none."""
    if weights is None:
        return None
    if weights.suffix == ".pth":
        return torchvision_file(weights.name)
    named = network.startswith("torchvision:") and weights.suffix not in SUFFIXES
    return torchvision_weights(network, str(weights)) if named else None


def _of_timm(network: str) -> Transform:
    """Resize and centre crop as timm.data.create_transform makes them for evaluation at the training size."""
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
