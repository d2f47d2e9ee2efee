"""The converted network as a list of nodes: linear operations between spiking layers.

Tensors are [N, C, H, W] or [N, F]. Every node's tensor is measured in the Λ of one spiking layer, the last among its
ancestors (`Node.scale_of`): tensor value x Λ of that layer = ANN activation.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

Op = Literal["input", "conv", "linear", "avg_pool", "max_pool", "flatten", "slice", "pad", "concat", "add", "spike"]

REARRANGING: tuple[Op, ...] = ("flatten", "slice", "pad", "concat")
LINEAR: tuple[Op, ...] = ("conv", "linear", "avg_pool", "flatten", "slice", "pad", "concat", "add")


@dataclass(frozen=True)
class Node:
    """One operation.

    The inputs of a "concat" node are spikes, which may have been pooled or rearranged. Each operand keeps its own
    scale; see `scales.operand_ratios`.
    """

    name: str
    """Unique within the network."""
    op: Op
    inputs: tuple[str, ...]
    """The names of the nodes that this node reads."""
    shape: tuple[int, ...]
    """The shape of the output, without N."""
    scale_of: str
    """The spiking layer (or "input") in whose Λ the output is measured. For a "spike" node, this is the node itself."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The keyword arguments of the torch function behind `op`. For a "slice" node, the index; for a "spike" node with a
    ceiling, the ceiling, which is its largest activation."""


@dataclass(frozen=True)
class SpikingNetwork:
    """A ReLU network whose ReLUs are spiking layers. The weights are the ANN's, with batch norm folded in.

    `rmpsweep.engine.convert` makes it. It holds no simulation state: potentials go into `simulate` and come out of it.
    """

    nodes: tuple[Node, ...]
    """All nodes, in forward order."""
    weights: Mapping[str, tuple[Tensor, Tensor | None]]
    """Weighted node -> its weight and its bias, which may be None."""
    output: str
    """The name of the node whose value is the network's output."""
    fan_out: Mapping[str, Tensor] = field(default_factory=dict)
    """The synaptic operations that one spike of each neuron causes, by layer and "input"; see `activity.fan_out`."""
    derived: dict[object, dict[str, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Other forms of the weights (quantised, packed), made when they are first used; see `remember`."""

    @cached_property
    def layers(self) -> list[str]:
        """The names of the spiking layers, in forward order."""
        return [node.name for node in self.nodes if node.op == "spike"]

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(iter(self.weights.values()))[0].device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(iter(self.weights.values()))[0].dtype

    def node(self, name: str) -> Node:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    def ceiling(self, layer: str) -> float:
        """Return the largest activation of a spiking layer: 6 for ReLU6, infinite for ReLU.

        The layer's Λ never exceeds it.
        """
        return float(self.node(layer).options.get("ceiling", math.inf))

    def scale_of_current(self, layer: str) -> str:
        """Return the layer m in whose Λ the current z into a spiking layer is measured."""
        return self.node(self.node(layer).inputs[0]).scale_of

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "SpikingNetwork":
        """Return a copy with its weights on that device and in that dtype."""
        weights = {
            name: (w.to(device=device, dtype=dtype), None if b is None else b.to(device=device, dtype=dtype))
            for name, (w, b) in self.weights.items()
        }
        return replace(self, weights=weights)

    @property
    def readout(self) -> list[Node]:
        """The nodes after the last spikes, in forward order. They are linear in the spikes summed over steps."""
        after = {self.output}
        for node in reversed(self.nodes):
            if node.name in after and node.op in LINEAR:
                after.update(node.inputs)
        return [node for node in self.nodes if node.name in after and node.op in LINEAR]

    def remember(self, kind: object, name: str, make: Callable[[], Any]) -> Any:
        """Return what `make` returns. The result is kept with the network, for the two kinds that were added last."""
        if kind not in self.derived:
            for oldest in list(self.derived)[:-1]:
                del self.derived[oldest]
            self.derived[kind] = {}
        known = self.derived[kind]
        if name not in known:
            known[name] = make()
        return known[name]

    def needed_for(self, *names: str) -> list[Node]:
        """Return the nodes that the values of `names` depend on, including `names`, in forward order."""
        wanted = set(names)
        for node in reversed(self.nodes):
            if node.name in wanted:
                wanted.update(node.inputs)
        return [node for node in self.nodes if node.name in wanted]


def apply_linear(weight: Tensor, node: Node, x: Tensor) -> Tensor:
    """Apply a convolution or fully connected node without its bias. [N, ...] -> [N, *node.shape]."""
    match node.op:
        case "conv":
            return F.conv2d(x, weight, None, **node.options)
        case "linear":
            return F.linear(x, weight)
    raise AssertionError(node.op)


def per_channel(values: Tensor, ndim: int) -> Tensor:
    """Reshape [..., C] to [..., C, 1, 1] (or [..., C]), so that it broadcasts over a tensor with `ndim` dimensions."""
    return values.reshape(*values.shape, *[1] * (ndim - 2))


def average_of_max_pool(node: Node, x: Tensor, divisor: int | None = None) -> Tensor:
    """Average over the windows of a max-pool node; with `divisor=1`, sum over them."""
    options = {k: node.options[k] for k in ("kernel_size", "stride", "padding", "ceil_mode")}
    return F.avg_pool2d(x, **options, count_include_pad=False, divisor_override=divisor)


def rearrange(node: Node, *x: Tensor) -> Tensor:
    """Apply a flatten, slice, pad or concat node, which only moves, drops or pads values.

    x: [N, ...] each; the result is [N, *node.shape].
    """
    match node.op:
        case "flatten":
            return x[0].flatten(1)
        case "slice":
            return x[0][node.options["index"]]
        case "pad":
            return F.pad(x[0], **node.options)
        case "concat":
            return torch.cat(x, 1)
    raise AssertionError(node.op)


def activations(net: SpikingNetwork, images: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
    """Return the ANN's values at the named nodes; the value of a spiking layer is the ReLU's output.

    images: [N, C, H, W]; each value: [N, ...].
    """
    values: dict[str, Tensor] = {}
    for node in net.needed_for(*wanted):
        x = [values[name] for name in node.inputs]
        match node.op:
            case "input":
                value = images
            case "conv" | "linear":
                weight, bias = net.weights[node.name]
                value = apply_linear(weight, node, x[0])
                value = value if bias is None else value + per_channel(bias, value.dim())
            case "avg_pool":
                value = F.avg_pool2d(x[0], **node.options)
            case "max_pool":
                value = F.max_pool2d(x[0], **node.options)
            case "flatten" | "slice" | "pad" | "concat":
                value = rearrange(node, *x)
            case "add":
                value = x[0] + x[1]
            case "spike":
                value = x[0].clamp(0, node.options.get("ceiling"))
            case _:
                assert_never(node.op)
        values[node.name] = value
    return {name: values[name] for name in wanted}
