"""Event-driven kernels for floating point, and those that pool, count and read out.

A spike costs as many additions as its fan-out, and a silent neuron costs nothing.

Tensors are channels-last, with padded channels (`kernels.PAD`). The spikes of a chunk of time steps are bytes [T, R, H,
W, C]. For a convolution they become events: for each pixel the list of channels that fired, in order of rows.
Neighbouring pixels of an image row are neighbours in the list, so a kernel row of the convolution reads one contiguous
stretch of the list. The current of an output is the sum of the weight rows of its events. Current, potential and spike
count are kept in registers for all steps of the chunk. The order of addition (kernel row, pixel, channel) does not
depend on batch, chunk or threads, so the spikes do not either, even in floating point.
"""

from typing import Any

import numpy as np
from numba import njit, types

from rmpsweep.engine.compiled import compiled
from rmpsweep.engine.cpu.lanes import UNIT, append_above, convert, convert_like, load, nonzero, spread, store, where
from rmpsweep.engine.cpu.update import CURRENT, FLAG, SOFT, scaled, stepped
from rmpsweep.engine.kernels import PAD

SPARE = PAD
"""The number of spare elements that a list of events needs at its end."""


@njit(inline="always")
def _add_rows(total, start, stop, indices, weights, at, width):
    """Return total plus the weight rows of the events from start to stop."""
    for e in range(start, stop):
        total = total + convert_like(load(weights, at + np.int64(indices[e]) * (UNIT * len(width)), width), total)
    return total


@njit(inline="always")
def _convolve(total, t_row, pixel, shape, pointers, indices, weights, block, width):
    """Return total plus the current of one output pixel. For `shape`, see `pack.Convolution`."""
    height, columns, channels, kernel_height, kernel_width = shape[0], shape[1], shape[2], shape[6], shape[7]
    top, left = pixel // shape[4] * shape[8] - shape[10], pixel % shape[4] * shape[9] - shape[11]
    first, last = min(columns, max(0, left)), max(0, min(columns, left + kernel_width))
    for row in range(max(0, top), min(height, top + kernel_height)):
        pixels = (t_row * height + row) * columns
        at = block + ((row - top) * kernel_width - left) * channels * (UNIT * len(width))
        total = _add_rows(total, pointers[pixels + first], pointers[pixels + last], indices, weights, at, width)
    return total


