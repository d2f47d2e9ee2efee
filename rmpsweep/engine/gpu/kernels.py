"""GPU kernels in Triton: a convolution of bytes as a matrix product, with the neuron update in the same kernel.

Tensors are channels-last, with channels padded to a multiple of 16 by silent ones. A Triton program computes a tile of
pixels by channels for all steps of a chunk, with potentials and spike counts in registers. Integers are exact in any
order of addition; in floating point the order (tap, block of channels) does not depend on batch or chunk.
Without a GPU, set TRITON_INTERPRET=1 before this module is imported: the kernels then run on CPU tensors, slowly.
Legend: T steps of a chunk, R rows, N images, K settings.
"""

from typing import Any, assert_never

import torch
import triton
import triton.language as tl
from torch import Tensor

from rmpsweep.engine.gpu.operands import Addend, Convolution, Neurons
from rmpsweep.engine.kernels import POTENTIAL_LIMIT
from rmpsweep.engine.neuron import RESET_CODES
from rmpsweep.terms import Reset

SOFT = tl.constexpr(RESET_CODES["soft"])


def code_of(reset: Reset) -> int:
    """Return the code by which `_step` knows a reset. Each reset that `_step` computes has a case here."""
    match reset:
        case "soft" | "hard":
            return RESET_CODES[reset]
        case _:
            assert_never(reset)


def blocks(convolution: Convolution) -> dict[str, int]:
    """Return how many pixels, output channels and input channels one matrix product covers.

    In the interpreter, a few large products are cheaper than many small ones.
    """
    outputs, inputs = (triton.next_power_of_2(convolution.geometry[i]) for i in (5, 2))
    if convolution.weights.device.type == "cpu":
        return {"PIXELS": 256, "CHANNELS": outputs, "INPUTS": inputs}
    most = 64 if convolution.weights.dtype == torch.int8 else 128 // convolution.weights.element_size()
    return {"PIXELS": 64, "CHANNELS": min(64, outputs), "INPUTS": min(max(32, inputs), most)}


def fire_from_spikes(
    values: Tensor, convolution: Convolution, neurons: Neurons, addend: Addend | None, spikes: Tensor
) -> None:
    """Compute a layer's convolution of bytes [T, R, H, W, C_in] and its neurons.

    Write spikes, bytes [T, R, Ho, Wo, C_out].
    """
    programs, constants = _tiles(convolution, spikes[0])
    tensors, kinds = _arguments(neurons, addend, spikes)
    _launch(
        _fire_from_spikes,
        programs,
        values,
        convolution.weights,
        *tensors,
        len(spikes),
        spikes[0, ..., 0].numel(),
        values[0].numel(),
        spikes[0].numel(),
        *convolution.geometry,
        **kinds,
        **constants,
    )


