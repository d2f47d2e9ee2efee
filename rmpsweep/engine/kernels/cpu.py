"""Event-driven kernels: a spike costs its fan-out in additions, a silent neuron nothing.

Tensors are channels-last, channels padded (`layout`). Spikes of a chunk of time steps are bytes [T, R, H, W, C]. For a
convolution they become events: for each pixel the list of channels that fired, in order of rows; neighbouring pixels of
an image row are neighbours in the list, so a kernel row of the convolution reads one stretch of it. An output's current
is the sum of the weight rows of its events, held in registers together with potential and spike count for all steps of
the chunk. The order of addition (kernel row, pixel, channel) does not depend on batch, chunk or threads, so even in
floating point the spikes do not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import njit, types

from rmpsweep.engine.kernels.lanes import (
    any_of,
    append_above,
    convert,
    load,
    nonzero,
    shift_right,
    spread,
    store,
    where,
)

NOTHING, FLAG, CURRENT, SCALED = 0, 1, 2, 3
"""What a layer's current gets besides the convolution: nothing; a table's value where a byte is not zero; a current;
a current times a table's factor (in integers (M I + 2^15) >> 16)."""
SPARE = 16
"""Room that a list of events needs at its end."""
POTENTIAL_LIMIT = 2**30
"""int32 potentials are found out of range, before they can wrap, where they leave [-2^30, 2^30) at the end of a chunk
in which no current can sum up to more than 2^30."""
_PARTIAL = 256
"""So many int8 weights add up within int16."""


@dataclass(frozen=True)
class Kernels:
    """fire and current compiled for one kind of number and number of lanes."""

    fire: Callable[..., bool]
    current: Callable[..., None]


