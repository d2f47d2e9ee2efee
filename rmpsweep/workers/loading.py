"""What a sweep names, loaded: its images, its network with the weights in it and converted, thresholds from a file."""

import platform
from pathlib import Path

import torch
from torch import Tensor, nn

from rmpsweep.data import ImageSplit
from rmpsweep.engine import SpikingNetwork, convert, thresholds_from_scales
from rmpsweep.errors import CalibrationError, DataError, NetworkError
from rmpsweep.models.registry import build_any, build_from_module
from rmpsweep.models.weights import count_classes, put_weights, read_weights
from rmpsweep.storage import Location
from rmpsweep.sweep.schema import Data, Sweep
from rmpsweep.sweep.thresholds import GivenThresholds
from rmpsweep.terms import INPUT, Setting


def open_evaluated(sweep: Sweep, index: Location | None = None) -> ImageSplit:
    """The split a sweep evaluates; index: as of `rmpsweep.data.open_split`. Raises DataError."""
    return sweep.data.open(sweep.data.split, index=index)


def open_planned(data: Data, split: str, index: Location, fingerprint: str) -> ImageSplit:
    """A split, which has to be the one that was planned. Raises DataError."""
    found = data.open(split, index=index)
    if found.fingerprint != fingerprint:
        raise DataError(
            f"{data.path or data.source} on {platform.node()}: split {split!r} has the fingerprint "
            f"{found.fingerprint[:16]}, but the sweep was planned with {fingerprint[:16]}; put the same files there, "
            "on every node, or name a folder that all nodes share, and launch again"
        )
    return found


def load_network(sweep: Sweep, weights: Path, split: ImageSplit) -> tuple[nn.Module, SpikingNetwork]:
    """The trained ANN, in eval mode, and its conversion.

    Raises:
        NetworkError: it cannot be built or converted, its weights do not fit, or it has another number of classes than
            the labels. DataError: the first image cannot be decoded.
    """
    image, _ = split.load([0])
    num_classes = split.num_classes or split.max_label + 1
    network = sweep.network
    state = read_weights(weights)
    if network.module is not None:
        ann = build_from_module(network.module)
    else:
        shape = image.shape[1], (image.shape[2], image.shape[3])
        if split.num_classes is None:  # its labels are a lower bound, the weights say
            with torch.device("meta"):
                num_classes = max(num_classes, count_classes(build_any(network.label, num_classes, *shape), state))
        ann = build_any(network.label, num_classes, *shape)
    put_weights(ann, state, weights)
    del state
    ann.eval()
    net = convert(ann, image)
    outputs = net.node(net.output).shape
    if len(outputs) != 1 or outputs[0] < num_classes or (split.num_classes and outputs[0] != num_classes):
        raise NetworkError(
            f"{network.label}: its output has shape {list(outputs)}, but {split.name} has {num_classes} classes"
        )
    return ann, net


def given_thresholds(net: SpikingNetwork, given: GivenThresholds, setting: Setting) -> dict[str, Tensor]:
    """The thresholds of a file for this network, as `calibrate` returns them.

    Raises:
        CalibrationError: layers are missing or unknown, or do not have the setting's granularity or their channels.
    """
    missing = [layer for layer in net.layers if layer not in given.values]
    unknown = [layer for layer in given.values if layer not in (INPUT, *net.layers)]
    if missing or unknown:
        raise CalibrationError(
            f"{given.path}: missing {', '.join(missing) or 'none'}; unknown {', '.join(unknown) or 'none'}; "
            f"the layers are {', '.join(net.layers)}"
        )
    values = {layer: torch.tensor(value, dtype=torch.float64) for layer, value in given.values.items()}
    if setting.granularity == "layer" and any(value.numel() > 1 for value in values.values()):
        raise CalibrationError(f"{given.path}: has thresholds per channel, the trial has granularity: layer")
    if INPUT not in values and setting.input_scale == "auto":
        raise CalibrationError(f"{given.path}: has no {INPUT!r}, and input_scale is auto; give one of them as a number")
    scalars = {layer: value[0] if value.numel() == 1 else value for layer, value in values.items()}
    complete = {INPUT: torch.as_tensor(setting.input_scale, dtype=torch.float64), **scalars}
    try:
        as_scales = thresholds_from_scales(net, complete)
    except ValueError as error:
        raise CalibrationError(f"{given.path}: {error}") from error
    return as_scales if given.scales else complete