def fire_from_currents(currents: Tensor, rows: Tensor, neurons: Neurons, addend: Addend | None, spikes: Tensor) -> None:
    """Compute neurons whose row r receives row rows[r] of currents [T or 1, I, H, W, C].

    Write spikes [T, R, H, W, C].
    """
    block = 2**14 if spikes.device.type == "cpu" else 1024
    tensors, kinds = _arguments(neurons, addend, spikes)
    _launch(
        _fire_from_currents,
        -(-spikes[0].numel() // block),
        currents,
        rows,
        *tensors,
        len(spikes),
        spikes[0].numel(),
        spikes[0, 0].numel(),
        spikes.shape[-1],
        currents[0].numel() if len(currents) > 1 else 0,
        **kinds,
        BLOCK=block,
    )


def convolve(values: Tensor, convolution: Convolution, setting: Tensor, bias: Tensor, out: Tensor) -> None:
    """Convolve values [N, H, W, C_in] to out [N, Ho, Wo, C_out], with the bias [K, C_out] of setting[n % R]."""
    programs, constants = _tiles(convolution, out)
    _launch(
        _convolve,
        programs,
        values,
        convolution.weights,
        setting,
        bias,
        out,
        len(setting),
        out[..., 0].numel(),
        *convolution.geometry,
        **constants,
    )


def _launch(kernel: Any, programs: int, first: Tensor, *arguments: object, **constants: object) -> None:
    with torch.cuda.device_of(first):
        kernel[(programs,)](first, *arguments, **constants, enable_fp_fusion=False, num_warps=8)


def _tiles(convolution: Convolution, out: Tensor) -> tuple[int, dict[str, object]]:
    """Return how many tiles an output [..., H, W, C] has, and the constants of the kernels."""
    block = blocks(convolution)
    tiles = -(-out[..., 0].numel() // block["PIXELS"]) * -(-out.shape[-1] // block["CHANNELS"])
    sums = {torch.int8: tl.int32, torch.float32: tl.float32, torch.float64: tl.float64}
    return tiles, {"PLANES": len(convolution.weights), "SUM": sums[convolution.weights.dtype], **block}


def _arguments(neurons: Neurons, addend: Addend | None, spikes: Tensor) -> tuple[tuple[Tensor, ...], dict[str, object]]:
    kind, values, table = "nothing", spikes, neurons.bias
    if addend is not None:
        kind, values, table = addend.kind, addend.values, addend.table
    tensors = (
        values,
        table,
        neurons.setting,
        neurons.reset,
        neurons.bias,
        neurons.threshold,
        neurons.potentials,
        neurons.counts,
        spikes,
        neurons.out_of_range,
    )
    return tensors, {"KIND": kind, "LIMIT": POTENTIAL_LIMIT if neurons.potentials.dtype == torch.int32 else 0}


@triton.jit
def _products(
    images,
    weights,
    y,
    x,
    exists,
    channel,
    height,
    width,
    in_channels,
    out_channels,
    taps,
    kernel_width,
    dilation_y,
    dilation_x,
    OUT: tl.constexpr,
    PLANES: tl.constexpr,
    SUM: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """Compute a tile of a convolution.

    images [PIXELS]: where each pixel's image begins; y, x: where its window begins.
    """
    low = tl.full((PIXELS, CHANNELS), 0, SUM)
    high = low
    plane, num_blocks = taps * out_channels * in_channels, (in_channels + INPUTS - 1) // INPUTS
    k = tl.arange(0, INPUTS)
    sources = images[:, None] + k[None, :]
    targets = weights + (channel[None, :] * in_channels + k[:, None])
    is_channel = (channel < out_channels)[None, :]
    for i in range(taps * num_blocks):
        tap, first = i // num_blocks, i % num_blocks * INPUTS
        row, column = y + tap // kernel_width * dilation_y, x + tap % kernel_width * dilation_x
        inside = exists & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        known = k < in_channels - first
        source = sources + ((row * width + column) * in_channels + first)[:, None]
        a = tl.load(source, mask=inside[:, None] & known[None, :], other=0).to(weights.dtype.element_ty)
        target, known = targets + (tap * out_channels * in_channels + first), known[:, None] & is_channel
        low = tl.dot(a, tl.load(target, mask=known, other=0), low, input_precision="ieee", out_dtype=SUM)
        if PLANES == 2:
            b = tl.load(target + plane, mask=known, other=0)
            high = tl.dot(a, b, high, input_precision="ieee", out_dtype=SUM)
    total = low.to(OUT)
    if PLANES == 2:
        total += high.to(OUT) * 256
    return total


@triton.jit
def _step(z, v, n, addend, spikes, at, mask, table, threshold, entry, softly, KIND: tl.constexpr):
    """Compute one step of neurons with the current z.

    Tables are read anew at every step, which leaves registers free.
    """
    if KIND == "flag":
        factor = tl.load(table + entry, mask=mask, other=0)
        z += tl.where(tl.load(addend + at, mask=mask, other=0) != 0, factor, 0)
    elif KIND == "scaled":
        product = tl.load(addend + at, mask=mask, other=0).to(tl.int64) * tl.load(table + entry, mask=mask, other=0)
        z += ((product + 32768) >> 16).to(z.dtype)
    elif KIND == "weighted":
        z += tl.load(addend + at, mask=mask, other=0).to(z.dtype) * tl.load(table + entry, mask=mask, other=0)
    v += z
    theta = tl.load(threshold + entry, mask=mask, other=1)
    fired = v >= theta
    v -= tl.where(fired, tl.where(softly, theta, v), 0)
    tl.store(spikes + at, fired.to(tl.uint8), mask=mask)
    return v, n + fired.to(tl.int32)


@triton.jit
def _keep(v, n, potentials, counts, out_of_range, at, mask, LIMIT: tl.constexpr):
    if LIMIT:
        outside = (v >= LIMIT) | (v < -LIMIT)
        tl.store(out_of_range + 0 * at, 1, mask=mask & outside)
    tl.store(potentials + at, v, mask=mask)
    tl.store(counts + at, n, mask=mask)


@triton.jit(do_not_specialize=["steps", "pixels"], do_not_specialize_on_alignment=["out_of_range"])
def _fire_from_spikes(
    values,
    weights,
    addend,
    table,
    setting,
    reset,
    bias,
    threshold,
    potentials,
    counts,
    spikes,
    out_of_range,
    steps,
    pixels,
    value_step,
    spike_step,
    height,
    width,
    in_channels,
    out_height,
    out_width,
    out_channels,
    taps,
    kernel_width,
    stride_y,
    stride_x,
    padding_y,
    padding_x,
    dilation_y,
    dilation_x,
    PLANES: tl.constexpr,
    SUM: tl.constexpr,
    KIND: tl.constexpr,
    LIMIT: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    num_blocks = (out_channels + CHANNELS - 1) // CHANNELS
    channel = tl.program_id(0) % num_blocks * CHANNELS + tl.arange(0, CHANNELS)
    first = (tl.program_id(0) // num_blocks).to(tl.int64) * PIXELS
    pixel = first + tl.arange(0, PIXELS)
    exists = pixel < pixels
    row = pixel // (out_height * out_width)
    rest = (pixel % (out_height * out_width)).to(tl.int32)
    y, x = rest // out_width * stride_y - padding_y, rest % out_width * stride_x - padding_x
    images = values + row * (height * width * in_channels)
    own = tl.load(setting + row, mask=exists, other=0).to(tl.int32)
    softly = (tl.load(reset + own, mask=exists, other=0) == SOFT)[:, None]
    mask = exists[:, None] & (channel < out_channels)[None, :]
    entry = own[:, None] * out_channels + channel[None, :]
    at = tl.arange(0, PIXELS)[:, None] * out_channels + channel[None, :]
    first *= out_channels
    potentials, counts, addend, spikes = potentials + first, counts + first, addend + first, spikes + first
    v, n = tl.load(potentials + at, mask=mask, other=0), tl.load(counts + at, mask=mask, other=0)
    for _ in range(steps):
        z = _products(
            images,
            weights,
            y,
            x,
            exists,
            channel,
            height,
            width,
            in_channels,
            out_channels,
            taps,
            kernel_width,
            dilation_y,
            dilation_x,
            potentials.dtype.element_ty,
            PLANES,
            SUM,
            PIXELS,
            CHANNELS,
            INPUTS,
        )
        z += tl.load(bias + entry, mask=mask, other=0)
        v, n = _step(z, v, n, addend, spikes, at, mask, table, threshold, entry, softly, KIND)
        images, addend, spikes = images + value_step, addend + spike_step, spikes + spike_step
    _keep(v, n, potentials, counts, out_of_range, at, mask, LIMIT)


@triton.jit(do_not_specialize=["steps", "current_step"], do_not_specialize_on_alignment=["out_of_range"])
def _fire_from_currents(
    currents,
    rows,
    addend,
    table,
    setting,
    reset,
    bias,
    threshold,
    potentials,
    counts,
    spikes,
    out_of_range,
    steps,
    spike_step,
    size,
    channels,
    current_step,
    KIND: tl.constexpr,
    LIMIT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    at = tl.arange(0, BLOCK)
    mask = first + at < spike_step
    row, place = (first + at) // size, (first + at) % size
    own = tl.load(setting + row, mask=mask, other=0).to(tl.int32)
    softly = tl.load(reset + own, mask=mask, other=0) == SOFT
    entry = own * channels + (place % channels).to(tl.int32)
    source = currents + (tl.load(rows + row, mask=mask, other=0) * size + place)
    potentials, counts, addend, spikes = potentials + first, counts + first, addend + first, spikes + first
    v, n = tl.load(potentials + at, mask=mask, other=0), tl.load(counts + at, mask=mask, other=0)
    for _ in range(steps):
        z = tl.load(source, mask=mask, other=0) + tl.load(bias + entry, mask=mask, other=0)
        v, n = _step(z, v, n, addend, spikes, at, mask, table, threshold, entry, softly, KIND)
        source, addend, spikes = source + current_step, addend + spike_step, spikes + spike_step
    _keep(v, n, potentials, counts, out_of_range, at, mask, LIMIT)


@triton.jit(do_not_specialize=["rows", "pixels"])
def _convolve(
    values,
    weights,
    setting,
    bias,
    out,
    rows,
    pixels,
    height,
    width,
    in_channels,
    out_height,
    out_width,
    out_channels,
    taps,
    kernel_width,
    stride_y,
    stride_x,
    padding_y,
    padding_x,
    dilation_y,
    dilation_x,
    PLANES: tl.constexpr,
    SUM: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    num_blocks = (out_channels + CHANNELS - 1) // CHANNELS
    channel = tl.program_id(0) % num_blocks * CHANNELS + tl.arange(0, CHANNELS)
    pixel = (tl.program_id(0) // num_blocks).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    exists = pixel < pixels
    row = pixel // (out_height * out_width)
    rest = (pixel % (out_height * out_width)).to(tl.int32)
    y, x = rest // out_width * stride_y - padding_y, rest % out_width * stride_x - padding_x
    mask = exists[:, None] & (channel < out_channels)[None, :]
    own = tl.load(setting + row % rows, mask=exists, other=0)
    constant = tl.load(bias + (own[:, None] * out_channels + channel[None, :]), mask=mask, other=0)
    z = constant + _products(
        values + row * (height * width * in_channels),
        weights,
        y,
        x,
        exists,
        channel,
        height,
        width,
        in_channels,
        out_channels,
        taps,
        kernel_width,
        dilation_y,
        dilation_x,
        out.dtype.element_ty,
        PLANES,
        SUM,
        PIXELS,
        CHANNELS,
        INPUTS,
    )
    tl.store(out + (pixel[:, None] * out_channels + channel[None, :]), z, mask=mask)
