"""Load what a sweep names: its images, its trained and converted network, and thresholds that are given."""

import platform
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from rmpsweep.data import ImageSplit
from rmpsweep.engine import SpikingNetwork, convert, thresholds_from_scales
from rmpsweep.engine.scales import scaled
from rmpsweep.environment import find_function, source_digest
from rmpsweep.errors import CalibrationError, DataError, NetworkError
from rmpsweep.models.registry import build_any, build_from_module
from rmpsweep.models.weights import count_classes, put_weights, read_weights
from rmpsweep.storage import Location
from rmpsweep.sweep.schema import Data, Sweep
from rmpsweep.sweep.thresholds import GivenThresholds, OwnRule
from rmpsweep.terms import INPUT, Setting


def open_evaluated(sweep: Sweep, index: Location | None = None) -> ImageSplit:
    """Open the split that a sweep evaluates; `index` is that of `rmpsweep.data.open_split`. Raises DataError."""
    return sweep.data.open(sweep.data.split, index=index)


def open_planned(data: Data, split: str, index: Location, fingerprint: str) -> ImageSplit:
    """Open a split that has to be the one that was planned.

    Args:
        index: the folder of the index, as `rmpsweep.data.open_split` takes it.
        fingerprint: the fingerprint with which the split was planned.
    Raises:
        DataError: the split cannot be opened, or has another fingerprint.
    """
    found = data.open(split, index=index)
    if found.fingerprint != fingerprint:
        raise DataError(
            f"{data.path or data.source} on {platform.node()}: split {split!r} has the fingerprint "
            f"{found.fingerprint[:16]}, but the sweep was planned with {fingerprint[:16]}; put the same files there, "
            "on every node, or name a folder that all nodes share, and launch again"
        )
    return found


def load_network(sweep: Sweep, weights: Path, split: ImageSplit) -> tuple[nn.Module, SpikingNetwork]:
    """Load the trained ANN, in eval mode, and convert it.

    Raises:
        NetworkError: the network cannot be built or converted, the weights do not fit it, or its number of outputs is
            not that of the classes.
        DataError: the first image cannot be decoded.
    """
    image, _ = split.load([0])
    num_classes = split.num_classes or split.max_label + 1
    network = sweep.network
    state = read_weights(weights)
    if network.module is not None:
        ann = build_from_module(network.module)
    else:
        shape = image.shape[1], (image.shape[2], image.shape[3])
        if split.num_classes is None:  # the labels give a lower bound, the weights the number
            with torch.device("meta"):
                num_classes = max(num_classes, count_classes(build_any(network.label, num_classes, *shape), state))
        ann = build_any(network.label, num_classes, *shape)
    put_weights(ann, state, weights)
    del state
    ann.eval()
    with warnings.catch_warnings():  # calibration names the layer that is silent
        warnings.filterwarnings("ignore", ".*its output is the same for different images", UserWarning)
        net = convert(ann, image)
    outputs = net.node(net.output).shape
    if len(outputs) != 1 or outputs[0] < num_classes or (split.num_classes and outputs[0] != num_classes):
        raise NetworkError(
            f"{network.label}: its output has shape {list(outputs)}, but {split.name} has {num_classes} classes"
        )
    return ann, net


