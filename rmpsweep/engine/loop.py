"""The time loop over one batch of rows.

Legend: T time steps, K settings (trials), R rows (pairs of a setting and an image).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from rmpsweep.engine import encode, neuron
from rmpsweep.engine.network import Node, SpikingNetwork, apply_linear, average_of_max_pool, per_channel, rearrange
from rmpsweep.engine.scales import LayerScale, Thresholds, scaled
from rmpsweep.errors import CalibrationError
from rmpsweep.terms import INPUT, SATURATED_RATE, AlphaScope, Encoding, MaxPool, Numerics, Reset, check_choice

DTYPES: dict[Numerics, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What one trial simulates. thresholds: layer -> θ (0-d or [C]), "input" -> Λ_0; v_init in fractions of θ."""

    thresholds: Thresholds
    alpha: float = 1.0
    alpha_scope: AlphaScope = "layer"
    reset: Reset = "soft"
    v_init: float = 0.0
    encoding: Encoding = "constant"
    max_pool: MaxPool = "count"
    seed: int = 0
    numerics: Numerics = "float32"

    def __post_init__(self) -> None:
        for name, choices in (
            ("reset", Reset), ("encoding", Encoding), ("max_pool", MaxPool), ("numerics", Numerics),
        ):  # fmt: skip
            check_choice(name, getattr(self, name), choices)
        if not 0 <= self.v_init < 1:
            raise ValueError(f"v_init: got {self.v_init}, expected 0 <= v_init < 1 (a fraction of the threshold)")


@dataclass
class State:
    """Everything a simulation carries from step to step, updated in place by `Rows`; row n belongs to image n.

    potentials: layer -> v [N, ...]; counts: layer and "input" -> nonzero outputs so far [N, ...];
    pools: max-pool node -> (input summed over steps, its pooled maximum); current: output summed over steps.
    """

    t: int = 0
    potentials: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)
    pools: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    current: Tensor | None = None


def _map(states: Sequence[State], combine: Callable[[list[Tensor]], Tensor]) -> State:
    first = states[0]
    return State(
        first.t,
        {k: combine([s.potentials[k] for s in states]) for k in first.potentials},
        {k: combine([s.counts[k] for s in states]) for k in first.counts},
        {k: (combine([s.pools[k][0] for s in states]), combine([s.pools[k][1] for s in states])) for k in first.pools},
        None if first.current is None else combine([s.current for s in states if s.current is not None]),
    )


def concatenate(states: Sequence[State]) -> State:
    """The states of several runs as one, rows in order."""
    return _map(states, torch.cat)


def select(state: State, rows: Tensor | slice) -> State:
    """Some rows of a state."""
    return _map([state], lambda tensors: tensors[0][rows])


@dataclass
class RowResult:
    """Per row: logits [T, R, classes]; spikes, synaptic operations and saturated neurons, [T, R] by layer; spike trains
    [steps, R, ...]."""

    logits: Tensor
    spike_counts: dict[str, Tensor]
    synops: dict[str, Tensor]
    saturated: dict[str, Tensor]
    spikes: dict[str, Tensor]
    state: State


