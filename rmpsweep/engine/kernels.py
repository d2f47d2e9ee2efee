"""What runs once per neuron and step: what an implementation offers, and what those for CPUs and for GPUs share.

Tensors lie channels-last in memory, their channels padded with silent ones.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from rmpsweep.engine.network import Node, SpikingNetwork
from rmpsweep.engine.numerics import INPUT_BITS, Constants, quantize_input
from rmpsweep.engine.program import Layer, Program, Rearrangement, as_convolution, image_shape
from rmpsweep.terms import INPUT

POTENTIAL_LIMIT = 2**30
"""int32 potentials leave their range where they leave [-2^30, 2^30) at the end of a chunk. In a chunk currents sum up
to less than 2^30 (`needs_wide`), so they are still right then, and go on in int64 before they can wrap."""
PAD = 16
"""Channels are padded with silent ones to a multiple of this."""


def padded(channels: int) -> int:
    """Channels in memory."""
    return -(-channels // PAD) * PAD


class Kernels(Protocol):
    """The steps of a program for settings that share weights. Tensors are channels-last, [T, R, H, W, C], padded."""

    constants: Constants
    program: Program
    net: SpikingNetwork

    def needs_wide(self, layer: Layer, chunk: int) -> bool:
        """Whether int32 could wrap within a chunk, or cannot hold a constant."""

    def for_another_thread(self) -> "Kernels":
        """The same kernels without what was made and not released."""

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor of any content."""

    def release(self, *made: Any) -> None:
        """Tensors made here, or events, that nothing reads any more."""

    def dtype(self, wide: bool) -> torch.dtype:
        """Of potentials and currents."""

    def input_current(self, layer: Layer, images: Tensor, input_scale: Tensor, wide: bool) -> Tensor:
        """Constant input through the layer's weights, without bias. [I, C, H, W] -> [1, I, H, W, C]."""

    def constant_input(self, images: Tensor, input_scale: Tensor) -> Tensor:
        """x / Λ_0 under constant encoding as the first layer sees it: int64 multiples of 2^-12, or floating point."""

    def dense(self, node: Node, values: Tensor) -> Tensor:
        """A weighted node of int64 or float64 values [N, ...], summed in that dtype -> [N, Ho, Wo, C]."""

    def encode(self, images: Tensor, input_scale: Tensor, seeds: Tensor, ids: Tensor, start: int, steps: int) -> Tensor:
        """Poisson spikes of some steps, bytes, negative ones as channels after the positive. [T, I, H, W, C]."""

    def events(self, name: str, value: Tensor) -> Any:
        """A value [T, R, H, W, C] in the form in which weighted nodes read it."""

    def current(self, node: Node, events: Any, setting: Tensor | None, rows: int, steps: int, wide: bool) -> Tensor:
        """A weighted node of a value's events, [T, R, Ho, Wo, C]; with its bias where `setting` tells whose."""

    def fire(
        self,
        layer: Layer,
        events: Any,
        current: tuple[Tensor, Tensor] | None,
        addend: Tensor | None,
        setting: Tensor,
        potentials: Tensor,
        counts: Tensor,
        steps: int,
    ) -> Tensor:
        """Integrate, fire and reset a layer for some steps; potentials and counts [R, H, W, C] are updated.

        events: of what its weighted node reads; current: instead, (its currents [1 or T, I, H, W, C], the row of I for
        each row); addend: value or current a junction adds. Returns spikes [T, R, H, W, C], bytes.
        """

    def left_range(self) -> list[str]:
        """Layers whose int32 potentials left their range since the last call: right still, but to go on in int64."""

    def rearrange(self, step: Rearrangement, values: Sequence[Tensor], pool: tuple[Tensor, Tensor] | None) -> Tensor:
        """A step between values; pool: (input summed over steps, its largest), updated, of count pooling."""

    def tally(self, counts: Tensor, fan_out: Tensor, limit: float) -> Tensor:
        """Per row: spikes, synaptic operations, neurons with `limit` or more spikes; [R, 3]. fan_out: [C, H, W]."""


