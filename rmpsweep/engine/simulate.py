"""Simulates a converted network, in batches of images and trials.

Legend: T time steps, K settings (trials), N images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rmpsweep.engine.batches import Choice, by_nodes, by_program, find_program
from rmpsweep.engine.constants import make_constants
from rmpsweep.engine.network import SpikingNetwork
from rmpsweep.engine.numerics import CalibratedSetting, weights_kind
from rmpsweep.engine.reference import OnSteps, RowResult, State, concatenate, select
from rmpsweep.engine.scales import Thresholds
from rmpsweep.terms import FIGURES, INPUT, AlphaScope, Encoding, MaxPool, Numerics, Reset, Setting

NODES_ROWS = 32
"""The number of rows in a batch where a network runs node by node. Smaller batches are padded to it."""


@dataclass(frozen=True)
class Simulation:
    """The result of one setting.

    Every figure at time step T counts from step 1, even if the run continued from `start`.
    """

    time_steps: tuple[int, ...]
    """The step counts T at which the run was read out."""
    logits: Tensor
    """Floating point [len(time_steps), N, classes], in ANN units: Λ_m x the mean current over the first T steps,
    including the bias."""
    figures: dict[str, Tensor]
    """Layer and "input" -> int64 [F, len(time_steps)] in the order of FIGURES, summed over images and neurons."""
    spikes: dict[str, Tensor]
    """Layer -> uint8 [steps run, N, ...]; empty unless spikes were recorded."""
    state: State | None
    """Pass it to `simulate(..., state=, start=)` to continue the run. None if it was not kept."""

    @property
    def spike_counts(self) -> dict[str, Tensor]:
        """The number of spikes by layer, int64 [len(time_steps)]."""
        return {layer: counts for layer, counts in self._figure("spikes").items() if layer != INPUT}

    @property
    def input_spikes(self) -> Tensor:
        """The number of nonzero elements of the input, int64 [len(time_steps)]."""
        return self._figure("spikes")[INPUT]

    @property
    def synops(self) -> dict[str, Tensor]:
        """The synaptic operations, by the layer (or "input") that emits the spikes, int64 [len(time_steps)].

        Each nonzero output counts as many as its fan-out. Under constant encoding, those of the input are
        multiplications by an analog value, not additions.
        """
        return self._figure("synops")

    @property
    def saturated(self) -> dict[str, Tensor]:
        """The number of saturated pairs of image and neuron, by layer, int64 [len(time_steps)].

        A pair is saturated if the neuron emits SATURATED_RATE or more spikes per step for that image.
        """
        return {layer: counts for layer, counts in self._figure("saturated").items() if layer != INPUT}

    def _figure(self, name: str) -> dict[str, Tensor]:
        return {layer: figures[FIGURES.index(name)] for layer, figures in self.figures.items()}


def simulate(
    net: SpikingNetwork,
    images: Tensor,
    thresholds: Thresholds,
    time_steps: Sequence[int],
    alpha: float = 1.0,
    alpha_scope: AlphaScope = "layer",
    reset: Reset = "soft",
    v_init: float = 0.0,
    encoding: Encoding = "constant",
    max_pool: MaxPool = "count",
    seed: int = 0,
    image_ids: Sequence[int] | Tensor | None = None,
    numerics: Numerics = "float32",
    record_spikes: bool = False,
    state: State | None = None,
    start: int = 0,
    batch_size: int | None = None,
    chunk: int | None = None,
    kernels: Choice = "auto",
) -> Simulation:
    """Drive the network with images for max(time_steps) steps. Results at every smaller T come from the same run.

    Args:
        images: [N, C, H, W], as the ANN receives them.
        thresholds: layer -> θ_ℓ (0-d or [C]), "input" -> Λ_0, as `calibrate` returns them.
        time_steps: step counts in strictly ascending order, all > start.
        alpha, alpha_scope: scale the thresholds; see `rmpsweep.engine.scales`.
        v_init: the initial potential, as a fraction of θ, in [0, 1).
        seed, image_ids: the key of Poisson spikes; image_ids are int64 [N] and default to 0, 1, 2, …
        state, start: continue a run of `start` steps from its `Simulation.state`.
        batch_size, chunk: rows and time steps computed together; chosen by `memory` if not given. Neither affects
        results, with one exception: a network that runs node by node has batches of 32 rows if batch_size is not given,
        its floating-point results depend on batch_size, and chunk is not used.
        kernels: "auto" runs the kernels of the network's device, and "triton" the GPU kernels on any device (on the CPU
        that takes Triton's interpreter, TRITON_INTERPRET=1); both run node by node if no kernels can run the network.
        "reference" runs node by node, in one batch if batch_size is not given.
    Raises:
        ValueError: time_steps, start or state do not fit together, or α, a threshold, v_init or a word of the setting
            is not allowed; the message names the value, what was received and what is allowed.
        CalibrationError: a number or sum would be out of the range of the numerics, or rounding would change too much.
    """
    setting = {
        "thresholds": thresholds,
        "alpha": alpha,
        "alpha_scope": alpha_scope,
        "reset": reset,
        "v_init": v_init,
        "encoding": encoding,
        "max_pool": max_pool,
        "seed": seed,
        "numerics": numerics,
    }
    states = None if state is None else [state]
    return simulate_many(
        net,
        images,
        [setting],
        time_steps,
        image_ids=image_ids,
        record_spikes=record_spikes,
        states=states,
        start=start,
        batch_size=batch_size,
        chunk=chunk,
        kernels=kernels,
    )[0]


@torch.no_grad()
def simulate_many(
    net: SpikingNetwork,
    images: Tensor,
    settings: Sequence[Mapping[str, Any]],
    time_steps: Sequence[int],
    *,
    image_ids: Sequence[int] | Tensor | None = None,
    record_spikes: bool = False,
    states: Sequence[State] | None = None,
    start: int = 0,
    batch_size: int | None = None,
    chunk: int | None = None,
    kernels: Choice = "auto",
    keep_state: bool = True,
    on_steps: OnSteps = lambda _: None,
) -> list[Simulation]:
    """Run `simulate` for several settings at once, and compute only once what they share.

    Settings with the same weights are stacked in the batch, whatever their thresholds, α, reset and v_init. Unless the
    network runs node by node, the input is encoded once, and the first convolution computed once, for all settings that
    see the same input. Arguments that are not described here are those of `simulate`.

    Args:
        settings: the keyword arguments of `CalibratedSetting` for each setting.
        states: one `Simulation.state` for each setting, to continue runs of `start` steps; None begins new runs.
        keep_state: False if no `Simulation.state` is needed; a network that runs node by node keeps it nevertheless.
        on_steps: called as the run goes on; see `OnSteps`.
    Returns:
        One simulation for each setting, in the order of the settings.
    Raises:
        ValueError, CalibrationError: as from `simulate`.
    """
    steps = _checked_steps(time_steps, start)
    if (states is None) != (start == 0):
        raise ValueError(f"start: got {start} {'without' if states is None else 'with'} a state to continue from")
    ids = torch.arange(len(images)) if image_ids is None else torch.as_tensor(image_ids, dtype=torch.int64)
    parsed = [CalibratedSetting(**setting) for setting in settings]
    for state in states or ():
        if state.t != start or len(next(iter(state.potentials.values()))) != len(images):
            raise ValueError(f"state: got one of {state.t} steps, expected one of {start}, for {len(images)} images")
    groups: dict[tuple[object, ...], list[int]] = {}
    for k, setting in enumerate(parsed):
        groups.setdefault(weights_kind(net, setting), []).append(k)
    results: dict[int, Simulation] = {}
    for members in groups.values():
        group = [parsed[k] for k in members]
        smallest = min(float(setting.thresholds[INPUT]) for setting in group)
        constants = make_constants(net, group, float(images.abs().max()) / smallest)
        constants.check_steps(steps[-1])
        given = None if states is None else concatenate([states[k] for k in members])
        program = find_program(constants, kernels)
        if program is None:
            if constants.is_fixed and net.device.type != "cpu":  # GPUs have no integer convolutions
                constants = make_constants(net.to("cpu"), group, float(images.abs().max()) / smallest)
            rows = batch_size or (len(members) * len(images) if kernels == "reference" else NODES_ROWS)
            whole = by_nodes(constants, images, ids, steps, start, given, record_spikes, rows, on_steps)
        else:
            whole = by_program(
                constants,
                program,
                images,
                ids,
                steps,
                start,
                given,
                record_spikes,
                batch_size,
                chunk,
                keep_state,
                kernels == "triton",
                on_steps,
            )
        for position, k in enumerate(members):
            results[k] = _summed(whole, slice(position * len(images), (position + 1) * len(images)), steps)
    return [results[k] for k in range(len(parsed))]


def rounding_errors(
    net: SpikingNetwork, images: Tensor, setting: Setting, thresholds: Thresholds
) -> Mapping[str, float]:
    """Return what rounding to the integer grid is expected to change: `Constants.deviation` of a setting, by layer.

    It is empty in floating point.

    Raises:
        CalibrationError: a number or sum would be out of the range of the numerics, or rounding would change too much.
    """
    calibrated = CalibratedSetting(**asdict(setting), thresholds=thresholds)
    constants = make_constants(net, [calibrated], float(images.abs().max() / thresholds[INPUT]))
    return {layer: constants.deviation[layer] for layer in net.layers if layer in constants.deviation}


def _checked_steps(time_steps: Sequence[int], start: int) -> tuple[int, ...]:
    steps = tuple(int(t) for t in time_steps)
    if not steps or steps[0] <= start or any(a >= b for a, b in pairwise(steps)):
        raise ValueError(f"time_steps: got {list(time_steps)}, expected ascending step counts, all > {start}")
    return steps


def _summed(result: RowResult, rows: slice, steps: tuple[int, ...]) -> Simulation:
    return Simulation(
        steps,
        result.logits[:, rows].cpu(),
        {k: v[:, rows].sum(1).T.contiguous().cpu() for k, v in result.figures.items()},
        {k: v[:, rows].cpu() for k, v in result.spikes.items()},
        None if result.state is None else select(result.state, rows),
    )
