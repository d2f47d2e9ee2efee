"""Computes the constants of a group of settings, in floating point or on the integer grid that `numerics` describes."""

from collections.abc import Sequence
from typing import Any, assert_never

import torch
from torch import Tensor

from rmpsweep.engine.builder import Builder, by_channel, representable, weighed
from rmpsweep.engine.encode import is_spiking
from rmpsweep.engine.network import Node, SpikingNetwork, per_channel, rearrange
from rmpsweep.engine.numerics import (
    DTYPES,
    EXACT_SUM,
    EXACT_TOTAL,
    FACTOR_BITS,
    INPUT_BITS,
    JUNCTION_BITS,
    LARGEST_WEIGHT,
    CalibratedSetting,
    Constants,
    common_divisor,
    on_grid,
)
from rmpsweep.engine.scales import scaled
from rmpsweep.errors import CalibrationError


def make_constants(net: SpikingNetwork, settings: Sequence[CalibratedSetting], largest_input: float) -> Constants:
    """Return the constants of settings that have the same `weights_kind`.

    Args:
        largest_input: the largest |x| / Λ_0 that will be encoded. It bounds the sums of fixed numerics under constant
        input.
    Raises:
        CalibrationError: a threshold or factor is out of the range of the numerics, or a sum could overflow.
    """
    scales = [scaled(net, s.thresholds, s.alpha, s.alpha_scope) for s in settings]
    build = _Fixed if on_grid(settings[0].numerics) else _Float
    return build(net, settings, scales, largest_input).make()


class _Float(Builder):
    """The constants in floating point."""

    def add(self, node: Node) -> None:
        name = node.name
        match node.op:
            case "spike":
                self.threshold[name] = self._cast(self.thresholds(name))
                v_init = torch.tensor([s.v_init for s in self.settings], dtype=torch.float64)[:, None]
                self.start[name] = self._cast(self.thresholds(name) * v_init)
            case "add":
                main = [self.net.node(i).scale_of for i in node.inputs].index(node.scale_of)
                for i, operand in enumerate(node.inputs):
                    if self.net.node(operand).scale_of != node.scale_of or operand in self.spike_weight:
                        self.factor[name, i] = self._cast(self.ratio(node, i, main))
            case "conv" | "linear":
                self._add_weighted(node)
            case "input" | "avg_pool" | "max_pool" | "flatten" | "slice" | "pad" | "concat":
                pass
            case _:
                assert_never(node.op)

    def _add_weighted(self, node: Node) -> None:
        (weight, bias), entering, dtype = self.net.weights[node.name], self.entering(node), DTYPES[self.numerics]
        self.weights[node.name] = (
            weight.to(dtype) if entering is None else weighed(weight.cpu(), entering, 0).to(weight.device, dtype)
        )
        if bias is not None:
            self.bias[node.name] = bias.cpu().to(dtype) * self._cast(1 / self.units(node.scale_of))[:, None]

    def _cast(self, exact: Tensor) -> Tensor:
        """Cast float64 values to the dtype of the numerics, rounding once."""
        return representable(exact, DTYPES[self.numerics])


