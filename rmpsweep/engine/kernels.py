"""The interface of the kernels, which do the work that grows with neurons x steps, and what CPUs and GPUs share.

In memory, tensors are channels-last, and their channels are padded with silent ones, which never spike.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, assert_never

import torch
from torch import Tensor
from typing_extensions import override  # in `typing` from Python 3.12 on

from rmpsweep.engine.encode import is_spiking
from rmpsweep.engine.network import Node, SpikingNetwork, rearrange
from rmpsweep.engine.numerics import INPUT_BITS, Constants, quantize_input
from rmpsweep.engine.program import Layer, Program, Rearrangement, as_convolution, image_shape
from rmpsweep.terms import INPUT

POTENTIAL_LIMIT = 2**30
"""Potentials in int32 count as out of range if they are outside [-2^30, 2^30) at the end of a chunk. The currents of
one chunk sum up to less than 2^30 (`needs_wide`), so they have not wrapped by then, and continue in int64 before they
can."""
PAD = 16
"""Channels are padded with silent ones to a multiple of this."""


def padded(channels: int) -> int:
    """Return the number of channels in memory."""
    return -(-channels // PAD) * PAD


class Kernels(Protocol):
    """The kernels that compute the stages of a program, for settings that share weights.

    Tensors are channels-last with padded channels, [T, R, H, W, C], unless said otherwise: T steps of a chunk, R rows,
    each a pair of a setting and an input. Of the I different inputs, several rows may read the same one.
    """

    constants: Constants
    program: Program
    net: SpikingNetwork

    def needs_wide(self, layer: Layer, chunk: int) -> bool:
        """Whether a layer needs int64: int32 could wrap within a chunk, or cannot hold a constant of the layer."""

    def for_another_thread(self) -> "Kernels":
        """Return these kernels for another thread, without the tensors that were made here and not yet released."""

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a tensor with arbitrary content."""

    def release(self, *made: Any) -> None:
        """Take back tensors or events that were made here and that nothing reads any more."""

    def dtype(self, wide: bool) -> torch.dtype:
        """Return the dtype of potentials and currents. In fixed numerics, `wide` asks for int64 instead of int32."""

    def input_current(self, layer: Layer, images: Tensor, input_scale: Tensor, wide: bool) -> Tensor:
        """Apply the layer's weights, without bias, to constant input. images [I, C, H, W] -> [1, I, H, W, C]."""

    def constant_input(self, images: Tensor, input_scale: Tensor) -> Tensor:
        """Return constant input x / Λ_0 as the first layer reads it: int64 multiples of 2^-12, or floating point."""

    def dense(self, node: Node, values: Tensor) -> Tensor:
        """Compute a weighted node from int64 or float64 values [N, ...], summed in their dtype -> [N, Ho, Wo, C]."""

    def encode(self, images: Tensor, input_scale: Tensor, seeds: Tensor, ids: Tensor, start: int, steps: int) -> Tensor:
        """Draw the Poisson spikes of `steps` steps from `start` on, bytes [T, I, H, W, C].

        Negative spikes have channels of their own, which follow those of the positive spikes.
        """

    def events(self, name: str, value: Tensor) -> Any:
        """Convert a value [T, R, H, W, C] to the form in which weighted nodes read it."""

    def current(self, node: Node, events: Any, setting: Tensor | None, rows: int, steps: int, wide: bool) -> Tensor:
        """Compute a weighted node from the events of a value, [T, R, Ho, Wo, C].

        `setting` gives the setting of each row, whose bias is added; if it is None, no bias is added.
        """

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
        """Integrate, fire and reset a layer for `steps` steps, as `neuron.step` does.

        The bias of each row's setting is added here; `current` must not contain it.

        Args:
            events: those of the value that the layer's weighted node reads; None if there is a `current`.
            current: replaces the events: currents [1 or T, I, H, W, C], and for each row the index of its input.
            addend: the value or current that a junction adds; None if there is no junction.
            setting: the setting of each row, int64 [R].
            potentials, counts: [R, H, W, C], updated.
        Returns:
            The spikes, bytes [T, R, H, W, C].
        """

    def left_range(self) -> list[str]:
        """Return the layers whose int32 potentials have left their range since the last call.

        These potentials are still right, but must continue in int64.
        """

    def rearrange(self, stage: Rearrangement, values: Sequence[Tensor], pool: tuple[Tensor, Tensor] | None) -> Tensor:
        """Compute a stage that turns values into another value, bytes [T, R, H, W, C].

        Args:
            pool: for count pooling, the input summed over steps, in the shape of the input without T, and the largest
            such sum of each window, in the shape of the output without T. Both are updated.
        """

    def tally(self, counts: Tensor, fan_out: Tensor, limit: int) -> Tensor:
        """Count the figures of each row, int64 [R, F] in the order of FIGURES.

        Args:
            counts: the spikes so far, [R, H, W, C].
            fan_out: [C, H, W].
            limit: the number of spikes from which a neuron is saturated.
        """