@compiled
def fire(
    width,
    pointers,
    indices,
    weights,
    shape,
    setting,
    bias,
    threshold,
    reset,
    kind,
    bytes_,
    currents,
    addend_row,
    addend_step,
    table,
    factor,
    steps,
    potentials,
    counts,
    spikes,
):
    """Integrate, fire and reset one layer for some steps.

    Args:
        width: the number of lanes; see `lanes.width_of`.
        pointers, indices: the events that the convolution reads; see `list_events`.
        weights, shape: see `pack.Convolution`. If the kernel height is 0, there is no convolution.
        setting: the setting of each row, int64 [R].
        bias, threshold: [K, C_out].
        reset: codes [K].
        kind: NOTHING, FLAG, CURRENT or SCALED: what is added besides the convolution.
        bytes_, currents: where it is taken from, [T, rows, pixels, C_out].
        addend_row: the row of these that each row reads.
        addend_step: the distance between their steps; 0 if they are the same at every step.
        table: the values for FLAG, [K, C_out].
        factor: the factors for SCALED, [K, C_out].
        potentials, counts: [R, pixels, C_out], updated.
        spikes: [T, R, pixels, C_out], written.
    """
    lanes, out_channels, pixels = UNIT * len(width), shape[5], shape[3] * shape[4]
    num_rows, taps, size = len(setting), shape[6] * shape[7] * shape[2], shape[3] * shape[4] * shape[5]
    for block in range(out_channels // lanes):
        for r in range(num_rows):
            own = setting[r] * out_channels + block * lanes
            theta, constant = load(threshold, own, width), load(bias, own, width)
            flag, softly = load(table, own, width), reset[setting[r]] == SOFT
            for pixel in range(pixels):
                at = pixel * out_channels + block * lanes
                v, n = load(potentials, r * size + at, width), load(counts, r * size + at, width)
                for t in range(steps):
                    z = constant
                    if taps:
                        t_row = t * num_rows + r
                        z = _convolve(z, t_row, pixel, shape, pointers, indices, weights, block * taps * lanes, width)
                    if kind:
                        source = t * addend_step + addend_row[r] * size + at
                        if kind == FLAG:
                            z = z + where(nonzero(load(bytes_, source, width)), flag)
                        elif kind == CURRENT:
                            z = z + load(currents, source, width)
                        else:
                            z = z + scaled(load(currents, source, width), factor, own, width)
                    v, fired = stepped(v, z, theta, softly)
                    n = n + convert(fired, types.int32)
                    store(spikes, (t * num_rows + r) * size + at, fired)
                store(potentials, r * size + at, v)
                store(counts, r * size + at, n)


@compiled
def current(width, pointers, indices, weights, shape, setting, bias, steps, out):
    """Compute a convolution's currents with bias, [T, R, pixels, C_out]. The arguments are those of `fire`."""
    lanes, out_channels, pixels = UNIT * len(width), shape[5], shape[3] * shape[4]
    num_rows, taps = len(setting), shape[6] * shape[7] * shape[2]
    for block in range(out_channels // lanes):
        for r in range(num_rows):
            constant = load(bias, setting[r] * out_channels + block * lanes, width)
            for t_row in range(r, steps * num_rows, num_rows):
                for pixel in range(pixels):
                    z = _convolve(
                        constant, t_row, pixel, shape, pointers, indices, weights, block * taps * lanes, width
                    )
                    store(out, (t_row * pixels + pixel) * out_channels + block * lanes, z)


@compiled
def dense(width, values, weights, shape, out):
    """Compute a convolution of analog values [R, H, W, C] (images, or spikes summed over steps) in int64 or float64."""
    lanes, height, columns, channels = UNIT * len(width), shape[0], shape[1], shape[2]
    out_height, out_width, out_channels, kernel_height, kernel_width = shape[3], shape[4], shape[5], shape[6], shape[7]
    taps = kernel_height * kernel_width * channels
    for block in range(out_channels // lanes):
        for r in range(len(values) // (height * columns * channels)):
            for y in range(out_height):
                for x in range(out_width):
                    top, left = y * shape[8] - shape[10], x * shape[9] - shape[11]
                    z = spread(0, load(out, 0, width))
                    for row in range(max(0, top), min(height, top + kernel_height)):
                        inputs = ((r * height + row) * columns) * channels
                        at = (block * taps + ((row - top) * kernel_width - left) * channels) * lanes
                        for i in range(max(0, left) * channels, min(columns, left + kernel_width) * channels):
                            if values[inputs + i] != 0:
                                weight = convert_like(load(weights, at + i * lanes, width), z)
                                z = z + weight * spread(values[inputs + i], weight)
                    store(out, ((r * out_height + y) * out_width + x) * out_channels + block * lanes, z)


@compiled
def list_events(values: Any, width: int, channels: int, largest: int, pointers: Any, indices: Any) -> None:
    """Turn bytes [..., width, channels] into events.

    `indices` receives x * channels + c for each event, in the order of memory, and `pointers` where the events of each
    pixel begin. A byte of value n gives n equal events, one in each of n passes over its pixel. No byte exceeds
    `largest`.
    """
    end = 0
    for pixel in range(len(values) // channels):
        pointers[pixel] = end
        for level in range(largest):
            before = end
            for c in range(0, channels, PAD):
                end += append_above(indices, end, pixel % width * channels + c, values, pixel * channels + c, level)
            if end == before:
                break
    pointers[len(values) // channels] = end


@njit(inline="always")
def _inside(y, x, window, height, width):
    """Return the rows, then the columns, of a window's part inside the image: the first, and one past the last."""
    top, left = y * window[2] - window[4], x * window[3] - window[5]
    return max(0, top), min(height, top + window[0]), max(0, left), min(width, left + window[1])


@compiled
def sum_pool(values: Any, window: Any, multiplier: Any, out: Any) -> None:
    """Compute the sum of each window times its multiplier.

    values, out: [B, H, W, C]; window: kernel, stride and padding, each y then x; multiplier: [Ho, Wo].
    """
    for b in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                top, bottom, left, right = _inside(y, x, window, values.shape[1], values.shape[2])
                out[b, y, x] = 0
                for row in range(top, bottom):
                    for column in range(left, right):
                        for c in range(out.shape[3]):
                            out[b, y, x, c] += values[b, row, column, c]
                for c in range(out.shape[3]):
                    out[b, y, x, c] *= multiplier[y, x]


@compiled
def max_pool(values: Any, window: Any, out: Any) -> None:
    """Compute the largest value of each window. values, out: [B, H, W, C]."""
    for b in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                top, bottom, left, right = _inside(y, x, window, values.shape[1], values.shape[2])
                out[b, y, x] = 0
                for row in range(top, bottom):
                    for column in range(left, right):
                        for c in range(out.shape[3]):
                            out[b, y, x, c] = max(out[b, y, x, c], values[b, row, column, c])


@compiled
def count_pool(values: Any, window: Any, totals: Any, largest: Any, out: Any) -> None:
    """Compute by how much the `max_pool` of the values summed over steps grows at each step.

    values, out: [T, R, H, W, C]; totals, largest: the sums and their maxima so far, [R, H, W, C], updated.
    """
    for t in range(out.shape[0]):
        for r in range(out.shape[1]):
            for y in range(values.shape[2]):
                for x in range(values.shape[3]):
                    for c in range(values.shape[4]):
                        totals[r, y, x, c] += values[t, r, y, x, c]
            for y in range(out.shape[2]):
                for x in range(out.shape[3]):
                    top, bottom, left, right = _inside(y, x, window, values.shape[2], values.shape[3])
                    for c in range(out.shape[4]):
                        out[t, r, y, x, c] = largest[r, y, x, c]
                    for row in range(top, bottom):
                        for column in range(left, right):
                            for c in range(out.shape[4]):
                                largest[r, y, x, c] = max(largest[r, y, x, c], totals[r, row, column, c])
                    for c in range(out.shape[4]):
                        out[t, r, y, x, c] = largest[r, y, x, c] - out[t, r, y, x, c]


@compiled
def tally(counts: Any, fan_out: Any, limit: int, out: Any) -> None:
    """Count the figures of each row.

    counts: [R, M]; fan_out: [M]; limit: see `Kernels.tally`; out: [R, F], in the order of FIGURES.
    """
    for r in range(len(counts)):
        spikes = synops = saturated = np.int64(0)
        for i in range(counts.shape[1]):
            n = np.int64(counts[r, i])
            spikes += n
            synops += n * fan_out[i]
            saturated += n >= limit
        out[r, 0], out[r, 1], out[r, 2] = spikes, synops, saturated