class Rows:
    """One batch of rows of one kind: the per-row constants, and the time loop over them."""

    def __init__(
        self, net: SpikingNetwork, settings: Sequence[Setting], setting_of_row: Tensor, images: Tensor, ids: Tensor
    ) -> None:
        self.net, self.kind, device = net, settings[0], net.device
        self.images = images.to(device, net.dtype)
        self.ids = ids.to(device)
        scales = [scaled(net, s.thresholds, s.alpha, s.alpha_scope) for s in settings]
        index = setting_of_row if len(settings) > 1 else setting_of_row[:1]

        def rows(values: Sequence[Tensor | float], ndim: int) -> Tensor:
            """K values, each 0-d or [C] -> [R, 1 or C, 1, …], cast once from float64."""
            exact = torch.stack([torch.as_tensor(v, dtype=torch.float64).reshape(-1) for v in _broadcast(values)])
            table = exact.to(net.dtype)
            if not bool((torch.isfinite(table) & ((table != 0) == (exact != 0))).all()):
                raise CalibrationError(
                    f"thresholds times α give {exact.abs().max():.3g} to {exact.abs().min():.3g}, out of the range of "
                    f"{net.dtype}; use another α, alpha_scope: network, or numerics: float64"
                )
            return per_channel(table[index].to(device), ndim)

        self.seeds = torch.tensor([s.seed for s in settings])[setting_of_row].to(device)
        self.input_scale = rows([s[INPUT].unit for s in scales], 2)[:, 0].expand(len(self.images))
        self.threshold: dict[str, Tensor] = {}
        self.channel_weight: dict[str, Tensor] = {}
        self.start: dict[str, Tensor] = {}
        self.factor: dict[tuple[str, int], Tensor] = {}
        self.bias: dict[str, Tensor] = {}
        for node in net.nodes:
            ndim = len(node.shape) + 1
            if node.op == "spike":
                layer: list[LayerScale] = [s[node.name] for s in scales]
                self.threshold[node.name] = rows([s.threshold for s in layer], ndim)
                v_init = [s.threshold * setting.v_init for s, setting in zip(layer, settings, strict=True)]
                self.start[node.name] = rows(v_init, ndim)
                if any(s.channel_weight is not None for s in layer):
                    ones = torch.ones((), dtype=torch.float64)
                    weights = [ones if s.channel_weight is None else s.channel_weight for s in layer]
                    self.channel_weight[node.name] = rows(weights, ndim)
            if node.op == "add":
                for i, name in enumerate(node.inputs):
                    unit = net.node(name).unit
                    if unit != node.unit:
                        self.factor[node.name, i] = rows([s[unit].unit / s[node.unit].unit for s in scales], ndim)
            if node.name in net.weights and (bias := net.weights[node.name][1]) is not None:
                self.bias[node.name] = per_channel(bias, ndim) * rows([1 / s[node.unit].unit for s in scales], ndim)
        self.output_unit = rows([s[net.node(net.output).unit].unit for s in scales], 2)

    def simulate(
        self, steps: Sequence[int], start: int, state: State, fan_outs: Mapping[str, Tensor], record: bool
    ) -> RowResult:
        """Run from step `start` to steps[-1] and read off at every T of `steps`."""
        logits: list[Tensor] = []
        counts: dict[str, list[Tensor]] = {name: [] for name in fan_outs}
        synops: dict[str, list[Tensor]] = {name: [] for name in fan_outs}
        saturated: dict[str, list[Tensor]] = {name: [] for name in self.net.layers}
        trains: dict[str, list[Tensor]] = {name: [] for name in self.net.layers} if record else {}
        for t in range(start, steps[-1]):
            spikes, output = self.step(t, state, self.net.nodes)
            state.current = output.clone() if state.current is None else state.current + output
            for name, values in spikes.items():
                if name in state.counts:
                    state.counts[name] += values
                else:
                    state.counts[name] = values.clone()
                if record and name != INPUT:
                    trains[name].append(values.to(torch.uint8))
            if t + 1 in steps:
                logits.append(self.output_unit * state.current / (t + 1))
                for name, synapses in fan_outs.items():
                    count = state.counts[name].flatten(1).double()
                    counts[name].append(count.sum(1).to(torch.int64))
                    synops[name].append((count @ synapses.flatten().to(count)).to(torch.int64))
                    if name in saturated:
                        saturated[name].append((count >= SATURATED_RATE * (t + 1)).sum(1))
        state.t = steps[-1]
        return RowResult(
            torch.stack(logits),
            {name: torch.stack(c) for name, c in counts.items()},
            {name: torch.stack(c) for name, c in synops.items()},
            {name: torch.stack(c) for name, c in saturated.items()},
            {name: torch.stack(train) for name, train in trains.items()},
            state,
        )

    def step(self, t: int, state: State, nodes: Sequence[Node]) -> tuple[dict[str, Tensor], Tensor]:
        """Step t (0-based) through `nodes`: unit spikes by layer (and nonzero "input" elements), last node's value."""
        values: dict[str, Tensor] = {}
        spikes: dict[str, Tensor] = {}
        for node in nodes:
            x = [values[name] for name in node.inputs]
            match node.op:
                case "input":
                    value = self._encode(t)
                    spikes[INPUT] = (value != 0).to(value.dtype)
                case "conv" | "linear":
                    value = apply_linear(self.net, node, x[0])
                    if node.name in self.bias:
                        value = value + self.bias[node.name]
                case "avg_pool":
                    value = F.avg_pool2d(x[0], **node.options)
                case "max_pool":
                    value = self._max_pool(node, x[0], state)
                case "flatten" | "slice" | "pad":
                    value = rearrange(node, x[0])
                case "add":
                    left, right = (
                        v * self.factor[node.name, i] if (node.name, i) in self.factor else v for i, v in enumerate(x)
                    )
                    value = left + right
                case "spike":
                    if node.name not in state.potentials:
                        state.potentials[node.name] = self.start[node.name].expand_as(x[0]).clone()
                    value = neuron.step_(x[0], state.potentials[node.name], self.threshold[node.name], self.kind.reset)
                    spikes[node.name] = value
                    if node.name in self.channel_weight:
                        value = value * self.channel_weight[node.name]
            values[node.name] = value
        return spikes, value

    def _encode(self, t: int) -> Tensor:
        if self.kind.encoding == "constant":
            return encode.constant(self.images, self.input_scale)
        return encode.poisson(self.images, self.input_scale, self.seeds, self.ids, t)

    def _max_pool(self, node: Node, x: Tensor, state: State) -> Tensor:
        if self.kind.max_pool == "average":
            return average_of_max_pool(node, x)
        if self.kind.max_pool == "spike":
            pooled: Tensor = F.max_pool2d(x, **node.options)
            return pooled
        total, largest = x, torch.zeros(())
        if node.name in state.pools:
            previous, largest = state.pools[node.name]
            total = previous + x
        pooled = F.max_pool2d(total, **node.options)
        state.pools[node.name] = (total, pooled)
        return pooled - largest.to(pooled)


def _broadcast(values: Sequence[Tensor | float]) -> list[Tensor]:
    """0-d and [C] values side by side -> all of one shape."""
    return list(torch.broadcast_tensors(*[torch.as_tensor(v, dtype=torch.float64) for v in values]))
