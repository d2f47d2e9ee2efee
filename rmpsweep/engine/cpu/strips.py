"""Event-driven kernels for integers, whose sums are the same in any order.

The strip of an output row is what its kernel rows read of an image. Its events are listed once per time step, column by
column, as positions (x * kernel height + kernel row) * C + c. The columns under an output are neighbours in the list,
so one short loop adds up the weight rows of an output's events.

In complement coding, the neurons that spike at most steps of a chunk are the usual ones. Their weight rows are added up
once for all steps, and each step lists only what differs from them: a neuron that is missing adds its negated row.
"""

import numpy as np
from numba import njit, types

from rmpsweep.engine.compiled import compiled
from rmpsweep.engine.cpu.gather import BLOCK, append_events, sum_rows
from rmpsweep.engine.cpu.lanes import UNIT, convert, convert_like, item, load, nonzero, spread, store, sum_of, where
from rmpsweep.engine.cpu.update import CURRENT, FLAG, SOFT, leaves_range, scaled, stepped

SPARE = BLOCK
"""The number of spare elements that a list of events needs at its end."""
LEAST_SAVING = 8
"""Complement coding is used where it saves at least one in this many events."""
LARGEST_COUNT = 255


@njit
def _find_usual(values, start, step, steps, usual, place, size):
    """Find the neurons that spike at most steps, as bytes 0 or 1 in `usual` from `place` on.

    Return whether complement coding saves enough events.
    """
    unit = (0,)
    for i in range(0, size, UNIT):
        store(usual, place + i, load(values, start + i, unit))
    for t in range(1, steps):
        for i in range(0, size, UNIT):
            count = load(usual, place + i, unit) + load(values, start + t * step + i, unit)
            store(usual, place + i, count)
    half = spread(steps // 2, load(usual, place, unit))
    events = spread(0, convert(half, types.int32))
    saved, more = events, spread(steps + 1, events)
    for i in range(0, size, UNIT):
        count = load(usual, place + i, unit)
        often, number = count > half, convert(count, types.int32)
        events, saved = events + number, saved + where(often, number + number - more)
        store(usual, place + i, often)
    return sum_of(saved) * LEAST_SAVING > sum_of(events)


@njit
def _append(indices, end, number, values, places, among, largest, usual, shift, removed):
    """Append the events of a block, and return where they end; see `_list_strip` and `append_events`."""
    if largest is None:
        return end + append_events(indices, end, number, values, places, among, 0, usual, shift, removed)
    for level in range(largest):
        before = end
        end += append_events(indices, end, number, values, places, among, level, usual, shift, removed)
        if end == before:
            break
    return end


@njit
def _list_strip(values, image, largest, usual, place, shape, groups, top, indices, end, pointers, first):
    """List the events of the strip from image row `top` on, from `end` on, and return where they end.

    Args:
        values, image: bytes, and where the image begins.
        largest: no byte exceeds it, and a byte n gives n equal events. None for 1.
        usual, place: the events are the differences to `usual`, whose image begins at `place`; None for all events.
        groups: see `_groups_of`.
        pointers, first: receives from `first` on where the events of each column begin, and their end.
    """
    height, columns, channels, kernel_height = shape[0], shape[1], shape[2], shape[6]
    above, below = max(0, -top), min(kernel_height, height - top)
    row, column = columns * channels, kernel_height * channels
    begin, stop = above * channels // UNIT, max(above, below) * channels // UNIT
    shift, removed, corner, number = place - image, shape[7] * column, image + top * row, 0
    if channels % BLOCK == 0:
        for x in range(columns):
            pointers[np.uintp(first + x)] = end
            for dy in range(above, below):
                i = corner + dy * row
                for c in range(0, channels, BLOCK):
                    at = number + dy * channels + c
                    end = _append(indices, end, at, values, (i + c,), -1, largest, usual, shift, removed)
            corner += channels
            number += column
    elif 0 < stop - begin <= BLOCK // UNIT:
        i, j = groups[begin], groups[min(begin + 1, stop - 1)]
        k, m = groups[min(begin + 2, stop - 1)], groups[min(begin + 3, stop - 1)]
        among = _first_groups(stop - begin)
        number = begin * UNIT
        for x in range(columns):
            pointers[np.uintp(first + x)] = end
            places = corner + i, corner + j, corner + k, corner + m
            end = _append(indices, end, number, values, places, among, largest, usual, shift, removed)
            corner += channels
            number += column
    else:
        for x in range(columns):
            pointers[np.uintp(first + x)] = end
            for g in range(begin, stop, BLOCK // UNIT):
                i, j = corner + item(groups, g), corner + item(groups, min(g + 1, stop - 1))
                k, m = corner + item(groups, min(g + 2, stop - 1)), corner + item(groups, min(g + 3, stop - 1))
                among, at = _first_groups(stop - g), number + g * UNIT
                end = _append(indices, end, at, values, (i, j, k, m), among, largest, usual, shift, removed)
            corner += channels
            number += column
    pointers[np.uintp(first + columns)] = end
    return end


@njit(inline="always")
def _first_groups(number):
    """Return the bits of that many groups of UNIT bytes in a block, or of all."""
    return -1 if number >= BLOCK // UNIT else (1 << number * UNIT) - 1


@njit
def _groups_of(shape):
    """Return where the groups of UNIT channels lie in the first column of a strip."""
    groups = np.empty(shape[6] * shape[2] // UNIT, np.int64)
    for g in range(len(groups)):
        groups[g] = g * UNIT // shape[2] * shape[1] * shape[2] + g * UNIT % shape[2]
    return groups


@njit
def _list_row(
    values, image, step, steps, largest, usual, place, coded, shape, groups, top, indices, end, pointers, first
):
    """List the events of a strip at all steps, and then those of the usual neurons if they are coded by these."""
    columns = shape[1] + 1
    for _ in range(steps):
        if coded:
            end = _list_strip(values, image, None, usual, place, shape, groups, top, indices, end, pointers, first)
        elif largest == 1:
            end = _list_strip(values, image, None, None, image, shape, groups, top, indices, end, pointers, first)
        else:
            end = _list_strip(values, image, largest, None, image, shape, groups, top, indices, end, pointers, first)
        image += step
        first += columns
    if coded:
        end = _list_strip(usual, place, None, None, place, shape, groups, top, indices, end, pointers, first)
    return end


@compiled
def fire(
    width,
    values,
    largest,
    coding,
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
    together,
    usual,
    indices,
    pointers,
    potentials,
    counts,
    spikes,
):
    """Integrate, fire and reset one layer for some steps. Return True if int32 potentials left their range.

    Args:
        width: the number of lanes; see `lanes.width_of`.
        values: the bytes that the convolution reads, [T, R, H, W, C]; none exceeds `largest`.
        coding: whether complement coding may be used.
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
        together: for how many rows the events of a strip are listed at once.
        usual, indices, pointers: memory for as many rows; see `_list_row`.
        potentials, counts: [R, pixels, C_out], updated.
        spikes: [T, R, pixels, C_out], written.
    """
    lanes, out_channels, columns = UNIT * len(width), shape[5], shape[1] + 1
    num_rows, taps, size = len(setting), shape[6] * shape[7] * shape[2], shape[3] * shape[4] * shape[5]
    image, copies = shape[0] * shape[1] * shape[2], 2 if coding else 1
    out_of_range = False
    coded, groups = np.zeros(together, np.bool_), _groups_of(shape)
    for first_row in range(0, num_rows, together):
        rows = min(together, num_rows - first_row)
        if coding and taps and steps <= LARGEST_COUNT:
            for r in range(rows):
                start = (first_row + r) * image
                coded[r] = _find_usual(values, start, num_rows * image, steps, usual, r * image, image)
        for y in range(shape[3]):
            top = y * shape[8] - shape[10]
            end = 0
            for r in range(rows if taps else 0):
                start, first = (first_row + r) * image, r * (steps + 1) * columns
                end = _list_row(
                    values, start, num_rows * image, steps, largest, usual, r * image, coded[r], shape, groups, top,
                    indices, end, pointers, first,
                )  # fmt: skip
            for block in range(out_channels // lanes):
                for r in range(rows):
                    row = first_row + r
                    own = setting[row] * out_channels + block * lanes
                    theta, constant = load(threshold, own, width), load(bias, own, width)
                    softly = reset[setting[row]] == SOFT
                    lists = r * (steps + 1) * columns
                    for x in range(shape[4]):
                        left = x * shape[9] - shape[11]
                        first, last = min(shape[1], max(0, left)), max(0, min(shape[1], left + shape[7]))
                        weight = (block * copies * taps - left * shape[6] * shape[2]) * lanes
                        at = (y * shape[4] + x) * out_channels + block * lanes
                        v, usually = load(potentials, row * size + at, width), constant
                        if coded[r]:
                            own_list = lists + steps * columns
                            start, stop = item(pointers, own_list + first), item(pointers, own_list + last)
                            total = sum_rows(start, stop, indices, weights, weight, width)
                            usually = usually + convert_like(total, usually)
                        n = load(counts, row * size + at, width)
                        for begin in range(0, steps, LARGEST_COUNT):
                            spiked = convert(spread(0, n), types.uint8)
                            for t in range(begin, min(steps, begin + LARGEST_COUNT)):
                                z = usually
                                if taps:
                                    own_list = lists + t * columns
                                    start, stop = item(pointers, own_list + first), item(pointers, own_list + last)
                                    z = z + convert_like(sum_rows(start, stop, indices, weights, weight, width), z)
                                if kind:
                                    source = t * addend_step + addend_row[row] * size + at
                                    if kind == FLAG:
                                        z = z + where(nonzero(load(bytes_, source, width)), load(table, own, width))
                                    elif kind == CURRENT:
                                        z = z + load(currents, source, width)
                                    else:
                                        z = z + scaled(load(currents, source, width), factor, own, width)
                                v, fired = stepped(v, z, theta, softly)
                                spiked = spiked + convert(fired, types.uint8)
                                store(spikes, (t * num_rows + row) * size + at, fired)
                            n = n + convert(spiked, types.int32)
                        out_of_range = out_of_range or leaves_range(v)
                        store(potentials, row * size + at, v)
                        store(counts, row * size + at, n)
    return out_of_range


@compiled
def current(width, values, largest, weights, shape, setting, bias, steps, indices, pointers, out):
    """Compute a convolution's currents with bias, [T, R, pixels, C_out]. The arguments are those of `fire`."""
    lanes, out_channels = UNIT * len(width), shape[5]
    num_rows, taps, image = len(setting), shape[6] * shape[7] * shape[2], shape[0] * shape[1] * shape[2]
    groups = _groups_of(shape)
    for t_row in range(steps * num_rows):
        for y in range(shape[3]):
            top = y * shape[8] - shape[10]
            _list_row(
                values, t_row * image, 0, 1, largest, values, 0, False, shape, groups, top, indices, 0, pointers, 0
            )
            for block in range(out_channels // lanes):
                constant = load(bias, setting[t_row % num_rows] * out_channels + block * lanes, width)
                for x in range(shape[4]):
                    left = x * shape[9] - shape[11]
                    first, last = min(shape[1], max(0, left)), max(0, min(shape[1], left + shape[7]))
                    weight = (block * taps - left * shape[6] * shape[2]) * lanes
                    start, stop = item(pointers, first), item(pointers, last)
                    total = sum_rows(start, stop, indices, weights, weight, width)
                    at = ((t_row * shape[3] + y) * shape[4] + x) * out_channels + block * lanes
                    store(out, at, constant + convert_like(total, constant))
