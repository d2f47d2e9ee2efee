"""Computes the constants of a group of settings on the integer grid that `numerics` describes.

Beside them, it tells what their rounding does: by how much the current of every spiking layer can differ in one step
from that of exact arithmetic, given the same spikes and images, and what the standard deviation of that difference is
if the roundings are independent.
"""

import math
from dataclasses import dataclass
from typing import Any, assert_never

import torch
from torch import Tensor

from rmpsweep.engine.builder import Builder, by_channel, weighed
from rmpsweep.engine.encode import is_spiking
from rmpsweep.engine.network import Node, per_channel, rearrange
from rmpsweep.engine.numerics import (
    EXACT_SUM,
    EXACT_TOTAL,
    FACTOR_BITS,
    INPUT_BITS,
    JUNCTION_BITS,
    LARGEST_WEIGHT,
    LIFT_BITS,
    MOST_DEVIATION,
    NARROW_BITS,
    SILENT_BITS,
    common_divisor,
)
from rmpsweep.errors import CalibrationError


@dataclass(frozen=True)
class _Quantized:
    """The weights of a layer on its grid."""

    weight: Tensor
    """w_q, int16 or int8, in the shape of the ANN's weight."""
    step: Tensor
    """The grid step of each output, float64 [C]."""
    total: int
    """The largest Σ |w_q| of an output."""
    size: "_Norms"
    """The norms of W / step of each output."""
    residue: "_Norms"
    """The norms of W / step - w_q of each output."""


@dataclass(frozen=True)
class _Norms:
    """The sum of the absolute values of some numbers, and the root of the sum of their squares; float64 [1 or C]."""

    sum: Tensor
    root: Tensor

    @staticmethod
    def of(number: float) -> "_Norms":
        """The norms of one number."""
        return _Norms(*(torch.full((1,), abs(number), dtype=torch.float64) for _ in range(2)))

    def __add__(self, other: "_Norms") -> "_Norms":
        return _Norms(self.sum + other.sum, (self.root.square() + other.root.square()).sqrt())

    def __mul__(self, factor: "_Norms | float | Tensor") -> "_Norms":
        if isinstance(factor, _Norms):
            return _Norms(self.sum * factor.sum, self.root * factor.root)
        return _Norms(self.sum * factor, self.root * factor)

    def largest(self) -> "_Norms":
        return _Norms(self.sum.max()[None], self.root.max()[None])


ROUNDED = _Norms(torch.tensor([0.5], dtype=torch.float64), torch.tensor([1 / math.sqrt(12)], dtype=torch.float64))
"""What rounding to an integer changes."""


