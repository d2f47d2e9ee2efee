"""Converts a trained ReLU network to a SpikingNetwork.

torch.fx traces the network, batch norm is folded, and every operation is either turned into a node or refused by name.
"""

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from rmpsweep.engine.activity import fan_out
from rmpsweep.engine.batch_norm import folded
from rmpsweep.engine.network import Node, SpikingNetwork, activations
from rmpsweep.engine.operators import FUNCTION_ARGUMENTS, SUPPORTED, kind_of
from rmpsweep.engine.trace import trace
from rmpsweep.errors import ConversionError
from rmpsweep.terms import INPUT

AVERAGE = {"stride": None, "padding": 0, "ceil_mode": False, "count_include_pad": True, "divisor_override": None}
"""The default options of an average pooling, apart from its window."""
PROBE_FACTORS = (1.0, 16.0, 256.0)
"""How many times as large as the example the random images are on which a conversion is checked, in order."""


def convert(ann: nn.Module, example: Tensor) -> SpikingNetwork:
    """Return the spiking network with the ANN's weights. The ANN itself is left unchanged.

    Args:
        ann: the forward takes one tensor, can be traced by torch.fx, and ends in a linear operation or a ReLU.
        example: [N, C, H, W], real or random. It fixes the shapes, and the conversion is checked on it and on random
        images of its size.
    Raises:
        ConversionError: the network cannot be traced; a node has no faithful spiking counterpart (the message names the
        node and its module); weights are not finite; there is no ReLU at all; or the result differs from the ANN's.
    Warns:
        UserWarning: the ANN's output is the same for all these images, so the result could not be compared.
    """
    try:
        graph = trace(ann, example)
        probes = _probes(_in_float64(ann), example.double())
    except Exception as error:
        raise ConversionError(
            f"{type(ann).__name__}: cannot be traced on an example of shape {tuple(example.shape)}: {error}"
        ) from error
    _check(graph, ann, probes)
    if all(torch.equal(output[:1], probes[0][1][:1]) for _, output in probes):
        warnings.warn(
            f"{type(ann).__name__}: its output is the same for different images, so its conversion could not be "
            "checked",
            stacklevel=2,
        )
    net = _Converter(graph, ann).convert()
    return replace(net, fan_out=fan_out(net))


