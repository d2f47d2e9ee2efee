"""Turns images into input spikes or input currents.

The Poisson generator is counter-based: whether element e of image i spikes at step t depends on (seed, i, t, e) and on
nothing else. The same image therefore gets the same spikes in every batch, shard, worker, device and trial.
"""

from typing import assert_never

import numpy as np
import torch
from numba import njit
from torch import Tensor

from rmpsweep.engine.compiled import compiled
from rmpsweep.terms import Encoding

_MASK64 = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def is_spiking(encoding: Encoding) -> bool:
    """Whether the input is spikes, drawn anew at every step.

    Otherwise it is one analog current, the same at every step.
    """
    match encoding:
        case "poisson":
            return True
        case "constant":
            return False
        case _:
            assert_never(encoding)


def constant(images: Tensor, input_scale: Tensor) -> Tensor:
    """Return the analog current s_0 = x / Λ_0, the same at every step. images [N, ...], input_scale [N] -> [N, ...]."""
    return images / _per_row(input_scale, images)


def poisson(images: Tensor, input_scale: Tensor, seeds: Tensor, image_ids: Tensor, t: int) -> Tensor:
    """Draw the signed spikes of step t: sign(x) where the uniform number r is below |x| / Λ_0, else 0.

    Args:
        images: [N, ...]. An element with |x| >= Λ_0 spikes at every step.
        input_scale: Λ_0 of each row, [N].
        seeds, image_ids: int64 [N].
        t: the step, 0-based.
    Returns:
        -1, 0 or 1 in the dtype of images, [N, ...].
    Source: nitin-rathi/hybrid-snn-conversion, self_models/vgg_spiking.py, PoissonGenerator. It compares with `<=`; here
    it is `<`, so that a zero pixel never spikes.
    """
    rate = images.abs() / _per_row(input_scale, images)
    fires = uniform(seeds, image_ids, t, images[0].numel()).view(images.shape) < rate
    return torch.sign(images) * fires


def uniform(seeds: Tensor, image_ids: Tensor, t: int, num_elements: int) -> Tensor:
    """Return uniform numbers in [0, 1), float32 [N, num_elements], that depend on (seed, image_id, t, element) alone.

    Each number is a multiple of 2^-24.

    Source: SplitMix64 finaliser (Steele, Lea, Flood, OOPSLA 2014) over nested counters, in wrapping int64.
    """
    row = _mix(_mix(seeds) + image_ids)
    row = _mix(row + _signed((t * _GOLDEN) & _MASK64))
    elements = torch.arange(1, num_elements + 1, device=seeds.device, dtype=torch.int64) * _signed(_GOLDEN)
    bits = _mix(row[:, None] + elements)
    return _shift_right(bits, 40).to(torch.float32) * 2.0**-24


def saturated_fraction(images: Tensor, input_scale: float) -> float:
    """Return the fraction of input elements with |x| > Λ_0, whose rate `poisson` clips at 1."""
    return float((images.abs() > input_scale).double().mean())


def _per_row(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images.dtype).view(-1, *[1] * (images.dim() - 1))


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift x to the right and fill with zeros; torch's own shift is arithmetic and repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def fill_poisson(
    images: Tensor, input_scale: Tensor, seeds: Tensor, image_ids: Tensor, start: int, out: Tensor
) -> None:
    """Draw what `poisson` draws, for several steps at once on the CPU.

    Args:
        images: [N, C, H, W].
        start: the first step t, 0-based.
        out: bytes [T, N, H, W, at least 2 C], all zero. Spikes are written as 1: in each pixel the positive spikes of
        all channels come first, then the negative ones.
    """
    rate = images.abs() / _per_row(input_scale, images)
    _fill(
        rate.double().flatten(2).numpy(),
        (images > 0).flatten(2).numpy(),
        seeds.numpy(),
        image_ids.numpy(),
        start,
        out.flatten(2, 3).numpy(),
    )


@compiled
def _fill(rate, positive, seeds, image_ids, start, out):
    golden = np.uint64(_GOLDEN)
    for t in range(out.shape[0]):
        for n in range(len(rate)):
            row = _mixed(_mixed(np.uint64(seeds[n])) + np.uint64(image_ids[n]))
            row = _mixed(row + np.uint64(start + t) * golden)
            for c in range(rate.shape[1]):
                for pixel in range(rate.shape[2]):
                    element = np.uint64(c * rate.shape[2] + pixel + 1)
                    bits = _mixed(row + element * golden)
                    if np.float64(bits >> np.uint64(40)) * 2.0**-24 < rate[n, c, pixel]:
                        out[t, n, pixel, c if positive[n, c, pixel] else rate.shape[1] + c] = 1


@njit(inline="always")
def _mixed(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
