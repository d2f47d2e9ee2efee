"""Runs the stages of a program on the CPU, with the kernels beside this file.

Tensors are channels-last, [T, R, H, W, C].
"""

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from rmpsweep.engine.cpu import kernels as cpu
from rmpsweep.engine.cpu import strips, update
from rmpsweep.engine.cpu.pack import Convolution, pack
from rmpsweep.engine.cpu.tables import Tables, bias_of, tables_of
from rmpsweep.engine.cpu.workspace import Scratch, Workspace
from rmpsweep.engine.encode import fill_poisson
from rmpsweep.engine.kernels import ProgramKernels
from rmpsweep.engine.network import Node
from rmpsweep.engine.numerics import Constants
from rmpsweep.engine.program import Layer, Program, Rearrangement, image_shape
from rmpsweep.terms import FIGURES, INPUT

_NOTHING = np.zeros(0, np.uint8)
_NONE = {name: np.zeros(0, name) for name in ("int32", "int64", "float32", "float64")}
LARGEST_SUM = 2**31
"""If the sums of a layer in one step may reach this, they are computed in int64."""
MOST_CODED = 2**24
"""The most bytes of a layer's weights of which a negated copy is made, for complement coding."""


@dataclass(frozen=True)
class Spikes:
    """What `strips` reads as the events of a value: the value itself, whose largest byte is known."""

    values: np.ndarray
    largest: int


Events = tuple[np.ndarray, np.ndarray] | Spikes


class CpuKernels(ProgramKernels):
    """Event-driven kernels for one thread."""

    def __init__(self, constants: Constants, program: Program) -> None:
        super().__init__(constants, program)
        self.workspace, self.scratch = Workspace(), Scratch()
        self.left: list[str] = []
        self.tables: dict[tuple[str, str], Tables] = {}
        self.biases: dict[tuple[str, str], np.ndarray] = {}
        self.layers = {stage.weighted.name for stage in program.stages if isinstance(stage, Layer)}
        self.reset = np.array([update.code_of(s.reset) for s in constants.settings], np.uint8)
        self.packed: dict[str, Convolution] = {
            node.name: self.net.remember(constants.kind, f"packed {node.name}", partial(self._pack, node, value))
            for node, value in self.weighted_nodes()
        }

    def _pack(self, node: Node, value: str | None) -> Convolution:
        kernel, options = self.convolution(node, value)
        weight, copies = kernel.cpu().numpy(), 0
        if self.constants.is_fixed and value is not None and (self.signed or value != INPUT):
            largest = self.program.values[value].largest
            coding = node.name in self.layers and value != INPUT and largest == 1 and weight.nbytes <= MOST_CODED
            copies = 2 if coding else 1
            if weight[0].size * largest * np.iinfo(weight.dtype).max >= LARGEST_SUM:
                weight = weight.astype(np.int32)  # whose sums are in int64
        shapes = image_shape(self.image_node(node)), image_shape(node)
        return pack(weight, *shapes, options, self.signed and value == INPUT, copies)

    @override
    def for_another_thread(self) -> "CpuKernels":
        other = copy.copy(self)
        other.workspace, other.scratch, other.left = Workspace(), Scratch(), []
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
            if not isinstance(each, Spikes):
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
        largest = self.program.values[name].largest
        if self.constants.is_fixed:
            return Spikes(_flat(value), largest)
        values, (width, channels) = _flat(value), value.shape[3:]
        number = np.count_nonzero(values.view(bool)) if largest == 1 else int(values.sum(dtype=np.int64))
        pointers = self.workspace.empty((len(values) // channels + 1,), torch.int64).numpy()
        indices = self.workspace.empty((int(number) + cpu.SPARE,), torch.int32).numpy()
        cpu.list_events(values, width, channels, largest, pointers, indices)
        return pointers, indices

    @override
    def current(self, node: Node, events: Events, setting: Tensor | None, rows: int, steps: int, wide: bool) -> Tensor:
        convolution, dtype = self.packed[node.name], self.dtype(wide)
        out = self.workspace.empty((steps, rows, *self.shape(node)), dtype)
        result, own = _flat(out), np.zeros(rows, np.int64)
        bias = np.zeros(int(convolution.shape[5]), result.dtype)
        if setting is not None:
            own, bias = setting.numpy(), self._bias(node, result.dtype)
        shared = convolution.weights, convolution.shape, own, bias, steps
        if isinstance(events, Spikes):
            lists = self.scratch.lists(convolution, events.largest, 1)
            strips.current(convolution.width, events.values, events.largest, *shared, *lists, result)
        else:
            cpu.current(convolution.width, *events, *shared, result)
        return out

    def _bias(self, node: Node, dtype: np.dtype) -> np.ndarray:
        key = node.name, dtype.name
        if key not in self.biases:
            self.biases[key] = bias_of(self.constants, node, self.packed[node.name], dtype)
        return self.biases[key]

    def _tables(self, layer: Layer, dtype: np.dtype) -> Tables:
        key = layer.node.name, dtype.name
        if key not in self.tables:
            convolution = self.packed[layer.weighted.name]
            self.tables[key] = tables_of(self.constants, self.program, layer, convolution, dtype)
        return self.tables[key]

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
        convolution, results = self.packed[layer.weighted.name], (_flat(potentials), _flat(counts))
        tables = self._tables(layer, results[0].dtype)
        spikes = self.workspace.empty((steps, *potentials.shape), torch.uint8)
        kind, bytes_, currents, own = tables.kind, _NOTHING, _NONE[results[0].dtype.name], setting.numpy()
        rows, stride, shape = np.arange(len(own)), len(results[0]), convolution.shape
        if current is not None:
            kind, currents, rows = update.CURRENT, _flat(current[0]), current[1].numpy()
            stride = current[0][0].numel() if len(current[0]) > 1 else 0
            shape = shape.copy()
            shape[6] = 0  # no taps
        elif addend is not None:
            if kind == update.FLAG:
                bytes_ = _flat(addend)
            else:
                currents = _flat(addend.to(potentials.dtype))
        added = kind, bytes_, currents, rows, stride, tables.flag, tables.factor, steps
        constants = own, tables.bias, tables.threshold, self.reset
        if self.constants.is_fixed:
            events = Spikes(_NOTHING, 1) if events is None else events
            assert isinstance(events, Spikes)
            scratch = self.scratch.coded_lists(convolution, events.largest, len(own), steps)
            reads = events.values, events.largest, convolution.coding, convolution.weights, shape
            if strips.fire(convolution.width, *reads, *constants, *added, *scratch, *results, _flat(spikes)):
                self.left.append(layer.node.name)
        else:
            events = (_NONE["int64"], _NONE["int32"]) if events is None else events
            assert not isinstance(events, Spikes)
            reads_listed = *events, convolution.weights, shape
            cpu.fire(convolution.width, *reads_listed, *constants, *added, *results, _flat(spikes))
        return spikes

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