@cache
def kernels(weight: np.dtype, accumulator: np.dtype, lanes: int) -> Kernels:
    """Kernels for weights of one dtype, summed up in another: int16 or int8 in int32 or int64, or floating point."""
    L, A = lanes, getattr(types, accumulator.name)
    is_float, checked = accumulator.kind == "f", accumulator == np.int32
    largest = POTENTIAL_LIMIT

    @njit(inline="always")
    def gather(total, start, stop, indices, weights, at):
        for e in range(start, stop):
            total = total + convert(load(weights, at + np.int64(indices[e]) * L, L), A)
        return total

    @njit(inline="always")
    def gather_bytes(total, start, stop, indices, weights, at):
        e = start
        while e < stop:
            end = min(stop, e + _PARTIAL)
            part = convert(load(weights, at + np.int64(indices[e]) * L, L), types.int16)
            e += 1
            while e < end:
                part = part + convert(load(weights, at + np.int64(indices[e]) * L, L), types.int16)
                e += 1
            total = total + convert(part, A)
        return total

    add_rows = gather_bytes if weight == np.int8 else gather

    @njit(inline="always")
    def convolve(total, t_row, y, x, shape, pointers, indices, weights, block):
        height, width, channels, kernel_height, kernel_width = shape[0], shape[1], shape[2], shape[6], shape[7]
        top, left = y * shape[8] - shape[10], x * shape[9] - shape[11]
        first, last = min(width, max(0, left)), max(0, min(width, left + kernel_width))
        for row in range(max(0, top), min(height, top + kernel_height)):
            pixels = (t_row * height + row) * width
            at = block + ((row - top) * kernel_width - left) * channels * L
            total = add_rows(total, pointers[pixels + first], pointers[pixels + last], indices, weights, at)
        return total

    @njit(inline="always")
    def scaled(current, table, at):
        if is_float:
            return current * load(table, at, L)
        product = convert(current, types.int64) * load(table, at, L)
        return convert(shift_right(product + spread(1 << 15, product), 16), A)

    @njit(nogil=True, cache=True)
    def fire(pointers, indices, weights, shape, setting, bias, threshold, soft, kind, bytes_, currents, addend_row,
             addend_step, table, factor, steps, potentials, counts, spikes):  # fmt: skip
        out_height, out_width, out_channels = shape[3], shape[4], shape[5]
        num_rows, taps = len(setting), shape[6] * shape[7] * shape[2]
        size = out_height * out_width * out_channels
        out_of_range = False
        for block in range(out_channels // L):
            for r in range(num_rows):
                own = setting[r] * out_channels + block * L
                theta, constant = load(threshold, own, L), load(bias, own, L)
                flag, resets_softly = load(table, own, L), soft[setting[r]] != 0
                for pixel in range(out_height * out_width):
                    at = pixel * out_channels + block * L
                    v, n = load(potentials, r * size + at, L), load(counts, r * size + at, L)
                    for t in range(steps):
                        z = constant
                        if taps:
                            z = convolve(z, t * num_rows + r, pixel // out_width, pixel % out_width, shape, pointers,
                                         indices, weights, block * taps * L)  # fmt: skip
                        if kind:
                            source = t * addend_step + addend_row[r] * size + at
                            if kind == FLAG:
                                z = z + where(nonzero(load(bytes_, source, L)), flag)
                            elif kind == CURRENT:
                                z = z + load(currents, source, L)
                            else:
                                z = z + scaled(load(currents, source, L), factor, own)
                        v = v + z
                        fired = v >= theta
                        v = v - where(fired, theta if resets_softly else v)
                        n = n + convert(fired, types.int32)
                        store(spikes, (t * num_rows + r) * size + at, fired)
                    if checked and (any_of(v >= spread(largest, v)) or any_of(v < spread(-largest, v))):
                        out_of_range = True
                    store(potentials, r * size + at, v)
                    store(counts, r * size + at, n)
        return out_of_range

    @njit(nogil=True, cache=True)
    def current(pointers, indices, weights, shape, setting, bias, steps, out):
        out_width, out_channels = shape[4], shape[5]
        num_rows, taps, pixels = len(setting), shape[6] * shape[7] * shape[2], shape[3] * shape[4]
        for block in range(out_channels // L):
            for r in range(num_rows):
                constant = load(bias, setting[r] * out_channels + block * L, L)
                for t in range(steps):
                    for pixel in range(pixels):
                        z = convolve(constant, t * num_rows + r, pixel // out_width, pixel % out_width, shape, pointers,
                                     indices, weights, block * taps * L)  # fmt: skip
                        store(out, ((t * num_rows + r) * pixels + pixel) * out_channels + block * L, z)

    return Kernels(fire, current)


@cache
def dense_kernel(accumulator: np.dtype, lanes: int) -> Any:
    """A convolution of analog values (images, or spikes summed over steps), summed up in int64 or float64."""
    L, A = lanes, getattr(types, accumulator.name)

    @njit(nogil=True, cache=True)
    def dense(values, weights, shape, out):
        height, width, channels, kernel_height, kernel_width = shape[0], shape[1], shape[2], shape[6], shape[7]
        out_height, out_width, out_channels = shape[3], shape[4], shape[5]
        taps = kernel_height * kernel_width * channels
        for block in range(out_channels // L):
            for r in range(len(values) // (height * width * channels)):
                for y in range(out_height):
                    for x in range(out_width):
                        top, left = y * shape[8] - shape[10], x * shape[9] - shape[11]
                        z = convert(spread(0, load(out, 0, L)), A)
                        for row in range(max(0, top), min(height, top + kernel_height)):
                            first, last = max(0, left), min(width, left + kernel_width)
                            inputs = ((r * height + row) * width) * channels
                            at = (block * taps + ((row - top) * kernel_width - left) * channels) * L
                            for i in range(first * channels, last * channels):
                                if values[inputs + i] != 0:
                                    w = convert(load(weights, at + i * L, L), A)
                                    z = z + w * spread(values[inputs + i], w)
                        store(out, ((r * out_height + y) * out_width + x) * out_channels + block * L, z)

    return dense


@njit(nogil=True, cache=True)
def list_events(values: Any, width: int, channels: int, largest: int, pointers: Any, indices: Any) -> None:
    """Bytes [..., width, channels] -> events: x * channels + c in the order of memory, and where each pixel's begin.

    A byte of n is n equal events, one in each of n passes over its pixel.
    """
    end = 0
    for pixel in range(len(values) // channels):
        pointers[pixel] = end
        for level in range(largest):
            before = end
            for c in range(0, channels, 16):
                end += append_above(indices, end, pixel % width * channels + c, values, pixel * channels + c, level, 16)
            if end == before:
                break
    pointers[len(values) // channels] = end


@njit(nogil=True, cache=True)
def sum_pool(values: Any, window: Any, multiplier: Any, out: Any) -> None:
    """Window sums times multiplier [Ho, Wo]. values, out: [B, H, W, C]; window: kernel, stride, padding, y then x."""
    for b in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                top, left = y * window[2] - window[4], x * window[3] - window[5]
                out[b, y, x] = 0
                for row in range(max(0, top), min(values.shape[1], top + window[0])):
                    for column in range(max(0, left), min(values.shape[2], left + window[1])):
                        for c in range(out.shape[3]):
                            out[b, y, x, c] += values[b, row, column, c]
                for c in range(out.shape[3]):
                    out[b, y, x, c] *= multiplier[y, x]


@njit(nogil=True, cache=True)
def max_pool(values: Any, window: Any, out: Any) -> None:
    """The largest of each window. values, out: [B, H, W, C]."""
    for b in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                top, left = y * window[2] - window[4], x * window[3] - window[5]
                out[b, y, x] = 0
                for row in range(max(0, top), min(values.shape[1], top + window[0])):
                    for column in range(max(0, left), min(values.shape[2], left + window[1])):
                        for c in range(out.shape[3]):
                            out[b, y, x, c] = max(out[b, y, x, c], values[b, row, column, c])


@njit(nogil=True, cache=True)
def count_pool(values: Any, window: Any, totals: Any, largest: Any, out: Any) -> None:
    """By how much `max_pool` of the values summed over steps grew. values, out: [T, R, H, W, C]; the rest [R, …]."""
    for t in range(out.shape[0]):
        for r in range(out.shape[1]):
            for y in range(values.shape[2]):
                for x in range(values.shape[3]):
                    for c in range(values.shape[4]):
                        totals[r, y, x, c] += values[t, r, y, x, c]
            for y in range(out.shape[2]):
                for x in range(out.shape[3]):
                    top, left = y * window[2] - window[4], x * window[3] - window[5]
                    for c in range(out.shape[4]):
                        out[t, r, y, x, c] = largest[r, y, x, c]
                    for row in range(max(0, top), min(values.shape[2], top + window[0])):
                        for column in range(max(0, left), min(values.shape[3], left + window[1])):
                            for c in range(out.shape[4]):
                                largest[r, y, x, c] = max(largest[r, y, x, c], totals[r, row, column, c])
                    for c in range(out.shape[4]):
                        out[t, r, y, x, c] = largest[r, y, x, c] - out[t, r, y, x, c]


@njit(nogil=True, cache=True)
def tally(counts: Any, fan_out: Any, limit: float, out: Any) -> None:
    """Per row of counts [R, M]: spikes, synaptic operations, neurons with `limit` or more spikes; out: [R, 3]."""
    for r in range(len(counts)):
        spikes = synops = saturated = np.int64(0)
        for i in range(counts.shape[1]):
            n = np.int64(counts[r, i])
            spikes += n
            synops += n * fan_out[i]
            saturated += n >= limit
        out[r, 0], out[r, 1], out[r, 2] = spikes, synops, saturated
