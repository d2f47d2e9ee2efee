"""The time loop over one batch of rows, node by node: slow and obvious, in floating point or in integers.

Every fast path equals it: bit for bit in fixed numerics and wherever all sums are exact, and otherwise up to the order
of addition.
Legend: T time steps, K settings (trials), R rows (pairs of a setting and an image).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from rmpsweep.engine import encode, neuron
from rmpsweep.engine.network import Node, SpikingNetwork, apply_linear, average_of_max_pool, per_channel, rearrange
from rmpsweep.engine.numerics import FACTOR_BITS, INPUT_BITS, LIFT_BITS, Constants, quantize_input
from rmpsweep.terms import FIGURES, INPUT, SATURATED_RATE, Reset

Apply = Callable[[Tensor, Node, Tensor], Tensor]
OnSteps = Callable[[int], None]
"""Called, from any thread, with the number of row-steps (rows x time steps) that have newly been computed."""


@dataclass
class State:
    """Everything that a simulation carries from one step to the next, updated in place. Row n belongs to image n."""

    t: int = 0
    """The number of steps so far."""
    potentials: dict[str, Tensor] = field(default_factory=dict)
    """Spiking layer -> v, [N, ...]."""
    counts: dict[str, Tensor] = field(default_factory=dict)
    """Spiking layer and "input" -> the number of nonzero outputs so far, [N, ...]."""
    pools: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Max-pool node -> (its input summed over steps, its output summed over steps)."""
    inputs: Tensor | None = None
    """The input summed over steps. It is kept only if the read-out reads it."""


def _map(states: Sequence[State], combine: Callable[[list[Tensor]], Tensor]) -> State:
    first = states[0]
    return State(
        first.t,
        {k: combine([s.potentials[k] for s in states]) for k in first.potentials},
        {k: combine([s.counts[k] for s in states]) for k in first.counts},
        {k: (combine([s.pools[k][0] for s in states]), combine([s.pools[k][1] for s in states])) for k in first.pools},
        None if first.inputs is None else combine([s.inputs for s in states if s.inputs is not None]),
    )


def concatenate(states: Sequence[State]) -> State:
    """Join the states of several runs, with their rows in order."""
    return _map(states, torch.cat)


def select(state: State, rows: Tensor | slice) -> State:
    """Take some rows of a state."""
    return _map([state], lambda tensors: tensors[0][rows])


def cast(state: State, dtype: torch.dtype) -> State:
    """Return a copy in that dtype."""
    return _map([state], lambda tensors: tensors[0].to(dtype, copy=True))


@dataclass
class RowResult:
    """The result of R rows."""

    logits: Tensor
    """[T, R, classes], at the T reported step counts."""
    figures: dict[str, Tensor]
    """Layer and "input" -> int64 [T, R, F], in the order of FIGURES."""
    spikes: dict[str, Tensor]
    """Layer -> spike trains [steps run, R, ...]; empty unless spikes were recorded."""
    state: State | None
    """None if it was not kept."""


