"""Groups the nodes of a network into the stages of a program, which the kernels compute.

A stage is either a spiking layer with its convolution (or linear layer) and its shortcut, or an operation that pools or
rearranges values. Values are what one stage hands to another: small non-negative integers (spikes, or window sums of
spikes), stored as bytes. A network that does not fit this form has no program and runs node by node (`reference`).
"""

from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from torch import Tensor

from rmpsweep.engine.network import Node, SpikingNetwork
from rmpsweep.engine.numerics import Constants, common_divisor
from rmpsweep.engine.reference import read_out_of
from rmpsweep.terms import INPUT, MaxPool

LARGEST_BYTE = 255


@dataclass(frozen=True)
class Value:
    """Integers [T, N, H, W, C] that one stage hands to later stages."""

    largest: int
    """Upper bound of an element."""
    divisor: int
    """What the stored sums must still be divided by."""


@dataclass(frozen=True)
class Addend:
    """What a junction adds to a layer's convolution: a value, or what a shortcut's own convolution makes of a value."""

    value: str
    """The value that is added or that `node` reads."""
    node: Node | None
    """The weighted node; None if the value itself is added."""
    key: tuple[str, int]
    """(junction, operand), under which `Constants.factor` holds the factor of the addend."""


@dataclass(frozen=True)
class Layer:
    """The stage that computes one spiking layer."""

    node: Node
    """The spiking layer."""
    weighted: Node
    """The convolution or linear layer that feeds it."""
    value: str
    """The value that `weighted` reads; it may be "input"."""
    addend: Addend | None = None
    """What a junction adds to the convolution; None if there is no junction."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The values that this stage reads."""
        return (self.value,) if self.addend is None else (self.value, self.addend.value)


@dataclass(frozen=True)
class Rearrangement:
    """The stage that computes a pooling, flatten, slice, pad or concat node from values."""

    node: Node
    how: Literal["sum", "max", "count", "flatten", "slice", "pad", "concat"]
    multiplier: Tensor | None = None
    """For "sum": what the sum of each window is multiplied by, [Ho, Wo]; see `common_divisor`."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The values that this stage reads."""
        return self.node.inputs


@dataclass(frozen=True)
class Program:
    """The stages that compute a network, up to its last spikes."""

    stages: tuple[Layer | Rearrangement, ...]
    """In forward order."""
    values: dict[str, Value]
    """Name of the node that gives the value -> the value."""
    last_use: dict[str, int]
    """Value -> the index of the last stage that reads it. A value that no stage reads has no entry."""


class _NoProgramError(Exception):
    """The network has a node that does not fit into a program."""


def make_program(constants: Constants) -> Program | None:
    """Return the program of a network under its settings' constants and max pooling, or None if it has none."""
    try:
        return _Maker(constants).make()
    except _NoProgramError:
        return None