class GridBuilder(Builder):
    """The constants on the integer grid. For each node:

    - `grid` is what the integer 1 stands for in the node's unit, float64 [1 or C]. It is 0 for a channel that never
      holds anything but 0, because it only pads.
    - `weighted` is whether the node holds sums of weights, rather than spikes or sums of spikes.
    - `analog` is whether it is computed from constant input with no spiking layer in between.
    - `reach` bounds its value in one step, up to biases and junctions. Unlike `largest` it is the same for all settings
      and images.
    - `value` and `rounding` tell how large its value in one step is, and by how much it differs from that of exact
      arithmetic, both in grid steps [1 or C]: `sum` is a bound, and `root` the root mean square if all inputs spike and
      their weights and roundings are independent.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.grid: dict[str, Tensor] = {}
        self.weighted: dict[str, bool] = {}
        self.analog: dict[str, bool] = {}
        self.reach: dict[str, int] = {}
        self.value: dict[str, _Norms] = {}
        self.rounding: dict[str, _Norms] = {}

    def add(self, node: Node) -> None:
        name, sources = node.name, node.inputs
        self.weighted[name] = node.op != "spike" and any(self.weighted[i] for i in sources)
        self.analog[name] = node.op != "spike" and bool(sources) and all(self.analog[i] for i in sources)
        one = torch.ones(1, dtype=torch.float64)
        match node.op:
            case "input":
                constant = not is_spiking(self.settings[0].encoding)
                self.analog[name] = constant
                self.grid[name] = one / 2.0**INPUT_BITS if constant else one
                self.reach[name] = 1 << INPUT_BITS if constant else 1
                self.value[name] = _Norms.of(self.largest_input * 2.0**INPUT_BITS if constant else 1)
                self.rounding[name] = ROUNDED if constant else _Norms.of(0)
                self._bound(node, self.largest_input * 2.0**INPUT_BITS + 1 if constant else 1.0)
            case "conv" | "linear":
                self._add_weighted(node)
            case "avg_pool":
                self._add_pool(node)
            case "max_pool":
                self._add_max_pool(node)
            case "flatten" | "slice" | "pad":
                self.grid[name] = self._rearranged(node, self.grid[sources[0]])
                self._pass_on(node)
            case "concat":
                self.grid[name] = self._concatenated(node)
                self._pass_on(node)
            case "add":
                self._add_junction(node)
            case "spike":
                self._add_threshold(node)
                self.grid[name], self.reach[name] = one, 1
                self.value[name], self.rounding[name] = _Norms.of(1), _Norms.of(0)
                self._bound(node, 1.0)
            case _:
                assert_never(node.op)

    def output_grid(self) -> Tensor:
        output = self.net.output
        if self.net.node(output).op != "spike":
            self._note_error(output, self.rounding[output] * (1 / self.value[output].sum), "largest outputs")
        return self.grid[output]

    def _pass_on(self, node: Node) -> None:
        """Bound a node that holds values of the nodes that it reads."""
        self.reach[node.name] = max(self.reach[i] for i in node.inputs)
        for norms in (self.value, self.rounding):
            parts = [norms[i] for i in node.inputs]
            joined = _Norms(torch.cat([part.sum for part in parts]), torch.cat([part.root for part in parts]))
            norms[node.name] = joined.largest()
        self._bound(node, max(self.largest[i] for i in node.inputs))

    def _add_max_pool(self, node: Node) -> None:
        max_pool = self.settings[0].max_pool
        match max_pool:
            case "average":
                self._add_pool(node)
            case "count" | "spike":
                self.grid[node.name] = self.grid[node.inputs[0]]
                self._pass_on(node)
            case _:
                assert_never(max_pool)

    def _add_weighted(self, node: Node) -> None:
        name, source = node.name, node.inputs[0]
        weight, entering, grid = self.net.weights[name][0].cpu(), self.entering(node), self.grid[source]
        if len(grid) > 1:  # each input channel has its own grid: fold it in
            entering, grid = self.by_output(node, grid) * (1 if entering is None else entering), torch.ones(1).double()
        of = self.net.remember(
            self.kind, f"quantized {name}", lambda: self._quantize(weight, entering, name in self.readout)
        )
        self.weights[name] = of.weight
        self.grid[name] = of.step * grid
        reach, largest = self.reach[source], self.largest[source]
        value, rounding = self.value[source].largest(), self.rounding[source].largest()
        narrowing = (reach * of.total >> NARROW_BITS).bit_length()
        if narrowing:
            self.narrowed[name] = narrowing
            self.grid[name] = self.grid[name] * 2.0**narrowing
            reach, largest = (reach >> narrowing) + 1, largest / 2.0**narrowing + 1
            value, rounding = value * 2.0**-narrowing, rounding * 2.0**-narrowing + ROUNDED
        reach, bound = reach * of.total, of.total * largest
        value, rounding = of.size * value, of.residue * value + of.size * rounding
        if self.analog[source] and not self.weighted[source]:
            self._check(node, bound)
            self.grid[name] = self.grid[name] * 2.0**INPUT_BITS
            reach, bound = (reach >> INPUT_BITS) + 1, bound / 2.0**INPUT_BITS + 1
            value, rounding = value * 2.0**-INPUT_BITS, rounding * 2.0**-INPUT_BITS + ROUNDED
            self.rounded.add(name)
        bias = self.net.weights[name][1]
        if bias is not None:
            table = bias.double().cpu() / self.units(node.scale_of)[:, None] / self.grid[name]
            self.bias[name] = self._integers(node, table)
            largest_bias = float(self.bias[name].abs().max())
            bound += largest_bias
            value, rounding = value + _Norms.of(largest_bias), rounding + ROUNDED
        self.weighted[name] = True
        self.reach[name], self.value[name], self.rounding[name] = reach, value, rounding
        self._bound(node, bound)

    def _quantize(self, weight: Tensor, entering: Tensor | None, one_scale: bool) -> _Quantized:
        largest = torch.cat([weighed(w, entering, i).abs().flatten(1).amax(1) for i, w in _pieces(weight)])
        top = largest.max()
        if one_scale:
            largest = top.expand_as(largest)
        silent = torch.where(top > 0, top, 1.0) / 2.0**SILENT_BITS
        step = torch.where(largest > 0, largest, silent) / LARGEST_WEIGHT[self.numerics]
        quantized = torch.empty(weight.shape, dtype=torch.int16 if self.numerics == "fixed16" else torch.int8)
        total, size, residue = (
            0,
            _Norms(*torch.zeros(2, len(step)).double()),
            _Norms(*torch.zeros(2, len(step)).double()),
        )
        for i, w in _pieces(weight):
            outputs = slice(i, i + len(w))
            exact = weighed(w, entering, i).flatten(1) / step[outputs, None]
            rows = exact.round()
            total = max(total, int(rows.abs().sum(1).max()))
            for norms, values in ((size, exact), (residue, exact - rows)):
                norms.sum[outputs], norms.root[outputs] = values.abs().sum(1), values.square().sum(1).sqrt()
            quantized[outputs] = rows.view(w.shape).to(quantized.dtype)
        return _Quantized(quantized.to(self.net.device), step, total, size, residue)

    def _rearranged(self, node: Node, grid: Tensor) -> Tensor:
        """Return the grid of each channel after a flatten, slice or pad. A channel that receives no values gets 0."""
        if len(grid) == 1:
            return grid
        shape = self.net.node(node.inputs[0]).shape
        return by_channel(rearrange(node, per_channel(grid[None], len(shape) + 1).expand(1, *shape))[0])

    def _concatenated(self, node: Node) -> Tensor:
        grids = [self.grid[name] for name in node.inputs]
        if all(torch.equal(grid, grids[0]) and len(grid) == 1 for grid in grids):
            return grids[0]
        channels = [self.net.node(name).shape[0] for name in node.inputs]
        return torch.cat([grid.expand(number) for grid, number in zip(grids, channels, strict=True)])

    def _add_pool(self, node: Node) -> None:
        divisor, multiplier, window = common_divisor(self.net, node)
        source, most = node.inputs[0], int((window * multiplier).max())
        self.multiplier[node.name] = 1 if bool((multiplier == 1).all()) else multiplier
        self.grid[node.name] = self.grid[source] / divisor
        self.reach[node.name] = most * self.reach[source]
        self.value[node.name], self.rounding[node.name] = self.value[source] * most, self.rounding[source] * most
        self._bound(node, float(most) * self.largest[source])

    def _add_junction(self, node: Node) -> None:
        own = [i for i in (0, 1) if self.net.node(node.inputs[i]).scale_of == node.scale_of]
        main = next((i for i in own if self.weighted[node.inputs[i]]), own[0])
        other = self.grid[node.inputs[1 - main]]
        grid = self.grid[node.inputs[main]]
        grid = torch.where(grid > 0, grid, other)
        finer = not self.weighted[node.inputs[main]]
        if finer:
            grid = grid / 2.0**JUNCTION_BITS
        bound, value, rounding = 0.0, _Norms.of(0), _Norms.of(0)
        for i, operand in enumerate(node.inputs):
            if i == main and not finer:
                bound += self.largest[operand]
                value, rounding = value + self.value[operand], rounding + self.rounding[operand]
                continue
            exact = _in_steps(self.ratio(node, i, main) * self.grid[operand] * 2.0**FACTOR_BITS, grid)
            factor = self.factor[node.name, i] = self._integers(node, exact)
            product = float(factor.abs().max()) * self.largest[operand]
            if product >= EXACT_TOTAL:
                self._check(node, product)
            bound += product / 2.0**FACTOR_BITS + 1
            scale, off = (table.abs().amax(0) / 2.0**FACTOR_BITS for table in (exact, factor - exact))
            value = value + self.value[operand] * scale
            rounding = rounding + self.rounding[operand] * scale + self.value[operand] * off + ROUNDED
        self.grid[node.name] = grid
        self.weighted[node.name] = True
        self.reach[node.name] = 2 * self.reach[node.inputs[main]] << (JUNCTION_BITS if finer else 0)
        self.value[node.name], self.rounding[node.name] = value, rounding
        self._bound(node, bound)

    def _add_threshold(self, node: Node) -> None:
        name, source = node.name, node.inputs[0]
        lift = 1.0
        if not self.weighted[source]:
            lift = 2.0**LIFT_BITS
            self.lifted.add(name)
            self._check(node, self.largest[source] * lift)
        exact = _in_steps(self.thresholds(name), self.grid[source] / lift)
        quantized = self._integers(node, exact).clamp_min(1)
        self.threshold[name] = quantized
        v_init = torch.tensor([s.v_init for s in self.settings], dtype=torch.float64)[:, None]
        self.start[name] = torch.minimum((quantized * v_init).round().to(torch.int64), quantized - 1)
        # what a grid step is worth, if a spike of the channel with the largest threshold is worth 1
        step = _in_steps(self.thresholds(name) / self.thresholds(name).amax(1, True), exact)
        off = (quantized - exact).abs()
        self._note_error(name, self.rounding[source] * lift * step + _Norms(off, off) * step, "thresholds")

    def _note_error(self, name: str, error: _Norms, unit: str) -> None:
        self.error[name] = float(error.sum.max())
        deviation, most = float(error.root.max()), MOST_DEVIATION[self.numerics]
        self.deviation[name] = deviation
        if not deviation <= most:
            raise CalibrationError(
                f"{name}: rounding to {self.numerics} is expected to move its sums by {deviation:.2g} {unit} a step, "
                f"allowed are {most:g}, since weights, thresholds or factors that meet there differ too much in size; "
                "use numerics: float32 or float64"
            )

    def _integers(self, node: Node, exact: Tensor) -> Tensor:
        if not bool(exact.abs().max() < EXACT_SUM):
            raise CalibrationError(
                f"{node.name}: thresholds, biases or factors up to {float(exact.abs().max()):.3g} grid steps are out "
                f"of the range of {self.numerics}; use another α, alpha_scope: network, or numerics: float64"
            )
        return exact.round().to(torch.int64)

    def _bound(self, node: Node, bound: float) -> None:
        self._check(node, bound)
        self.largest[node.name] = bound

    def _check(self, node: Node, bound: float) -> None:
        if not bound < EXACT_SUM:
            raise CalibrationError(
                f"{node.name}: its sums may reach {bound:.3g}, out of the range of {self.numerics}; "
                "use numerics: float32 or float64"
            )


def _in_steps(values: Tensor, grid: Tensor) -> Tensor:
    """Divide values by the grid. In channels that never hold a value, whose grid is 0, the result is 0."""
    return torch.where(grid > 0, values / grid, 0.0)


def _pieces(weight: Tensor, size: int = 64) -> list[tuple[int, Tensor]]:
    """Split a weight into pieces of `size` outputs, so that the largest layer is never held in float64 as a whole.

    Return the index of the first output with each piece.
    """
    return [(i, weight[i : i + size]) for i in range(0, len(weight), size)]
