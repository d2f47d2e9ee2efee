"""Images to input spikes or currents.

The Poisson generator is counter-based: whether element e of image i spikes at step t depends on (seed, i, t, e) and on
nothing else, so the same image gets the same spikes in every batch, shard, worker, device and trial.
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
    """Whether the input is spikes that are drawn at every step; else it is one analog current."""
    match encoding:
        case "poisson":
            return True
        case "constant":
            return False
        case _:
            assert_never(encoding)


def constant(images: Tensor, input_scale: Tensor) -> Tensor:
    """Analog current s_0 = x / Λ_0, the same at every step. [N, ...], [N] -> [N, ...]."""
    return images / _per_row(input_scale, images)


def poisson(images: Tensor, input_scale: Tensor, seeds: Tensor, image_ids: Tensor, t: int) -> Tensor:
    """Signed spikes of step t: sign(x) where r < |x| / Λ_0, else 0.

    Args:
        images: [N, ...]; input_scale: Λ_0 of each row, [N]; |x| >= Λ_0 spikes at every step.
        seeds, image_ids: int64 [N].
        t: step, 0-based.
    Returns:
        -1, 0 or 1 in the dtype of images, [N, ...].
    Source: nitin-rathi/hybrid-snn-conversion, self_models/vgg_spiking.py, PoissonGenerator (with `<` for `<=`: a zero
    pixel never spikes).
    """
    rate = images.abs() / _per_row(input_scale, images)
    fires = uniform(seeds, image_ids, t, images[0].numel()).view(images.shape) < rate
    return torch.sign(images) * fires


def uniform(seeds: Tensor, image_ids: Tensor, t: int, num_elements: int) -> Tensor:
    """Numbers in [0, 1), multiples of 2^-24, float32 [N, num_elements], from (seed, image_id, t, element) alone.

    Source: SplitMix64 finaliser (Steele, Lea, Flood, OOPSLA 2014) over nested counters, in wrapping int64.
    """
    row = _mix(_mix(seeds) + image_ids)
    row = _mix(row + _signed((t * _GOLDEN) & _MASK64))
    elements = torch.arange(1, num_elements + 1, device=seeds.device, dtype=torch.int64) * _signed(_GOLDEN)
    bits = _mix(row[:, None] + elements)
    return _shift_right(bits, 40).to(torch.float32) * 2.0**-24


def saturated_fraction(images: Tensor, input_scale: float) -> float:
    """Fraction of input elements with |x| > Λ_0: under `poisson` their rate is clipped at 1."""
    return float((images.abs() > input_scale).double().mean())


def _per_row(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images.dtype).view(-1, *[1] * (images.dim() - 1))


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift_right(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift; torch's is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def fill_poisson(
    images: Tensor, input_scale: Tensor, seeds: Tensor, image_ids: Tensor, start: int, out: Tensor
) -> None:
    """`poisson` of several steps on the CPU: out, bytes [T, N, H, W, at least 2 C], gets the positive spikes of each
    channel first, then the negative; t counts from `start`. images: [N, C, H, W]."""
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
