"""Weights in the order the CPU kernels read them."""

from dataclasses import dataclass

import numpy as np

from rmpsweep.engine.cpu.lanes import width_of
from rmpsweep.engine.kernels import padded

LANES = {"int8": 128, "int16": 64, "float32": 64, "float64": 32}
"""Outputs computed together, by dtype of the weights: what measured best on AVX-512."""


@dataclass(frozen=True)
class Convolution:
    """A convolution as `cpu.kernels` takes it.

    weights: flat [blocks, kh, kw, C_in, lanes]; width: of the lanes; shape: int64 [H, W, C_in, Ho, Wo, C_out, kh, kw,
    stride y, stride x, padding y, padding x]. `tile` neighbouring outputs of a row are computed together as if they
    were channels, so that few channels fill the lanes too: W_o, C_out, kw and stride x are those of the tiles.
    """

    weights: np.ndarray
    shape: np.ndarray
    width: tuple[int, ...]
    tile: int

    def table(self, values: np.ndarray, silent: int = 0) -> np.ndarray:
        """Constants by channel, [K, 1 or C] -> flat [K, C_out], one for each lane; `silent` for those without."""
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
) -> Convolution:
    """weight [C_out, C_in, kh, kw]; shapes (C, H, W); signed: the input's negative spikes are channels of their own."""
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
    packed = np.zeros((blocks, kernel_y, kernel_x, in_channels, lanes), weight.dtype)
    for output in range(0, tile * out_channels, min(lanes, out_channels)):
        first, left = output % out_channels, output // out_channels * stride_x
        part = weight[first : first + min(lanes, out_channels)].transpose(2, 3, 1, 0)
        lane = output % lanes
        packed[
            output // lanes, ::dilation_y, left : left + single_x : dilation_x, :inputs, lane : lane + part.shape[3]
        ] = part
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
