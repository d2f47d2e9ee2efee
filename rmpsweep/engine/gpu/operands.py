"""What the GPU kernels work on: packed weights, and the neurons and addends of a layer. Needs no Triton.

Legend: T steps of a chunk, R rows, K settings.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rmpsweep.engine.kernels import padded

LARGEST_INT8, MOST_INT8_INPUTS = 127, 2**17
"""If bytes are at most LARGEST_INT8, and an output has fewer than MOST_INT8_INPUTS inputs, then their products with
int8 weights add up within int32."""


@dataclass(frozen=True)
class Convolution:
    """A convolution as the kernels take it."""

    weights: Tensor
    """[planes, taps, C_out, C_in], int8 or floating point. Two planes hold w = lo + 256 hi, lo first."""
    geometry: tuple[int, ...]
    """The numbers H, W, C_in, Ho, Wo, C_out, taps, kernel width, and then stride, padding and dilation, each y before
    x."""


@dataclass(frozen=True)
class Addend:
    """What is added to a layer's current besides the convolution."""

    kind: Literal["flag", "scaled", "weighted"]
    """With "flag", the table's entry is added where a value is not zero. With "scaled", an integer times the entry is
    added, (M I + 2^15) >> 16. With "weighted", a number times the entry is added."""
    values: Tensor
    """[T, R, H, W, C]; bytes for "flag"."""
    table: Tensor
    """[K, C]."""


@dataclass(frozen=True)
class Neurons:
    """The neurons of R rows of a layer."""

    setting: Tensor
    """The setting of each row, int64 [R]."""
    reset: Tensor
    """Codes of resets, bytes [K]."""
    bias: Tensor
    """[K, C]."""
    threshold: Tensor
    """[K, C]."""
    potentials: Tensor
    """[R, H, W, C], updated."""
    counts: Tensor
    """Spike counts, [R, H, W, C], updated."""
    out_of_range: Tensor
    """Int32 [1], set to 1 if int32 potentials are outside [-2^30, 2^30) at the end of a chunk."""


def pack(
    weight: Tensor,
    input_shape: tuple[int, int, int],
    output_shape: tuple[int, int, int],
    options: dict[str, tuple[int, int]],
    signed: bool,
    largest: int | None,
) -> Convolution:
    """Pack a weight [C_out, C_in, kh, kw] for images of the given shapes (C, H, W).

    Args:
        signed: whether the input's negative spikes have channels of their own, whose weights are negated.
        largest: the largest byte that the convolution reads; None if it reads analog values, which are float64.

    Weights become float64 if they meet analog values, and so do integer weights whose int8 products could not sum up
    exactly. In float64 all sums of integers in a step are exact (`numerics`).
    """
    weight = torch.cat([weight, -weight], 1) if signed else weight
    outputs, inputs, kernel_height, kernel_width = weight.shape
    planes = weight[None]
    if weight.dtype == torch.int16:
        high = (weight.int() + 128) >> 8
        planes = torch.stack([weight.int() - 256 * high, high])
    dtype = weight.dtype if weight.is_floating_point() else torch.int8
    taps = kernel_height * kernel_width
    if largest is None or (dtype == torch.int8 and (largest > LARGEST_INT8 or taps * inputs >= MOST_INT8_INPUTS)):
        dtype = torch.float64
    (_, height, width), (_, out_height, out_width) = input_shape, output_shape
    packed = torch.zeros(len(planes), taps, padded(outputs), padded(inputs), dtype=dtype, device=weight.device)
    packed[:, :, :outputs, :inputs] = planes.permute(0, 3, 4, 1, 2).flatten(1, 2).to(dtype)
    geometry = (
        height,
        width,
        padded(inputs),
        out_height,
        out_width,
        padded(outputs),
        taps,
        kernel_width,
        *options["stride"],
        *options["padding"],
        *options["dilation"],
    )
    assert max(packed[0].numel(), height * width * padded(inputs)) < 2**31, "offsets within an image are int32"
    return Convolution(packed, geometry)