def given_thresholds(net: SpikingNetwork, given: GivenThresholds, setting: Setting) -> dict[str, Tensor]:
    """Return thresholds that are given for this network in the form in which `calibrate` returns them.

    Args:
        setting: its `input_scale` is taken if the input has no Λ_0 among the given values.
    Raises:
        CalibrationError: layers are missing or unknown, values do not fit the setting's granularity or the number of
            channels, or neither the values nor the setting give the input scale.
    """
    missing = [layer for layer in net.layers if layer not in given.values]
    unknown = [layer for layer in given.values if layer not in (INPUT, *net.layers)]
    if missing or unknown:
        raise CalibrationError(
            f"{given.origin}: missing {', '.join(missing) or 'none'}; unknown {', '.join(unknown) or 'none'}; "
            f"the layers are {', '.join(net.layers)}"
        )
    values = {layer: torch.tensor(value, dtype=torch.float64) for layer, value in given.values.items()}
    if setting.granularity == "layer" and any(value.numel() > 1 for value in values.values()):
        raise CalibrationError(f"{given.origin}: has thresholds per channel, the trial has granularity: layer")
    if INPUT not in values and setting.input_scale == "auto":
        raise CalibrationError(
            f"{given.origin}: has no {INPUT!r}, and input_scale is auto; give one of them as a number"
        )
    scalars = {layer: value[0] if value.numel() == 1 else value for layer, value in values.items()}
    complete = {INPUT: torch.as_tensor(setting.input_scale, dtype=torch.float64), **scalars}
    try:
        if given.scales:
            return thresholds_from_scales(net, complete)
        scaled(net, complete, 1.0, "layer")  # called for its checks of shapes and values
    except ValueError as error:
        raise CalibrationError(f"{given.origin}: {error}") from error
    return complete


def own_thresholds(net: SpikingNetwork, images: Tensor, rule: OwnRule, setting: Setting) -> dict[str, Tensor]:
    """Return the thresholds that a rule from outside the package finds, in the form in which `calibrate` returns them.

    Args:
        images: the calibration images [N, C, H, W], as the ANN gets them.
    Raises:
        CalibrationError: the rule cannot be imported here, is not the one that was planned, or fails; or it does not
            return a threshold greater than 0 for every layer, or one for every channel.
    """
    return given_thresholds(net, _apply(rule, net, images, setting), setting)


def check_given(net: SpikingNetwork, given: GivenThresholds | OwnRule, setting: Setting, data: Data) -> None:
    """Check that given thresholds fit a network. A rule from outside the package is tried on two images.

    Raises:
        CalibrationError: as from `given_thresholds` and `own_thresholds`.
        DataError: the images cannot be read.
    """
    if isinstance(given, OwnRule):
        split = data.open(data.calibration_split)
        images, _ = split.load(range(min(2, split.num_images)))
        tried = _apply(given, net, images, setting)
        # two images may leave a layer silent that is not silent over all of them
        values = {layer: tuple(1.0 if v <= 0 else v for v in channels) for layer, channels in tried.values.items()}
        given = replace(tried, values=values)
    given_thresholds(net, given, setting)


def _apply(rule: OwnRule, net: SpikingNetwork, images: Tensor, setting: Setting) -> GivenThresholds:
    where = f"grid.threshold: {rule.spec}"
    function = find_function(rule.spec, "grid.threshold", CalibrationError)
    if source_digest(rule.spec) != rule.source:
        raise CalibrationError(
            f"{where}: on {platform.node()} its module has another source than where the sweep was planned; put the "
            "same file there, on every node, and launch again"
        )
    try:
        found = function(net, images, setting.granularity)
    except Exception as error:
        raise CalibrationError(f"{where}: the rule failed: {type(error).__name__}: {error}") from error
    if not isinstance(found, Mapping):
        raise CalibrationError(f"{where}: returned {type(found).__name__}, expected a mapping of layers to thresholds")
    scale = float(images.abs().max()) if setting.input_scale == "auto" else float(setting.input_scale)
    values = {str(layer): _numbers(value, f"{where}: {layer}") for layer, value in found.items()}
    return GivenThresholds(where, False, {INPUT: (scale,), **values})


def _numbers(value: object, where: str) -> tuple[float, ...]:
    """Return one number, or one per channel, as floats. Raises CalibrationError for anything else."""
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        tensor = None
    if tensor is None or tensor.dim() > 1:
        shape = "" if tensor is None else f" of shape {list(tensor.shape)}"
        raise CalibrationError(
            f"{where}: got {type(value).__name__}{shape}, expected a number, or one for every channel"
        )
    return tuple(tensor.reshape(-1).tolist())