class _Fixed(Builder):
    """The constants on the integer grid.

    For each node, `grid` is what the integer 1 stands for in the node's unit, float64 [1 or C]; `weighted` is whether
    the node holds sums of weights, rather than spikes or sums of spikes; `analog` is whether it is computed from
    constant input with no spiking layer in between.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.grid: dict[str, Tensor] = {}
        self.weighted: dict[str, bool] = {}
        self.analog: dict[str, bool] = {}

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
                self._bound(node, self.largest_input * 2.0**INPUT_BITS + 1 if constant else 1.0)
            case "conv" | "linear":
                self._add_weighted(node)
            case "avg_pool":
                self._add_pool(node)
            case "max_pool":
                self._add_max_pool(node)
            case "flatten" | "slice" | "pad":
                self.grid[name] = self._rearranged(node, self.grid[sources[0]])
                self._bound(node, self.largest[sources[0]])
            case "concat":
                self.grid[name] = self._concatenated(node)
                self._bound(node, max(self.largest[i] for i in sources))
            case "add":
                self._add_junction(node)
            case "spike":
                self._add_threshold(node)
                self.grid[name] = one
                self._bound(node, 1.0)
            case _:
                assert_never(node.op)

    def _add_max_pool(self, node: Node) -> None:
        max_pool = self.settings[0].max_pool
        match max_pool:
            case "average":
                self._add_pool(node)
            case "count" | "spike":
                self.grid[node.name] = self.grid[node.inputs[0]]
                self._bound(node, self.largest[node.inputs[0]])
            case _:
                assert_never(max_pool)

    def _add_weighted(self, node: Node) -> None:
        name, source = node.name, node.inputs[0]
        weight, entering, grid = self.net.weights[name][0].cpu(), self.entering(node), self.grid[source]
        if len(grid) > 1:  # each input channel has its own grid: fold it in
            entering, grid = self.by_output(node, grid) * (1 if entering is None else entering), torch.ones(1).double()
        quantized, step, total = self.net.remember(
            self.kind, f"quantized {name}", lambda: self._quantize(weight, entering, name in self.readout)
        )
        self.weights[name] = quantized
        bound = total * self.largest[source]
        self.grid[name] = step * grid
        if self.analog[source] and not self.weighted[source]:
            self._check(node, bound)
            self.grid[name], bound = step * grid * 2.0**INPUT_BITS, bound / 2.0**INPUT_BITS + 1
            self.rounded.add(name)
        bias = self.net.weights[name][1]
        if bias is not None:
            table = bias.double().cpu() / self.units(node.scale_of)[:, None] / self.grid[name]
            self.bias[name] = self._integers(node, table)
            bound += float(self.bias[name].abs().max())
        self.weighted[name] = True
        self._bound(node, bound)

    def _quantize(self, weight: Tensor, entering: Tensor | None, one_scale: bool) -> tuple[Tensor, Tensor, int]:
        """Return w_q, the grid step of each output, and the largest Σ |w_q| of an output."""
        largest = torch.cat([weighed(w, entering, i).abs().flatten(1).amax(1) for i, w in _pieces(weight)])
        if one_scale:
            largest = largest.max().expand_as(largest)
        step = torch.where(largest > 0, largest / LARGEST_WEIGHT[self.numerics], 1.0)
        quantized = torch.empty(weight.shape, dtype=torch.int16 if self.numerics == "fixed16" else torch.int8)
        total = 0
        for i, w in _pieces(weight):
            rows = (weighed(w, entering, i).flatten(1) / step[i : i + len(w), None]).round()
            total = max(total, int(rows.abs().sum(1).max()))
            quantized[i : i + len(w)] = rows.view(w.shape).to(quantized.dtype)
        return quantized.to(self.net.device), step, total

    def _rearranged(self, node: Node, grid: Tensor) -> Tensor:
        """Return the grid of each channel after a flatten, slice or pad. A channel that receives no values gets 1."""
        if len(grid) == 1:
            return grid
        shape = self.net.node(node.inputs[0]).shape
        moved = rearrange(node, per_channel(grid[None], len(shape) + 1).expand(1, *shape))[0]
        channels = by_channel(moved)
        return torch.where(channels > 0, channels, 1.0)

    def _concatenated(self, node: Node) -> Tensor:
        grids = [self.grid[name] for name in node.inputs]
        if all(torch.equal(grid, grids[0]) and len(grid) == 1 for grid in grids):
            return grids[0]
        channels = [self.net.node(name).shape[0] for name in node.inputs]
        return torch.cat([grid.expand(number) for grid, number in zip(grids, channels, strict=True)])

    def output_grid(self) -> Tensor:
        return self.grid[self.net.output]

    def _add_pool(self, node: Node) -> None:
        divisor, multiplier, window = common_divisor(self.net, node)
        self.multiplier[node.name] = 1 if bool((multiplier == 1).all()) else multiplier
        self.grid[node.name] = self.grid[node.inputs[0]] / divisor
        self._bound(node, float((window * multiplier).max()) * self.largest[node.inputs[0]])

    def _add_junction(self, node: Node) -> None:
        own = [i for i in (0, 1) if self.net.node(node.inputs[i]).scale_of == node.scale_of]
        main = next((i for i in own if self.weighted[node.inputs[i]]), own[0])
        grid = self.grid[node.inputs[main]]
        finer = not self.weighted[node.inputs[main]]
        if finer:
            grid = grid / 2.0**JUNCTION_BITS
        bound = 0.0
        for i, operand in enumerate(node.inputs):
            if i == main and not finer:
                bound += self.largest[operand]
                continue
            factor = self.ratio(node, i, main) * self.grid[operand] / grid * 2.0**FACTOR_BITS
            self.factor[node.name, i] = self._integers(node, factor)
            product = float(self.factor[node.name, i].abs().max()) * self.largest[operand]
            if product >= EXACT_TOTAL:
                self._check(node, product)
            bound += product / 2.0**FACTOR_BITS + 1
        self.grid[node.name] = grid
        self.weighted[node.name] = True
        self._bound(node, bound)

    def _add_threshold(self, node: Node) -> None:
        grid = self.grid[node.inputs[0]]
        exact = self.thresholds(node.name) / grid
        quantized = self._integers(node, exact).clamp_min(1)
        self.threshold[node.name] = quantized
        v_init = torch.tensor([s.v_init for s in self.settings], dtype=torch.float64)[:, None]
        self.start[node.name] = torch.minimum((quantized * v_init).round().to(torch.int64), quantized - 1)

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


def _pieces(weight: Tensor, size: int = 64) -> list[tuple[int, Tensor]]:
    """Split a weight into pieces of `size` outputs, so that the largest layer is never held in float64 as a whole.

    Return the index of the first output with each piece.
    """
    return [(i, weight[i : i + size]) for i in range(0, len(weight), size)]
