"""Puts weights in the order in which the CPU kernels read them."""

import math
from dataclasses import dataclass

import numpy as np

from rmpsweep.engine.cpu.lanes import width_of
from rmpsweep.engine.kernels import padded

LANES = {"int8": 128, "int16": 64, "int32": 32, "float32": 64, "float64": 32}
"""How many outputs are computed together, by dtype of the weights. These numbers measured best on AVX-512."""
ALIGNMENT = 64
"""The bytes of a cache line. A row of weights that lies across two of them takes longer to read."""


@dataclass(frozen=True)
class Convolution:
    """A convolution as `cpu.kernels` and `cpu.strips` take it.

    `tile` neighbouring outputs of a row are computed together as if they were channels, so that the lanes are filled
    even where there are few channels.
    """

    weights: np.ndarray
    """Flat [blocks, kh, kw, C_in, lanes]. For strips it is [blocks, copies, kw, kh, C_in, lanes], where a second copy
    is negated, and the lanes of int8 and int16 weights are in pairs (see `gather`)."""
    shape: np.ndarray
    """Int64 [H, W, C_in, Ho, Wo, C_out, kh, kw, stride y, stride x, padding y, padding x], where Wo, C_out, kw and
    stride x are those of the tiles."""
    width: tuple[int, ...]
    """The number of lanes; see `lanes.width_of`."""
    tile: int
    """The number of outputs in a tile."""

    @property
    def coding(self) -> bool:
        """Whether there is a negated copy of the weights, for complement coding in `strips`."""
        return len(self.weights) > int(self.shape[[2, 5, 6, 7]].prod())

    def table(self, values: np.ndarray, silent: int = 0) -> np.ndarray:
        """Spread constants by channel, [K, 1 or C], over all lanes: flat [K, C_out].

        Channels without a constant get `silent`.
        """
        every = np.full((len(values), self.shape[5] // self.tile), silent, values.dtype)
        channels = values if values.shape[1] > 1 else np.broadcast_to(values, every.shape)
        every[:, : channels.shape[1]] = channels
        return np.tile(every, (1, self.tile)).reshape(-1)


def pack(
    weight: np.ndarray,
    input_shape: tuple[int, int, int],
    output_shape: tuple[int, int, int],
    options: dict[str, tuple[int, int]],
    signed: bool = False,
    copies: int = 0,
) -> Convolution:
    """Pack a weight [C_out, C_in, kh, kw] for images of the given shapes (C, H, W).

    Args:
        signed: whether the input's negative spikes have channels of their own, whose weights are negated.
        copies: of the weights, for `strips`; 0 if `kernels` reads them.
    """
    if signed:
        weight = np.concatenate([weight, -weight], 1)
    (_, height, width), (_, out_height, out_width) = input_shape, output_shape
    (stride_y, stride_x), (padding_y, padding_x) = options["stride"], options["padding"]
    dilation_y, dilation_x = options["dilation"]
    outputs, inputs, taps_y, taps_x = weight.shape
    in_channels, out_channels, most = padded(inputs), padded(outputs), LANES[weight.dtype.name]
    tile = 1
    while out_channels * tile * 2 <= most and out_width % (tile * 2) == 0:
        tile *= 2
    lanes = next(n for n in (128, 64, 32, 16) if n <= most and out_channels * tile % n == 0)
    kernel_y = (taps_y - 1) * dilation_y + 1
    single_x = (taps_x - 1) * dilation_x + 1
    kernel_x = single_x + (tile - 1) * stride_x
    blocks = out_channels * tile // lanes
    kernel = (kernel_y, kernel_x, in_channels, lanes)
    packed = _aligned((blocks, copies or 1, *(kernel_x, kernel_y)[:: 1 if copies else -1], *kernel[2:]), weight.dtype)
    for block in range(blocks):
        plane = np.zeros(kernel, weight.dtype)
        for output in range(block * lanes, (block + 1) * lanes, min(lanes, out_channels)):
            first, left = output % out_channels, output // out_channels * stride_x
            part = weight[first : first + min(lanes, out_channels)].transpose(2, 3, 1, 0)
            lane = output % lanes
            plane[::dilation_y, left : left + single_x : dilation_x, :inputs, lane : lane + part.shape[3]] = part
        if not copies:
            packed[block, 0] = plane
        for copy, sign in zip(range(copies), (1, -1), strict=False):
            packed[block, copy] = _paired(plane.swapaxes(0, 1) * weight.dtype.type(sign))
    shape = np.array(
        [
            height,
            width,
            in_channels,
            out_height,
            out_width // tile,
            out_channels * tile,
            kernel_y,
            kernel_x,
            stride_y,
            stride_x * tile,
            padding_y,
            padding_x,
        ]
    )
    return Convolution(packed.reshape(-1), shape, width_of(lanes), tile)


def _paired(weights: np.ndarray) -> np.ndarray:
    """Put the lanes [..., lanes] of int8 and int16 weights in pairs, lower number first; see `gather`."""
    if weights.dtype.itemsize > 2:
        return weights
    lower, upper = np.split(weights, 2, -1)
    return np.stack([lower ^ np.iinfo(weights.dtype).min, upper], -1).reshape(weights.shape)


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array with arbitrary content that begins with a cache line."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
