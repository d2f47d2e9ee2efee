"""Runs the stages of a program on the CPU, with the kernels beside this file.

Tensors are channels-last, [T, R, H, W, C].
"""

import copy
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from rmpsweep.engine.cpu import kernels as cpu
from rmpsweep.engine.cpu.pack import Convolution, pack
from rmpsweep.engine.cpu.workspace import Workspace
from rmpsweep.engine.encode import fill_poisson
from rmpsweep.engine.kernels import ProgramKernels
from rmpsweep.engine.network import Node
from rmpsweep.engine.numerics import FACTOR_BITS, Constants
from rmpsweep.engine.program import Addend, Layer, Program, Rearrangement, image_shape
from rmpsweep.terms import FIGURES, INPUT

_NONE = {name: np.zeros(0, name) for name in ("uint8", "int32", "int64", "float32", "float64")}
Events = tuple[np.ndarray, np.ndarray]


class CpuKernels(ProgramKernels):
    """Event-driven kernels for one thread."""

    def __init__(self, constants: Constants, program: Program) -> None:
        super().__init__(constants, program)
        self.workspace = Workspace()
        self.left: list[str] = []
        self.reset = np.array([cpu.code_of(s.reset) for s in constants.settings], np.uint8)
        self.packed: dict[str, Convolution] = {
            node.name: self.net.remember(constants.kind, f"packed {node.name}", partial(self._pack, node, value))
            for node, value in self.weighted_nodes()
        }

    def _pack(self, node: Node, value: str | None) -> Convolution:
        kernel, options = self.convolution(node, value)
        shapes = image_shape(self.image_node(node)), image_shape(node)
        return pack(kernel.cpu().numpy(), *shapes, options, self.signed and value == INPUT)

    @override
    def for_another_thread(self) -> "CpuKernels":
        other = copy.copy(self)
        other.workspace, other.left = Workspace(), []
        return other

    @override
    def left_range(self) -> list[str]:
        names, self.left = self.left, []
        return names

    @override
    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return self.workspace.empty(shape, dtype)

    @override
    def release(self, *made: Any) -> None:
        for each in made:
            self.workspace.release(*each if isinstance(each, tuple) else (each,))

    @override
    def dense(self, node: Node, values: Tensor) -> Tensor:
        convolution = self.packed[node.name]
        image = self.image_node(node)
        source = torch.zeros(len(values), *self.shape(image)[:2], int(convolution.shape[2]), dtype=values.dtype)
        channels_last = values.reshape(len(values), *image_shape(image)).permute(0, 2, 3, 1)
        source[..., : channels_last.shape[-1]] = channels_last
        out = torch.empty(len(values), *self.shape(node), dtype=values.dtype)
        cpu.dense(convolution.width, _flat(source), convolution.weights, convolution.shape, _flat(out))
        return out

    @override
    def encode(self, images: Tensor, input_scale: Tensor, seeds: Tensor, ids: Tensor, start: int, steps: int) -> Tensor:
        out = self.workspace.empty((steps, len(images), *self.shape(self.net.node(INPUT))), torch.uint8).zero_()
        exact = torch.float64 if self.constants.dtype == torch.float64 else torch.float32
        fill_poisson(images.to(exact), input_scale, seeds, ids, start, out)
        return out

    @override
    def events(self, name: str, value: Tensor) -> Events:
        values, (width, channels) = _flat(value), value.shape[3:]
        largest = self.program.values[name].largest
        number = np.count_nonzero(values.view(bool)) if largest == 1 else int(values.sum(dtype=np.int64))
        pointers = self.workspace.empty((len(values) // channels + 1,), torch.int64).numpy()
        indices = self.workspace.empty((int(number) + cpu.SPARE,), torch.int32).numpy()
        cpu.list_events(values, width, channels, largest, pointers, indices)
        return pointers, indices

    @override
    def current(self, node: Node, events: Events, setting: Tensor | None, rows: int, steps: int, wide: bool) -> Tensor:
        convolution, dtype = self.packed[node.name], self.dtype(wide)
        out = self.workspace.empty((steps, rows, *self.shape(node)), dtype)
        accumulator = out.numpy().dtype
        bias = np.zeros(int(convolution.shape[5]), accumulator)
        own = np.zeros(rows, np.int64)
        if setting is not None:
            own, bias = setting.numpy(), self._bias(node, convolution, accumulator)
        cpu.current(convolution.width, *events, convolution.weights, convolution.shape, own, bias, steps, _flat(out))
        return out

    def _bias(self, node: Node, convolution: Convolution, accumulator: np.dtype) -> np.ndarray:
        if node.name in self.constants.bias:
            return self._table(convolution, self.constants.bias[node.name], accumulator)
        return np.zeros(len(self.reset) * int(convolution.shape[5]), accumulator)

    @staticmethod
    def _table(convolution: Convolution, values: Tensor, dtype: np.dtype, silent: int = 0) -> np.ndarray:
        return convolution.table(values.numpy(), silent).astype(dtype)

    @override
    def fire(
        self,
        layer: Layer,
        events: Events | None,
        current: tuple[Tensor, Tensor] | None,
        addend: Tensor | None,
        setting: Tensor,
        potentials: Tensor,
        counts: Tensor,
        steps: int,
    ) -> Tensor:
        convolution, accumulator = self.packed[layer.weighted.name], potentials.numpy().dtype
        spikes = self.workspace.empty((steps, len(setting), *self.shape(layer.node)), torch.uint8)
        factor_dtype = accumulator if accumulator.kind == "f" else np.dtype("int64")
        own = setting.numpy()
        kind, bytes_, currents, rows = cpu.NOTHING, _NONE["uint8"], _NONE[accumulator.name], own
        size = potentials[0].numel()
        stride = len(setting) * size
        flag = np.zeros(len(self.reset) * int(convolution.shape[5]), accumulator)
        factor = flag.astype(factor_dtype)
        shape = convolution.shape
        if current is not None:
            kind, currents, rows = cpu.CURRENT, _flat(current[0]), current[1].numpy()
            stride = current[0][0].numel() if len(current[0]) > 1 else 0
            shape = shape.copy()
            shape[6] = 0  # no taps
            events = (np.zeros(1, np.int64), np.zeros(1, np.int32))
        elif addend is not None:
            assert layer.addend is not None
            kind, table = self._junction(layer.addend)
            rows = np.arange(len(setting))
            if kind == cpu.FLAG:
                bytes_, flag = _flat(addend), self._table(convolution, table, accumulator)
            else:
                currents = _flat(addend.to(potentials.dtype))
                factor = self._table(convolution, table, factor_dtype)
        assert events is not None
        left_range = cpu.fire(
            convolution.width,
            *events,
            convolution.weights,
            shape,
            own,
            self._bias(layer.weighted, convolution, accumulator),
            self._table(convolution, self.constants.threshold[layer.node.name], accumulator, 1),
            self.reset,
            kind,
            bytes_,
            currents,
            rows,
            stride,
            flag,
            factor,
            steps,
            _flat(potentials),
            _flat(counts),
            _flat(spikes),
        )
        if left_range:
            self.left.append(layer.node.name)
        return spikes

    def _junction(self, addend: Addend) -> tuple[int, Tensor]:
        """Return how an addend enters the current (FLAG or SCALED), with the table for that, [K, 1 or C]."""
        value = self.program.values[addend.value]
        factor = self.constants.factor.get(addend.key)
        if self.constants.is_fixed:
            assert factor is not None
            if addend.node is None and value.largest == 1:
                return cpu.FLAG, (factor + (1 << FACTOR_BITS - 1)) >> FACTOR_BITS
            return cpu.SCALED, factor
        factor = torch.ones(len(self.reset), 1, dtype=self.constants.dtype) if factor is None else factor
        if addend.node is None:
            return (cpu.FLAG if value.largest == 1 else cpu.SCALED), factor / value.divisor
        return cpu.SCALED, factor

    @override
    def pooled(self, stage: Rearrangement, value: Tensor, pool: tuple[Tensor, Tensor] | None) -> Tensor:
        window = _window(stage.node)
        out = self.workspace.empty((*value.shape[:2], *self.shape(stage.node)), torch.uint8)
        if stage.how == "count":
            assert pool is not None
            cpu.count_pool(value.numpy(), window, pool[0].numpy(), pool[1].numpy(), out.numpy())
            return out
        source, target = value.flatten(0, 1).numpy(), out.flatten(0, 1).numpy()
        if stage.how == "max":
            cpu.max_pool(source, window, target)
        else:
            assert stage.multiplier is not None
            cpu.sum_pool(source, window, stage.multiplier.numpy(), target)
        return out

    @override
    def figures(self, counts: Tensor, synapses: Tensor, limit: int) -> Tensor:
        out = torch.empty(len(counts), len(FIGURES), dtype=torch.int64)
        cpu.tally(counts.numpy(), synapses.numpy(), limit, out.numpy())
        return out


def _flat(tensor: Tensor) -> np.ndarray:
    """Return a flat view of all elements."""
    return tensor.view(-1).numpy()


def _window(node: Node) -> np.ndarray:
    """Return kernel, stride and padding of a pooling node, each y then x."""
    sizes = node.options["kernel_size"], node.options["stride"] or node.options["kernel_size"], node.options["padding"]
    return np.array([n for size in sizes for n in ((size, size) if isinstance(size, int) else size)])
