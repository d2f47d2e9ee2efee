"""What runs once per neuron and step, for the CPU and for GPUs, and what an implementation must offer."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from rmpsweep.engine.network import Node, SpikingNetwork
from rmpsweep.engine.numerics import Constants
from rmpsweep.engine.program import Layer, Program, Rearrangement


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
        self, layer: Layer, events: Any, current: tuple[Tensor, Tensor] | None, addend: Tensor | None, setting: Tensor,
        potentials: Tensor, counts: Tensor, steps: int,
    ) -> Tensor:  # fmt: skip
        """Integrate, fire and reset a layer for some steps; potentials and counts [R, H, W, C] are updated.

        events: of what its weighted node reads; current: instead, (its currents [1 or T, I, H, W, C], the row of I for
        each row); addend: value or current a junction adds. Returns spikes [T, R, H, W, C], bytes.
        """

    def left_range(self) -> list[str]:
        """Layers whose int32 potentials left their range since the last call: right still, but to go on in int64."""

    def rearrange(
        self, step: Rearrangement, values: Sequence[Tensor], pool: tuple[Tensor, Tensor] | None
    ) -> Tensor:  # fmt: skip
        """A step between values; pool: (input summed over steps, its largest), updated, of count pooling."""

    def tally(self, counts: Tensor, fan_out: Tensor, limit: float) -> Tensor:
        """Per row: spikes, synaptic operations, neurons with `limit` or more spikes; [R, 3]. fan_out: [C, H, W]."""