class LinearNodes:
    """Computes the nodes that are linear in their inputs, with the constants of R rows."""

    def __init__(self, constants: Constants, setting_of_row: Tensor, apply: Apply = apply_linear) -> None:
        """apply: computes a node's value without bias from weight, node and input."""
        self.constants, self.net, self.apply = constants, constants.net, apply
        self.setting_of_row = setting_of_row
        self.bias = {name: self.rows(table, name) for name, table in constants.bias.items()}
        self.factor = {(name, i): self.rows(table, name) for (name, i), table in constants.factor.items()}
        self.output_scale = self.rows(constants.output_scale, self.net.output)

    def rows(self, table: Tensor, name: str) -> Tensor:
        """Expand a table [K, 1 or C] so that it broadcasts over the rows of a node's output: [R, 1 or C, 1, …].

        With one setting, R is 1.
        """
        index = self.setting_of_row if len(self.constants.settings) > 1 else self.setting_of_row[:1]
        return per_channel(table[index], len(self.net.node(name).shape) + 1)

    def __call__(self, node: Node, x: Sequence[Tensor], steps: int = 1) -> Tensor:
        """Return the node's value for inputs that are summed over `steps` steps, in the dtype of the inputs."""
        match node.op:
            case "conv" | "linear":
                narrowing = self.constants.narrowed.get(node.name)
                read = x[0] if narrowing is None else _round_shift(x[0], narrowing)
                value = self._apply(self.constants.weights[node.name], node, read, steps)
                if node.name in self.constants.rounded:
                    value = _round_shift(value, INPUT_BITS)
                return value + self.bias[node.name].to(value) * steps if node.name in self.bias else value
            case "avg_pool" | "max_pool":
                return self._average(node, x[0])
            case "add":
                left, right = (
                    self._weighed(v, self.factor[node.name, i]) if (node.name, i) in self.factor else v
                    for i, v in enumerate(x)
                )
                return left + right
            case "flatten" | "slice" | "pad" | "concat":
                return rearrange(node, *x)
            case "input" | "spike":
                raise AssertionError(f"{node.name}: {node.op} nodes are not linear")
            case _:
                assert_never(node.op)

    def logits(self, sums: Mapping[str, Tensor], steps: int) -> Tensor:
        """Compute the logits from what was summed over `steps` steps, [R, classes].

        Floating-point sums are in float64.
        """
        wide = torch.int64 if self.constants.is_fixed else torch.float64
        values = {name: value.to(wide) for name, value in sums.items()}
        for node in self.net.readout:
            values[node.name] = self(node, [values[name] for name in node.inputs], steps)
        mean = self.output_scale * values[self.net.output].double() / steps
        return mean.float() if self.constants.numerics == "float32" else mean

    def _apply(self, weight: Tensor, node: Node, x: Tensor, steps: int) -> Tensor:
        if self.constants.is_fixed and steps == 1 and self.apply is apply_linear:
            # one step's sums are below 2^53: float64 is exact there, and its convolutions are faster than int64's
            return self.apply(weight.double(), node, x.double()).to(x.dtype)
        return self.apply(weight.to(x.dtype), node, x)

    def _weighed(self, x: Tensor, factor: Tensor) -> Tensor:
        return _round_shift(x * factor, FACTOR_BITS) if self.constants.is_fixed else x * factor.to(x)

    def _average(self, node: Node, x: Tensor) -> Tensor:
        if not self.constants.is_fixed:
            return average_of_max_pool(node, x) if node.op == "max_pool" else F.avg_pool2d(x, **node.options)
        exact = x.double() if x.is_cuda else x  # GPUs cannot pool integers; sums are below 2^53
        if node.op == "max_pool":
            sums = average_of_max_pool(node, exact, divisor=1)
        else:
            sums = F.avg_pool2d(exact, **{**node.options, "divisor_override": 1})
        return sums.to(x.dtype) * self.constants.multiplier[node.name]


