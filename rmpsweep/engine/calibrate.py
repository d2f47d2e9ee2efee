"""Finds thresholds from calibration images.

Except under activation_max_ema, they are exact: maxima and percentiles are order statistics over the whole fixed set.
Calibration always uses soft reset, v_init 0 and α 1, so the same thresholds serve both resets and every α.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Literal, assert_never

import torch
from torch import Tensor

from rmpsweep.engine.batches import find_program, make_batch, make_kernels
from rmpsweep.engine.constants import make_constants
from rmpsweep.engine.execute import layer_currents
from rmpsweep.engine.memory import make_memory_plan
from rmpsweep.engine.network import SpikingNetwork, activations
from rmpsweep.engine.numerics import CalibratedSetting
from rmpsweep.engine.reference import OnSteps, Rows, State
from rmpsweep.engine.scales import scaled, thresholds_from_scales
from rmpsweep.errors import CalibrationError
from rmpsweep.terms import INPUT, Encoding, Granularity, MaxPool, Numerics, check_choice, parse_rule


@torch.no_grad()
def calibrate(
    net: SpikingNetwork,
    images: Tensor,
    method: str = "vin_max",
    granularity: Granularity = "layer",
    encoding: Encoding = "constant",
    time_steps: int = 64,
    input_scale: float | Literal["auto"] = 1.0,
    seed: int = 0,
    max_pool: MaxPool = "count",
    image_ids: Sequence[int] | Tensor | None = None,
    batch_size: int = 64,
    on_steps: OnSteps = lambda _: None,
) -> dict[str, Tensor]:
    """Return the threshold of every spiking layer, found by one of these rules:

    - vin_*: the layers are calibrated in order, each while the spikes of the layers before it drive the network. θ_ℓ is
      the maximum (or a percentile) of the current z_ℓ over neurons, images and steps.
    - activation_*: Λ_ℓ is the maximum (or a percentile) of the ReLU output of the ANN.
    - activation_max_ema: Λ_ℓ is a moving average of the maxima of batches of `batch_size` images, in order. It begins
      with the first maximum; after each further batch it is 0.9 of the average so far plus 0.1 of the new maximum
      (spikingjelly 2.0.0, activation_based/ann2snn/modules.py, VoltageHook).

    The percentile p is the smallest observed value that at least p % of all values (zeros and negatives included) do
    not exceed. No threshold puts Λ_ℓ above the layer's ceiling.

    Args:
        images: [N, C, H, W], float32 or float64, which is the dtype that calibration computes in.
        method: the name of the rule, such as "vin_p99.7".
        granularity: "layer" (one θ) or "channel" ([C]). A channel for which the rule finds no value above 0 takes the
            largest θ of its layer, with a warning.
        encoding, time_steps, seed, max_pool: settings of the simulation behind vin_*.
        input_scale: Λ_0, or "auto" for the largest |x| of the images.
        image_ids: the key of Poisson spikes together with `seed`, int64 [N]; the default is 0, 1, 2, …
        batch_size: images per forward pass. Under activation_*, and under vin_* for a network that runs node by node,
            the last batch is padded, so that the shape never changes. A network with a program is simulated under vin_*
            in parts of a batch, as large as memory allows.
        on_steps: called as the calibration goes on; see `OnSteps`.
    Returns:
        layer -> θ_ℓ (float64, 0-d or [C]); "input" -> Λ_0.
    Raises:
        CalibrationError: the rule finds no value above 0 in any channel of a layer, because the layer is silent or the
            percentile is low; the message names the layer.
        ValueError: an argument is out of range, `method` is a rule whose thresholds are given (file:… or a function of
            the user's own), or activation_max_ema is asked for with granularity "channel".
    Source: Han, Srinivasan, Roy, CVPR 2020 (V_in^max); Rueckauer et al. 2017 (activation percentile). The exact order
    statistic in place of a moving average of batch maxima is ours.
    """
    rule, percent = parse_rule(method)
    check_choice("granularity", granularity, Granularity)
    if len(images) == 0 or time_steps < 1:
        raise ValueError(f"got {len(images)} images and time_steps={time_steps}, expected at least 1 of each")
    scale = float(images.abs().max()) if input_scale == "auto" else float(input_scale)
    if not 0 < scale < math.inf:
        raise ValueError(f"input_scale: got {scale}, expected a finite number > 0 or 'auto'")
    typed = net.to(dtype=images.dtype)
    ids = torch.arange(len(images)) if image_ids is None else torch.as_tensor(image_ids, dtype=torch.int64)
    batches = [_padded(rows, batch_size) for rows in torch.arange(len(images)).split(batch_size)]
    found: dict[str, Tensor] = {INPUT: torch.tensor(scale, dtype=torch.float64)}

    def statistic(layer: str, steps: int) -> _TopValues:
        shape = net.node(layer).shape
        groups = shape[0] if granularity == "channel" else 1
        return _TopValues(groups, len(images) * math.prod(shape) * steps // groups, percent)

    match rule.kind:
        case "vin":
            numerics: Numerics = "float64" if images.dtype == torch.float64 else "float32"
            unset = {name: torch.ones((), dtype=torch.float64) for name in net.layers}
            for layer in net.layers:
                setting = CalibratedSetting(
                    thresholds={**unset, **found}, encoding=encoding, seed=seed, max_pool=max_pool, numerics=numerics
                )
                top = statistic(layer, time_steps)
                for rows, num_real in batches:
                    of_batch = images[rows], ids[rows], num_real
                    _observe_current(typed, layer, setting, *of_batch, time_steps, top, on_steps)
                found[layer] = _checked(layer, top.result(), granularity)
                found[layer] = scaled(net, {**unset, **found}, 1.0, "layer")[layer].threshold  # lowered to the ceiling
            return found
        case "activation":
            tops = {layer: statistic(layer, 1) for layer in net.layers}
            for output in _outputs(typed, images, batches, on_steps):
                for layer in net.layers:
                    tops[layer].add(output[layer])
            found |= {layer: _checked(layer, top.result(), granularity) for layer, top in tops.items()}
            return thresholds_from_scales(net, found)
        case "activation_ema":
            if granularity != "layer":
                raise ValueError(f"granularity: got {granularity!r}, but {method} is defined for 'layer' alone")
            averages: dict[str, Tensor] = {}
            for output in _outputs(typed, images, batches, on_steps):
                for layer in net.layers:
                    largest = output[layer].max()
                    averages[layer] = 0.9 * averages[layer] + 0.1 * largest if layer in averages else largest
            found |= {
                layer: _checked(layer, value.double().cpu()[None], granularity) for layer, value in averages.items()
            }
            return thresholds_from_scales(net, found)
        case "file" | "own":
            raise ValueError(f"method: got {method!r}, whose thresholds are given, not calibrated")
        case _:
            assert_never(rule.kind)


def _outputs(
    net: SpikingNetwork, images: Tensor, batches: Sequence[tuple[Tensor, int]], on_steps: OnSteps
) -> Iterator[dict[str, Tensor]]:
    """Yield the ReLU outputs of every layer, one batch after another, without the rows that pad the batch."""
    for rows, num_real in batches:
        outputs = activations(net, images[rows].to(net.device), net.layers)
        on_steps(num_real)
        yield {layer: outputs[layer][:num_real] for layer in net.layers}


def _padded(rows: Tensor, size: int) -> tuple[Tensor, int]:
    return torch.cat([rows, rows[:1].expand(size - len(rows))]), len(rows)


def _observe_current(
    net: SpikingNetwork,
    layer: str,
    setting: CalibratedSetting,
    images: Tensor,
    ids: Tensor,
    num_real: int,
    time_steps: int,
    statistic: "_TopValues",
    on_steps: OnSteps,
) -> None:
    """Feed `statistic` with the current into `layer` at every step.

    The layers before it fire at the thresholds of `setting`.
    """
    constants = make_constants(net, [setting], math.inf)
    program = find_program(constants)
    rows = torch.zeros(len(images), dtype=torch.int64)
    if program is not None:
        kernels = make_kernels(constants, program)
        plan = make_memory_plan(program, constants.dtype.itemsize, num_real, 1, net.device)
        for part in torch.arange(num_real).split(plan.rows):
            batch = make_batch(constants, images, ids, part)
            for currents in layer_currents(kernels, batch, layer, time_steps, plan.chunk):
                statistic.add(currents.flatten(0, 1))
                on_steps(len(part) * len(currents))
        return
    nodes, state = net.needed_for(net.node(layer).inputs[0]), State()
    run = Rows(constants, rows, images, ids)
    for t in range(time_steps):
        _, current = run.step(t, state, nodes)
        statistic.add(current[:num_real])
        on_steps(num_real)


class _TopValues:
    """Finds an order statistic of a known number of values that arrive in pieces: keeps the k largest of each group."""

    def __init__(self, groups: int, num_values: int, percent: Fraction) -> None:
        self.groups = groups
        self.k = num_values - math.ceil(percent * num_values / 100) + 1
        self.largest: Tensor | None = None

    def add(self, values: Tensor) -> None:
        """Add values [N, C, ...] or [N, F]. The groups are the channels (or features), or all values are one group."""
        pieces = values.transpose(0, 1).reshape(self.groups, -1) if self.groups > 1 else values.reshape(1, -1)
        if self.largest is not None:
            pieces = torch.cat([self.largest, pieces], 1)
        self.largest = pieces.topk(min(self.k, pieces.shape[1]), dim=1, sorted=False).values

    def result(self) -> Tensor:
        """Return the k-th largest value of each group, [groups]."""
        assert self.largest is not None
        return self.largest.min(1).values.double().cpu()


def _checked(layer: str, values: Tensor, granularity: Granularity) -> Tensor:
    largest = values.max()
    if not largest > 0:
        raise CalibrationError(
            f"layer {layer!r} is silent: its threshold would be {float(largest):g}; "
            "use a higher percentile, more calibration images or steps, or check the weights"
        )
    if granularity == "layer":
        return largest
    silent = ~(values > 0)
    if bool(silent.any()):
        warnings.warn(
            f"layer {layer!r}: {int(silent.sum())} of {len(values)} channels are silent and take the layer's largest "
            "threshold",
            stacklevel=3,
        )
    return torch.where(silent, largest, values)