class _Maker:
    def __init__(self, constants: Constants) -> None:
        self.constants, self.net, self.kind = constants, constants.net, constants.settings[0]
        self.values: dict[str, Value] = {}
        self.stages: list[Layer | Rearrangement] = []

    def make(self) -> Program:
        net = self.net
        if not read_out_of(net) <= set(net.layers):
            raise _NoProgramError
        for node in net.needed_for(*net.layers):
            match node.op:
                case "input":
                    self.values[INPUT] = Value(1, 1)
                case "spike":
                    self.stages.append(self._layer(node))
                    self.values[node.name] = Value(1, 1)
                case "avg_pool" | "max_pool" | "flatten" | "slice" | "pad":
                    if node.inputs[0] in self.values:
                        self._rearrange(node)
                case "concat":
                    self._concat(node)
                case "conv" | "linear" | "add":  # part of a layer
                    pass
                case _:
                    assert_never(node.op)
        last_use = {name: i for i, stage in enumerate(self.stages) for name in stage.reads}
        return Program(tuple(self.stages), self.values, last_use)

    def _rearrange(self, node: Node) -> None:
        source = self.values[node.inputs[0]]
        if node.inputs[0] == INPUT:
            raise _NoProgramError
        if node.op in ("slice", "pad") and len(node.shape) != 3:
            raise _NoProgramError
        if node.op in ("flatten", "slice", "pad"):
            self.stages.append(Rearrangement(node, node.op))
            self.values[node.name] = source
            return
        pooling = _pooling(self.kind.max_pool) if node.op == "max_pool" else "sum"
        if pooling != "sum":
            self.stages.append(Rearrangement(node, pooling))
            self.values[node.name] = source
            return
        divisor, multiplier, window = common_divisor(self.net, node)
        largest = int((window * multiplier).max()) * source.largest
        if largest > LARGEST_BYTE or len(node.shape) != 3:
            raise _NoProgramError
        self.stages.append(Rearrangement(node, "sum", multiplier))
        self.values[node.name] = Value(largest, divisor * source.divisor)

    def _concat(self, node: Node) -> None:
        sources = [self.values[name] for name in node.inputs]
        if len(node.shape) != 3 or len({source.divisor for source in sources}) > 1:
            raise _NoProgramError
        self.stages.append(Rearrangement(node, "concat"))
        self.values[node.name] = Value(max(source.largest for source in sources), sources[0].divisor)

    def _layer(self, spike: Node) -> Layer:
        """Return the stage of a spiking layer.

        At a junction, the layer's own convolution is the operand that needs no factor.
        """
        node = self.net.node(spike.inputs[0])
        if node.op != "add":
            return Layer(spike, self._weighted(node), node.inputs[0])
        for main in (0, 1):
            other = 1 - main
            operands = [self.net.node(name) for name in node.inputs]
            if (node.name, main) in self.constants.factor or operands[main].op not in ("conv", "linear"):
                continue
            addend = Addend(node.inputs[other], None, (node.name, other))
            if operands[other].op in ("conv", "linear"):
                addend = Addend(operands[other].inputs[0], self._weighted(operands[other]), (node.name, other))
            weighted = self._weighted(operands[main])
            if addend.value not in self.values or addend.value == INPUT or weighted.inputs[0] == INPUT:
                break
            return Layer(spike, weighted, weighted.inputs[0], addend)
        raise _NoProgramError

    def _weighted(self, node: Node) -> Node:
        known = node.op in ("conv", "linear") and node.inputs[0] in self.values
        if not known or node.options.get("groups", 1) != 1 or isinstance(node.options.get("padding"), str):
            raise _NoProgramError
        if node.op == "conv" and len(self.net.node(node.inputs[0]).shape) != 3:
            raise _NoProgramError
        return node


def _pooling(max_pool: MaxPool) -> Literal["max", "count", "sum"]:
    match max_pool:
        case "spike":
            return "max"
        case "count":
            return "count"
        case "average":
            return "sum"
        case _:
            assert_never(max_pool)


def as_convolution(net: SpikingNetwork, node: Node, weight: Tensor) -> tuple[Tensor, dict[str, tuple[int, int]]]:
    """Return a weighted node as a convolution of its channels-last input.

    This is its weight [C_out, C_in, kh, kw] and the options stride, padding and dilation, each (y, x). A linear layer
    after a flatten becomes a convolution whose kernel is as large as the image.
    """
    if node.op == "conv":
        pairs = {k: node.options[k] for k in ("stride", "padding", "dilation")}
        return weight, {k: (v, v) if isinstance(v, int) else tuple(v) for k, v in pairs.items()}
    source = net.node(node.inputs[0])
    shape = net.node(source.inputs[0]).shape if source.op == "flatten" else (*source.shape, 1, 1)
    shape = shape if len(shape) == 3 else (*shape, 1, 1)
    return weight.view(len(weight), *shape), {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}


def image_shape(node: Node) -> tuple[int, int, int]:
    """Return (C, H, W) of a node's output. Features are the channels of one pixel."""
    shape = torch.Size(node.shape)
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (shape.numel(), 1, 1)