@torch.no_grad()
def _probes(ann: nn.Module, example: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return pairs of input and output to compare the conversion on: the example, and two random images.

    The images are normally distributed and as large as the example's values. If the network does not tell them apart,
    larger ones are tried.
    """
    probes = [(example, ann(example))]
    noise = torch.randn(2, 1, *example.shape[1:], dtype=example.dtype, generator=torch.Generator().manual_seed(0))
    size = float(example.abs().max()) or 1.0
    for factor in PROBE_FACTORS:
        inputs = noise.to(example.device) * size * factor
        outputs = [ann(each) for each in inputs]
        if not torch.equal(*outputs):
            break
    return [*probes, *zip(inputs, outputs, strict=True)]


def _in_float64(ann: nn.Module) -> nn.Module:
    """Return a copy in eval mode and float64.

    Its parameters are copied directly to float64, never in their own dtype.
    """
    wide = {
        id(parameter): nn.Parameter(parameter.detach().to(torch.float64, copy=True), parameter.requires_grad)
        for parameter in ann.parameters()
        if parameter.is_floating_point()
    }
    return copy.deepcopy(ann, wide).double().eval()


def _check(graph: fx.Graph, ann: nn.Module, probes: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Convert in float64 and compare the result with the ANN's outputs on the probes.

    The tolerance, 1e-9 of the largest output, is thousands of float64 roundings.
    """
    net = _Converter(graph, ann, torch.float64).convert()
    if not net.layers:
        raise ConversionError(f"{type(ann).__name__}: no ReLU found, so nothing would spike")
    for images, expected in probes:
        with torch.no_grad():
            actual = activations(net, images, [net.output])[net.output]
        error, largest = float((actual - expected).abs().max()), float(expected.abs().max())
        if not error <= 1e-9 * max(largest, 1e-300):
            raise ConversionError(
                f"the converted network differs from the ANN by {error:.3g} on outputs up to {largest:.3g}; "
                "in-place operations, hooks, dropout that is always on, or weights computed in forward are the usual "
                "causes"
            )


def _is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite. Unlike `isfinite`, this allocates nothing as large as the tensor."""
    return tensor.numel() == 0 or bool(torch.stack(tensor.detach().aminmax()).isfinite().all())


class _Converter:
    """Walks over the traced graph, with one method for each kind of node.

    Args:
        ann: the network whose weights are copied.
        dtype: the dtype of the copies; None keeps that of the weights.
    """

    def __init__(self, graph: fx.Graph, ann: nn.Module, dtype: torch.dtype | None = None) -> None:
        self.graph, self.dtype = graph, dtype
        self.modules = dict(ann.named_modules())
        self.nodes: dict[str, Node] = {}
        self.weights: dict[str, tuple[Tensor, Tensor | None]] = {}
        self.name_of: dict[fx.Node, str] = {}
        self.rank = {INPUT: -1}

    def convert(self) -> SpikingNetwork:
        output = None
        for node in self.graph.nodes:
            if node.op == "output":
                output = self.name_of.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None
            else:
                self._convert(node)
        if output is None:
            raise ConversionError("the network must return one tensor")
        needed = SpikingNetwork(tuple(self.nodes.values()), self.weights, output).needed_for(output)
        names = {node.name for node in needed}
        return SpikingNetwork(tuple(needed), {k: w for k, w in self.weights.items() if k in names}, output)

    def _convert(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._add(node, INPUT, "input", ())
            return
        kind = self._kind(node)
        if kind == "skip":
            self.name_of[node] = self._inputs(node)[0]
            return
        handler: Callable[[fx.Node], None] = getattr(self, f"_{kind}")
        handler(node)

    def _kind(self, node: fx.Node) -> str:
        kind = kind_of(node, self.modules)
        if kind is None:
            raise self._refusal(node, f"has no faithful spiking counterpart; supported: {SUPPORTED}")
        return kind

    # one method per kind -------------------------------------------------------------------------------------------

    def _conv(self, node: fx.Node) -> None:
        module = self.modules[str(node.target)]
        assert isinstance(module, nn.Conv2d)
        if module.padding_mode != "zeros":
            raise self._refusal(node, f"padding_mode={module.padding_mode!r} is not supported; use 'zeros'")
        options = {k: getattr(module, k) for k in ("stride", "padding", "dilation", "groups")}
        self._weighted(node, "conv", module, options)

    def _linear(self, node: fx.Node) -> None:
        if len(self._input_shape(node)) != 1:
            raise self._refusal(node, f"expects [N, features], got [N, {self._input_shape(node)}]; flatten first")
        module = self.modules[str(node.target)]
        assert isinstance(module, nn.Linear)
        self._weighted(node, "linear", module, {})

    def _weighted(self, node: fx.Node, op: Any, module: nn.Conv2d | nn.Linear, options: Mapping[str, Any]) -> None:
        name = self._add(node, self._name(node), op, self._inputs(node), options)
        for label, tensor in (("weight", module.weight), ("bias", module.bias)):
            if tensor is not None and not _is_finite(tensor):
                raise self._refusal(node, f"its {label} holds NaN or infinite values")
        self.weights[name] = (self._copy(module.weight), None if module.bias is None else self._copy(module.bias))

    def _relu(self, node: fx.Node) -> None:
        if self._origin(self._inputs(node)[0]).op == "concat":  # a concatenation of spikes has no negative values
            self.name_of[node] = self._inputs(node)[0]
        else:
            self._spike(node, {})

    def _relu6(self, node: fx.Node) -> None:
        self._clip(node, 6.0)

    def _hardtanh(self, node: fx.Node) -> None:
        options = {"min_val": -1.0, "max_val": 1.0, **self._options(node, "hardtanh")}
        least, ceiling = options["min_val"], options["max_val"]
        if least != 0 or not ceiling > 0:
            raise self._refusal(node, f"clips to [{least}, {ceiling}]; only [0, c] is supported: no rate is negative")
        self._clip(node, float(ceiling))

    def _clip(self, node: fx.Node, ceiling: float) -> None:
        if self._origin(self._inputs(node)[0]).op == "concat":
            raise self._refusal(node, "clips what was concatenated; clip each part before it is concatenated")
        self._spike(node, {"ceiling": ceiling})

    def _spike(self, node: fx.Node, options: Mapping[str, Any]) -> None:
        name = self._name(node)
        self.rank[name] = len(self.rank)
        self._add(node, name, "spike", self._inputs(node), options)

    def _concat(self, node: fx.Node) -> None:
        options = {"dim": node.kwargs.get("axis", 0), **self._options(node, "concat")}
        parts: Any = node.args[0] if node.args else node.kwargs["tensors"]
        names = tuple(self.name_of[part] for part in parts)
        if len(names) == 1:
            self.name_of[node] = names[0]
            return
        dimensions = 1 + len(self.nodes[names[0]].shape)
        if options["dim"] not in (1, 1 - dimensions):
            raise self._refusal(node, f"concatenates along dimension {options['dim']}; only channels, 1, are supported")
        for name in names:
            origin = self._origin(name)
            if origin.op not in ("spike", "concat"):
                what = "the network's input" if origin.op == "input" else f"{origin.name!r} before its ReLU"
                raise self._refusal(node, f"concatenates {what}; apply the ReLU to each part before it is concatenated")
        self._add(node, self._name(node), "concat", names)

    def _origin(self, name: str) -> Node:
        """Return the node whose values the named node holds, possibly pooled or rearranged."""
        node = self.nodes[name]
        while node.op in ("avg_pool", "max_pool", "flatten", "slice", "pad"):
            node = self.nodes[node.inputs[0]]
        return node

    def _batch_norm(self, node: fx.Node) -> None:
        module = self.modules[str(node.target)]
        assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        source = node.args[0]
        assert isinstance(source, fx.Node)
        name = self.name_of[source]
        if name not in self.weights or len(source.users) != 1:
            raise self._refusal(
                node,
                "can be folded only directly after a convolution or linear layer of its own; train the network "
                "with batch norm there",
            )
        if module.running_mean is None or module.running_var is None:
            raise self._refusal(node, "has no running statistics to fold (track_running_stats=False)")
        weight, bias = folded(*self.weights[name], module)
        if not (_is_finite(weight) and _is_finite(bias)):
            raise self._refusal(node, "its parameters or statistics hold NaN or infinite values")
        self.weights[name] = (weight, bias)
        self.name_of[node] = name

    def _avg_pool(self, node: fx.Node) -> None:
        options = self._options(node, "avg_pool")
        self._add(node, self._name(node), "avg_pool", self._inputs(node), {**AVERAGE, **options})

    def _adaptive_avg_pool(self, node: fx.Node) -> None:
        size = self._options(node, "adaptive_avg_pool")["output_size"]
        height, width = self._input_shape(node)[-2:]
        rows, columns = (size, size) if isinstance(size, int) else size
        rows, columns = rows or height, columns or width
        if height % rows or width % columns:
            raise self._refusal(
                node, f"pools {height}x{width} to {rows}x{columns} with unequal windows; use sizes that divide"
            )
        kernel = height // rows, width // columns
        self._add(node, self._name(node), "avg_pool", self._inputs(node), {**AVERAGE, "kernel_size": kernel})

    def _mean(self, node: fx.Node) -> None:
        options = {"dim": None, "keepdim": False, **self._options(node, "mean")}
        channels, *image = self._input_shape(node)
        dims = options["dim"] if isinstance(options["dim"], tuple | list) else (options["dim"],)
        if len(image) != 2 or None in dims or sorted(dim % 4 for dim in dims) != [2, 3]:
            raise self._refusal(node, f"averages over dimensions {dims}; only height and width, (2, 3), are supported")
        name, window = self._name(node), {**AVERAGE, "kernel_size": tuple(image)}
        self._add(node, name, "avg_pool", self._inputs(node), window, (channels, 1, 1))
        if not options["keepdim"]:
            self._add(node, self._unique(f"{name}_flatten"), "flatten", (name,))

    def _max_pool(self, node: fx.Node) -> None:
        options = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, **self._options(node, "max_pool")}
        if options.pop("return_indices", False):
            raise self._refusal(node, "return_indices=True is not supported")
        if options["dilation"] not in (1, (1, 1)):
            raise self._refusal(node, f"dilation={options['dilation']} is not supported")
        self._add(node, self._name(node), "max_pool", self._inputs(node), options)

    def _flatten(self, node: fx.Node) -> None:
        if node.meta["shape"][1:] != (math.prod(self._input_shape(node)),):
            raise self._refusal(node, "only flattening to [N, features] is supported")
        self._add(node, self._name(node), "flatten", self._inputs(node)[:1])

    _reshape = _flatten

    def _slice(self, node: fx.Node) -> None:
        index: Any = node.args[1]
        index = index if isinstance(index, tuple) else (index,)
        if not all(isinstance(part, slice) or part is Ellipsis for part in index):
            raise self._refusal(node, f"indexes by {index}; only slices are supported")
        if index[0] not in (slice(None), ...) or len(index) > 1 + len(self._input_shape(node)):
            raise self._refusal(node, f"indexes by {index}, which takes a part of the batch; begin with ':'")
        self._add(node, self._name(node), "slice", self._inputs(node), {"index": index})

    def _pad(self, node: fx.Node) -> None:
        options = {"mode": "constant", "value": 0, **self._options(node, "pad")}
        if options["mode"] != "constant" or options["value"]:
            raise self._refusal(
                node, f"pads with mode={options['mode']!r}, value={options['value']}; only zeros are supported"
            )
        if len(options["pad"]) > 2 * len(self._input_shape(node)):
            raise self._refusal(node, f"pads the batch (pad={options['pad']})")
        self._add(node, self._name(node), "pad", self._inputs(node), {"pad": options["pad"]})

    def _sum(self, node: fx.Node) -> None:
        inputs = [n for n in (*node.args, *node.kwargs.values()) if isinstance(n, fx.Node)]
        if len(inputs) != 2 or node.kwargs.get("alpha", 1) != 1:
            raise self._refusal(node, "only the plain sum of two tensors is supported")
        shapes = [self.nodes[self.name_of[n]].shape for n in inputs]
        if shapes[0] != shapes[1]:
            raise self._refusal(node, f"adds shapes {shapes[0]} and {shapes[1]}; broadcasting is not supported")
        self._add(node, self._name(node), "add", tuple(self.name_of[n] for n in inputs))

    # helpers -------------------------------------------------------------------------------------------------------

    def _copy(self, weight: Tensor) -> Tensor:
        return weight.detach().to(dtype=self.dtype, copy=True)

    def _add(
        self,
        node: fx.Node,
        name: str,
        op: Any,
        inputs: tuple[str, ...],
        options: Mapping[str, Any] | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> str:
        units = [self.nodes[i].scale_of for i in inputs]
        unit = name if op in ("input", "spike") else max(units, key=self.rank.__getitem__)
        self.nodes[name] = Node(name, op, inputs, shape or node.meta["shape"][1:], unit, options or {})
        self.name_of[node] = name
        return name

    def _name(self, node: fx.Node) -> str:
        """Return a name: the module's path, numbered from its second call on, or for a function the name of the traced
        node."""
        return self._unique(str(node.target) if node.op == "call_module" else node.name)

    def _unique(self, base: str) -> str:
        name, count = base, 0
        while name in self.nodes:
            count += 1
            name = f"{base}_{count}"
        return name

    def _inputs(self, node: fx.Node) -> tuple[str, ...]:
        source = node.args[0] if node.args else node.kwargs["input"]
        assert isinstance(source, fx.Node)
        return (self.name_of[source],)

    def _input_shape(self, node: fx.Node) -> tuple[int, ...]:
        return self.nodes[self._inputs(node)[0]].shape

    def _options(self, node: fx.Node, kind: str) -> dict[str, Any]:
        names = FUNCTION_ARGUMENTS[kind][1:]
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            return {name: getattr(module, name) for name in names}
        given = dict(zip(FUNCTION_ARGUMENTS[kind], node.args, strict=False)) | dict(node.kwargs)
        return {name: given[name] for name in names if name in given}

    def _refusal(self, node: fx.Node, why: str) -> ConversionError:
        where = f"node {node.name!r}"
        if node.op == "call_module":
            where += f" ({type(self.modules[str(node.target)]).__name__} at {node.target!r})"
        elif node.op != "placeholder":
            where += f" ({getattr(node.target, '__name__', node.target)})"
        return ConversionError(f"{where} {why}")