class ProgramKernels:
    """One network under settings that share weights."""

    def __init__(self, constants: Constants, program: Program) -> None:
        self.constants, self.program, self.net = constants, program, constants.net
        self.signed = constants.settings[0].encoding == "poisson"

    def weighted_nodes(self) -> Iterator[tuple[Node, str | None]]:
        """Every weighted node with the value it reads, None for read-out nodes."""
        for step in self.program.steps:
            if isinstance(step, Layer):
                yield step.weighted, step.value
                if step.addend is not None and step.addend.node is not None:
                    yield step.addend.node, step.addend.value
        for node in self.net.readout:
            if node.op in ("conv", "linear"):
                yield node, None

    def convolution(self, node: Node, value: str | None) -> tuple[Tensor, dict[str, tuple[int, int]]]:
        """Weight [C_out, C_in, kh, kw] and options; window sums are short of their divisor, so are float weights."""
        weight = self.constants.weights[node.name]
        if value is not None and not self.constants.is_fixed and self.program.values[value].divisor > 1:
            weight = weight / self.program.values[value].divisor
        return as_convolution(self.net, node, weight)

    def image_node(self, node: Node) -> Node:
        """The node whose image a weighted node reads: a flatten leaves its input as it is."""
        source = self.net.node(node.inputs[0])
        return self.net.node(source.inputs[0]) if source.op == "flatten" else source

    def shape(self, node: Node) -> tuple[int, int, int]:
        """(H, W, C) of that node's output in memory."""
        channels, height, width = image_shape(node)
        return height, width, padded(2 * channels if node.name == INPUT and self.signed else channels)

    def dtype(self, wide: bool) -> torch.dtype:
        """Of potentials and currents."""
        if not self.constants.is_fixed:
            return self.constants.dtype
        return torch.int64 if wide else torch.int32

    def needs_wide(self, layer: Layer, chunk: int) -> bool:
        """Whether int32 could wrap within a chunk, or cannot hold a constant."""
        if not self.constants.is_fixed:
            return False
        largest = self.constants.largest[layer.node.inputs[0]] * chunk
        if layer.addend is not None:
            largest = max(largest, self.constants.largest[layer.addend.value])
            if layer.addend.node is not None:
                largest = max(largest, self.constants.largest[layer.addend.node.name])
        return max(largest, float(self.constants.threshold[layer.node.name].max())) >= POTENTIAL_LIMIT

    def constant_input(self, images: Tensor, input_scale: Tensor) -> Tensor:
        """x / Λ_0 under constant encoding as the first layer sees it: int64 multiples of 2^-12, or floating point."""
        if self.constants.is_fixed:
            return quantize_input(images, input_scale)
        values = images.to(self.constants.dtype)
        return values / input_scale.to(values).view(-1, *[1] * (images.dim() - 1))

    def input_current(self, layer: Layer, images: Tensor, input_scale: Tensor, wide: bool) -> Tensor:
        """Constant input through the layer's weights, without bias. [I, C, H, W] -> [1, I, H, W, C]."""
        values = self.constant_input(images, input_scale)
        if self.constants.is_fixed:
            result = (self.dense(layer.weighted, values) + (1 << INPUT_BITS - 1)) >> INPUT_BITS
        else:
            result = self.dense(layer.weighted, values.double())
        return result.to(self.dtype(wide))[None]

    def concatenate(self, node: Node, values: Sequence[Tensor], out: Tensor) -> None:
        """The channels of values, without those that pad them, one after the other into out; [T, R, H, W, C] each."""
        start = 0
        for name, value in zip(node.inputs, values, strict=True):
            channels = self.net.node(name).shape[0]
            out[..., start : start + channels] = value[..., :channels]
            start += channels

    def dense(self, node: Node, values: Tensor) -> Tensor:
        """A weighted node of int64 or float64 values [N, ...], summed in that dtype -> [N, Ho, Wo, C]."""
        raise NotImplementedError
