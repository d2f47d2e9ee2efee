"""Runs the stages of a program on a GPU, with the kernels beside this file. Tensors are channels-last, [T, R, H, W, C].

In fixed numerics every bit equals the reference. In floating point the order of addition is not the CPU's, but it
depends on the layer alone, not on batch or chunk. The host waits for the device once per chunk, to learn whether int32
potentials left their range.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from rmpsweep.engine.encode import poisson
from rmpsweep.engine.gpu import kernels as triton
from rmpsweep.engine.gpu.operands import Addend, Convolution, Neurons, pack
from rmpsweep.engine.kernels import ProgramKernels, padded
from rmpsweep.engine.network import Node
from rmpsweep.engine.numerics import FACTOR_BITS, Constants
from rmpsweep.engine.program import Layer, Program, Rearrangement, image_shape
from rmpsweep.terms import FIGURES, INPUT


class GpuKernels(ProgramKernels):
    """Dense kernels on the network's device; on the CPU, Triton's interpreter runs them. For one thread at a time."""

    def __init__(self, constants: Constants, program: Program) -> None:
        self.device = constants.net.device
        super().__init__(constants.to(self.device), program)
        self.tables: dict[tuple[object, ...], Tensor] = {}
        codes = [triton.code_of(s.reset) for s in constants.settings]
        self.reset = torch.tensor(codes, dtype=torch.uint8, device=self.device)
        self.out_of_range = torch.zeros(len(self.net.layers), dtype=torch.int32, device=self.device)
        self.packed: dict[str, Convolution] = {
            node.name: self.net.remember(
                constants.kind, f"packed for GPUs {node.name}", partial(self._pack, node, value)
            )
            for node, value in self.weighted_nodes()
        }

    def _pack(self, node: Node, value: str | None) -> Convolution:
        analog = value is None or (value == INPUT and not self.signed)
        kernel, options = self.convolution(node, value)
        shapes = image_shape(self.image_node(node)), image_shape(node)
        largest = None if analog or value is None else self.program.values[value].largest
        return pack(kernel, *shapes, options, self.signed and value == INPUT, largest)

    @override
    def for_another_thread(self) -> "GpuKernels":
        return self

    @override
    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    @override
    def release(self, *made: Any) -> None:
        pass  # torch reuses GPU memory once nothing refers to it

    @override
    def dense(self, node: Node, values: Tensor) -> Tensor:
        """Do what `Kernels.dense` describes.

        Integers are summed in float64, separately for the two bytes of their weights, so that every sum stays below
        2^53. For constant input `numerics` ensures this. For counts it holds because their own sum, times 2^7, is below
        2^53.
        """
        image = image_shape(self.image_node(node))
        source = torch.zeros(len(values), *image[1:], padded(image[0]), dtype=torch.float64, device=self.device)
        source[..., : image[0]] = values.reshape(len(values), *image).permute(0, 2, 3, 1)
        out = self.empty((len(values), *self.shape(node)), values.dtype)
        self._convolve(source, node, None, out)
        return out

    @override
    def encode(self, images: Tensor, input_scale: Tensor, seeds: Tensor, ids: Tensor, start: int, steps: int) -> Tensor:
        node = self.net.node(INPUT)
        out = torch.zeros(steps, len(images), *self.shape(node), dtype=torch.uint8, device=self.device)
        exact = images.to(torch.float64 if self.constants.dtype == torch.float64 else torch.float32)
        channels = image_shape(node)[0]
        for t in range(steps):
            spikes = poisson(exact, input_scale, seeds, ids, start + t).view(-1, *image_shape(node)).permute(0, 2, 3, 1)
            out[t, ..., :channels] = spikes > 0
            out[t, ..., channels : 2 * channels] = spikes < 0
        return out

    @override
    def events(self, name: str, value: Tensor) -> Tensor:
        return value

    @override
    def current(self, node: Node, events: Tensor, setting: Tensor | None, rows: int, steps: int, wide: bool) -> Tensor:
        out = self.empty((steps, rows, *self.shape(node)), self.dtype(wide))
        self._convolve(events.flatten(0, 1), node, setting, out.flatten(0, 1))
        return out

    def _convolve(self, values: Tensor, node: Node, setting: Tensor | None, out: Tensor) -> None:
        if setting is None:
            setting = torch.zeros(1, dtype=torch.int64, device=self.device)
            bias = torch.zeros(1, out.shape[-1], dtype=out.dtype, device=self.device)
        else:
            bias = self._bias(node, out.dtype)
        triton.convolve(values, self.packed[node.name], setting, bias, out)

    def _bias(self, node: Node, dtype: torch.dtype) -> Tensor:
        return self._table(
            node, "bias", dtype, lambda: self.constants.bias.get(node.name, torch.zeros(len(self.reset), 1))
        )

    def _table(self, node: Node, name: str, dtype: torch.dtype, make: Callable[[], Tensor], silent: int = 0) -> Tensor:
        """Spread a node's constants [K, 1 or C] over its channels in memory, [K, C], once.

        Channels without one get `silent`.
        """
        key = (node.name, name, dtype)
        if key not in self.tables:
            table = torch.full((len(self.reset), self.shape(node)[2]), silent, dtype=dtype, device=self.device)
            table[:, : image_shape(node)[0]] = make()
            self.tables[key] = table
        return self.tables[key]

    @override
    def fire(
        self,
        layer: Layer,
        events: Tensor | None,
        current: tuple[Tensor, Tensor] | None,
        addend: Tensor | None,
        setting: Tensor,
        potentials: Tensor,
        counts: Tensor,
        steps: int,
    ) -> Tensor:
        node, dtype, index = layer.node, potentials.dtype, self.net.layers.index(layer.node.name)
        neurons = Neurons(
            setting,
            self.reset,
            self._bias(layer.weighted, dtype),
            self._table(node, "threshold", dtype, lambda: self.constants.threshold[node.name], 1),
            potentials,
            counts,
            self.out_of_range[index : index + 1],
        )
        added = None if addend is None else self._addend(layer, addend, dtype)
        spikes = self.empty((steps, len(setting), *self.shape(node)), torch.uint8)
        if current is not None:
            triton.fire_from_currents(*current, neurons, added, spikes)
        else:
            assert events is not None
            triton.fire_from_spikes(events, self.packed[layer.weighted.name], neurons, added, spikes)
        return spikes

    def _addend(self, layer: Layer, values: Tensor, dtype: torch.dtype) -> Addend:
        assert layer.addend is not None
        addend, value = layer.addend, self.program.values[layer.addend.value]
        is_spikes = addend.node is None and value.largest == 1
        kind: Literal["flag", "scaled", "weighted"] = "flag" if is_spikes else "weighted"
        if self.constants.is_fixed and not is_spikes:
            kind, dtype = "scaled", torch.int64

        def make() -> Tensor:
            factor = self.constants.factor.get(addend.key, torch.ones(len(self.reset), 1, device=self.device))
            if self.constants.is_fixed:
                return (factor + (1 << FACTOR_BITS - 1)) >> FACTOR_BITS if is_spikes else factor
            return factor.to(dtype) / value.divisor if addend.node is None else factor

        return Addend(kind, values, self._table(layer.node, kind, dtype, make))

    @override
    def pooled(self, stage: Rearrangement, value: Tensor, pool: tuple[Tensor, Tensor] | None) -> Tensor:
        node = stage.node
        if stage.how == "max":
            return _pooled(value, node, largest=True)
        if stage.how == "sum":
            assert stage.multiplier is not None
            multiplier = stage.multiplier.to(self.device, torch.uint8, non_blocking=True)
            return _pooled(value, node, largest=False) * multiplier[..., None]
        assert pool is not None
        total, largest = pool
        out = self.empty((*value.shape[:2], *self.shape(node)), torch.uint8)
        for t in range(len(value)):
            total += value[t]
            grown = _pooled(total, node, largest=True)
            out[t] = grown - largest
            largest.copy_(grown)
        return out

    @override
    def left_range(self) -> list[str]:
        """Do what `Kernels.left_range` describes; this waits for the device."""
        names = [name for name, flag in zip(self.net.layers, self.out_of_range.tolist(), strict=True) if flag]
        self.out_of_range.zero_()
        return names

    @override
    def figures(self, counts: Tensor, synapses: Tensor, limit: int) -> Tensor:
        table = {"spikes": counts.sum(1), "synops": (counts * synapses).sum(1), "saturated": (counts >= limit).sum(1)}
        return torch.stack([table[figure] for figure in FIGURES], 1)


def _pooled(values: Tensor, node: Node, largest: bool) -> Tensor:
    """Return the largest or the sum of each window of a pooling node. values: >= 0, [..., H, W, C]; their dtype is
    kept."""
    options = node.options
    sizes = options["kernel_size"], options["stride"] or options["kernel_size"], options["padding"]
    kernel, stride, padding = ((size, size) if isinstance(size, int) else size for size in sizes)
    for i, axis in enumerate((-3, -2)):
        beyond = (node.shape[1 + i] - 1) * stride[i] + kernel[i] - padding[i] - values.shape[axis]
        windows = F.pad(values, [0, 0] * (2 - i) + [padding[i], beyond]).unfold(axis, kernel[i], stride[i])
        values = windows.amax(-1) if largest else windows.sum(-1, dtype=values.dtype)
    return values.contiguous()