class Rows:
    """One batch of rows: their constants, and the time loop over them."""

    def __init__(self, constants: Constants, setting_of_row: Tensor, images: Tensor, ids: Tensor) -> None:
        """setting_of_row: int64 [R]; images: [R, C, H, W]; ids: int64 [R]."""
        net = constants.net
        self.net, self.constants, self.kind = net, constants.to(net.device), constants.settings[0]
        self.linear = LinearNodes(self.constants, setting_of_row.to(net.device))
        self.images, self.ids = images.to(net.device), ids.to(net.device)
        self.seeds = torch.tensor([s.seed for s in constants.settings])[setting_of_row].to(net.device)
        self.input_scale = constants.input_scale[setting_of_row].to(net.device)
        self.threshold = {name: self.linear.rows(table, name) for name, table in self.constants.threshold.items()}
        self.start = {name: self.linear.rows(table, name) for name, table in self.constants.start.items()}
        resets: list[Reset] = [constants.settings[k].reset for k in setting_of_row.tolist()]
        self.rows_of_reset = {r: torch.tensor([r == own for own in resets], device=net.device) for r in set(resets)}
        self.read = read_out_of(net)
        self.driving = net.needed_for(*net.layers, *self.read)

    def simulate(
        self,
        steps: Sequence[int],
        start: int,
        state: State,
        fan_outs: Mapping[str, Tensor],
        record: bool,
        on_steps: OnSteps,
    ) -> RowResult:
        """Run from step `start` to steps[-1], and read out at every T in `steps`."""
        logits: list[Tensor] = []
        figures: dict[str, list[Tensor]] = {name: [] for name in fan_outs}
        trains: dict[str, list[Tensor]] = {name: [] for name in self.net.layers} if record else {}
        for t in range(start, steps[-1]):
            spikes, _ = self.step(t, state, self.driving)
            on_steps(len(self.images))
            for name, values in spikes.items():
                if name in state.counts:
                    state.counts[name] += values
                else:
                    state.counts[name] = values.clone()
                if record and name != INPUT:
                    trains[name].append(values.to(torch.uint8))
            if t + 1 in steps:
                logits.append(self.linear.logits(self._sums(state), t + 1))
                for name, synapses in fan_outs.items():
                    figures[name].append(_tally(state.counts[name], synapses, saturated_from(name, t + 1)))
        state.t = steps[-1]
        return RowResult(
            torch.stack(logits),
            {name: torch.stack(rows) for name, rows in figures.items()},
            {name: torch.stack(train) for name, train in trains.items()},
            state,
        )

    def step(self, t: int, state: State, nodes: Sequence[Node]) -> tuple[dict[str, Tensor], Tensor]:
        """Run step t (0-based) through `nodes`.

        Return the spikes (0 or 1) by layer, with the nonzero elements of the input under "input", and the value of the
        last node.
        """
        values: dict[str, Tensor] = {}
        spikes: dict[str, Tensor] = {}
        for node in nodes:
            x = [values[name] for name in node.inputs]
            match node.op:
                case "input":
                    value = self._encode(t)
                    spikes[INPUT] = (value != 0).to(value.dtype)
                    if INPUT in self.read:
                        state.inputs = value if state.inputs is None else state.inputs + value
                case "max_pool":
                    value = self._max_pool(node, x[0], state)
                case "spike":
                    current = x[0] << LIFT_BITS if node.name in self.constants.lifted else x[0]
                    if node.name not in state.potentials:
                        state.potentials[node.name] = self.start[node.name].expand_as(current).clone()
                    value = self._fire(node.name, current, state.potentials[node.name])
                    spikes[node.name] = value
                case "conv" | "linear" | "avg_pool" | "flatten" | "slice" | "pad" | "concat" | "add":
                    value = self.linear(node, x)
                case _:
                    assert_never(node.op)
            values[node.name] = value
        return spikes, value

    def _fire(self, layer: str, z: Tensor, v: Tensor) -> Tensor:
        spikes = torch.empty_like(z)
        for reset, rows in self.rows_of_reset.items():
            own, threshold = v[rows], self.threshold[layer]
            spikes[rows] = neuron.step_(z[rows], own, threshold if len(threshold) == 1 else threshold[rows], reset)
            v[rows] = own
        return spikes

    def _sums(self, state: State) -> dict[str, Tensor]:
        """Return what the read-out reads, summed over the steps so far."""
        sums = {name: state.counts[name] for name in self.read if name in self.net.layers}
        sums |= {name: output for name, (_, output) in state.pools.items() if name in self.read}
        return sums if state.inputs is None else {**sums, INPUT: state.inputs}

    def _encode(self, t: int) -> Tensor:
        dtype = self.constants.dtype
        if encode.is_spiking(self.kind.encoding):
            exact = torch.float64 if dtype == torch.float64 else torch.float32
            return encode.poisson(self.images.to(exact), self.input_scale, self.seeds, self.ids, t).to(dtype)
        if self.constants.is_fixed:
            return quantize_input(self.images, self.input_scale)
        return encode.constant(self.images.to(dtype), self.input_scale)

    def _max_pool(self, node: Node, x: Tensor, state: State) -> Tensor:
        total, before = state.pools.get(node.name, (torch.zeros_like(x), None))
        total = total + x
        match self.kind.max_pool:
            case "average":
                value = self.linear(node, [x])
            case "spike":
                value = F.max_pool2d(x, **node.options)
            case "count":
                largest = F.max_pool2d(total, **node.options)
                value = largest if before is None else largest - before
            case _:
                assert_never(self.kind.max_pool)
        state.pools[node.name] = (total, value if before is None else before + value)
        return value


def read_out_of(net: SpikingNetwork) -> set[str]:
    """Return the names of the nodes whose outputs, summed over steps, the read-out reads."""
    read = {net.output, *(name for node in net.readout for name in node.inputs)}
    return {name for name in read if net.node(name).op in ("input", "max_pool", "spike")}


def saturated_from(layer: str, steps: int) -> int:
    """Return how many spikes in `steps` steps make a neuron saturated. For the input the number is never reached."""
    return steps + 1 if layer == INPUT else math.ceil(SATURATED_RATE * steps)


def _tally(counts: Tensor, fan_out: Tensor, limit: int) -> Tensor:
    """Count the figures of each row, int64 [R, F]. counts: [R, ...]; fan_out: [...]; limit: see `saturated_from`."""
    exact = counts.flatten(1).double()
    table = {
        "spikes": exact.sum(1),
        "synops": exact @ fan_out.flatten().to(exact),
        "saturated": (exact >= limit).sum(1),
    }
    return torch.stack([table[figure].to(torch.int64) for figure in FIGURES], 1)


def _round_shift(x: Tensor, bits: int) -> Tensor:
    """Divide int64 values by 2^bits and round to the nearest integer, halves up."""
    return (x + (1 << (bits - 1))) >> bits