class ProgramKernels(Kernels):
    """What the kernels for CPUs and for GPUs share."""

    def __init__(self, constants: Constants, program: Program) -> None:
        self.constants, self.program, self.net = constants, program, constants.net
        self.signed = is_spiking(constants.settings[0].encoding)

    def weighted_nodes(self) -> Iterator[tuple[Node, str | None]]:
        """Yield every weighted node with the value that it reads, or with None if it belongs to the read-out."""
        for stage in self.program.stages:
            if isinstance(stage, Layer):
                yield stage.weighted, stage.value
                if stage.addend is not None and stage.addend.node is not None:
                    yield stage.addend.node, stage.addend.value
        for node in self.net.readout:
            if node.op in ("conv", "linear"):
                yield node, None

    def convolution(self, node: Node, value: str | None) -> tuple[Tensor, dict[str, tuple[int, int]]]:
        """Return a weighted node's weight [C_out, C_in, kh, kw] and its options.

        Pooled values are sums that have not been divided yet; floating-point weights are divided by their
        divisor here instead.
        """
        weight = self.constants.weights[node.name]
        if value is not None and not self.constants.is_fixed and self.program.values[value].divisor > 1:
            weight = weight / self.program.values[value].divisor
        return as_convolution(self.net, node, weight)

    def image_node(self, node: Node) -> Node:
        """Return the node whose image a weighted node reads.

        A flatten in between leaves the image in memory as it is.
        """
        source = self.net.node(node.inputs[0])
        return self.net.node(source.inputs[0]) if source.op == "flatten" else source

    def shape(self, node: Node) -> tuple[int, int, int]:
        """Return (H, W, C) of a node's output in memory."""
        channels, height, width = image_shape(node)
        return height, width, padded(2 * channels if node.name == INPUT and self.signed else channels)

    @override
    def dtype(self, wide: bool) -> torch.dtype:
        if not self.constants.is_fixed:
            return self.constants.dtype
        return torch.int64 if wide else torch.int32

    @override
    def needs_wide(self, layer: Layer, chunk: int) -> bool:
        if not self.constants.is_fixed:
            return False
        largest = self.constants.largest[layer.node.inputs[0]] * chunk
        if layer.addend is not None:
            largest = max(largest, self.constants.largest[layer.addend.value])
            if layer.addend.node is not None:
                largest = max(largest, self.constants.largest[layer.addend.node.name])
        return max(largest, float(self.constants.threshold[layer.node.name].max())) >= POTENTIAL_LIMIT

    @override
    def constant_input(self, images: Tensor, input_scale: Tensor) -> Tensor:
        if self.constants.is_fixed:
            return quantize_input(images, input_scale)
        values = images.to(self.constants.dtype)
        return values / input_scale.to(values).view(-1, *[1] * (images.dim() - 1))

    @override
    def input_current(self, layer: Layer, images: Tensor, input_scale: Tensor, wide: bool) -> Tensor:
        values = self.constant_input(images, input_scale)
        if self.constants.is_fixed:
            result = (self.dense(layer.weighted, values) + (1 << INPUT_BITS - 1)) >> INPUT_BITS
        else:
            result = self.dense(layer.weighted, values.double())
        return result.to(self.dtype(wide))[None]

    @override
    def rearrange(self, stage: Rearrangement, values: Sequence[Tensor], pool: tuple[Tensor, Tensor] | None) -> Tensor:
        match stage.how:
            case "flatten":
                return values[0]
            case "concat":
                return self._concatenated(stage.node, values)
            case "slice" | "pad":
                return self._moved(stage.node, values[0])
            case "sum" | "max" | "count":
                return self.pooled(stage, values[0], pool)
            case _:
                assert_never(stage.how)

    def pooled(self, stage: Rearrangement, value: Tensor, pool: tuple[Tensor, Tensor] | None) -> Tensor:
        """Do what `rearrange` does, for the three kinds of pooling."""
        raise NotImplementedError

    def _concatenated(self, node: Node, values: Sequence[Tensor]) -> Tensor:
        """Join the channels of several values, without those that pad them."""
        out = self._silent(values[0], node)
        start = 0
        for name, value in zip(node.inputs, values, strict=True):
            channels = self.net.node(name).shape[0]
            out[..., start : start + channels] = value[..., :channels]
            start += channels
        return out

    def _moved(self, node: Node, value: Tensor) -> Tensor:
        """Apply a slice or pad node."""
        out = self._silent(value, node)
        channels = self.net.node(node.inputs[0]).shape[0]
        planes = rearrange(node, value[..., :channels].permute(0, 1, 4, 2, 3).flatten(0, 1))
        out[..., : node.shape[0]] = planes.unflatten(0, value.shape[:2]).permute(0, 1, 3, 4, 2)
        return out

    def _silent(self, value: Tensor, node: Node) -> Tensor:
        """Return the output of a node that emits no spikes, for the steps and rows of a value."""
        return self.empty((*value.shape[:2], *self.shape(node)), torch.uint8).zero_()

    @override
    def tally(self, counts: Tensor, fan_out: Tensor, limit: int) -> Tensor:
        synapses = torch.zeros(counts.shape[1:], dtype=torch.int64, device=counts.device)
        planes = fan_out.reshape(-1, *counts.shape[1:3]).to(counts.device)
        synapses[..., : len(planes)] = planes.permute(1, 2, 0)
        return self.figures(counts.flatten(1), synapses.flatten(), limit)

    def figures(self, counts: Tensor, synapses: Tensor, limit: int) -> Tensor:
        """Do what `tally` does, for counts [R, M] and a fan-out [M]."""
        raise NotImplementedError
