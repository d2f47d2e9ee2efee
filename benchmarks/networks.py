"""The networks that are timed, with their inputs and thresholds, which are the same in every process."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmpsweep.engine import SpikingNetwork, calibrate, convert, simulate
from rmpsweep.models.registry import build
from rmpsweep.models.weights import load_weights
from rmpsweep.terms import Numerics

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CALIBRATION_IMAGES = 16


@dataclass(frozen=True)
class Case:
    """A network at one input size, and the least work of one timed run: num_images x steps, both powers of two."""

    network: str
    classes: int
    side: int
    num_images: int
    steps: int
    batches: tuple[int, ...]
    """The batch sizes that are tried for the peers, ascending."""
    weights: Path | None = None
    """A trained state dict; None for random weights with a fixed seed."""


TRAINED = Path(__file__).parents[1] / "sweeps" / "weights" / "cifar10-resnet20.safetensors"
CASES = {
    case.network: case
    for case in (
        Case("resnet20", 10, 32, 128, 32, (4, 8, 16, 32, 64, 128), TRAINED),
        Case("vgg16", 10, 32, 32, 16, (4, 8, 16, 32)),
        Case("resnet34", 1000, 224, 8, 8, (1, 2, 4, 8)),
    )
}


@dataclass(frozen=True)
class Prepared:
    """What every contender of a case starts from."""

    ann: nn.Module
    net: SpikingNetwork
    """The converted ANN."""
    images: Tensor
    """[N, 3, H, W]."""
    thresholds: dict[str, Tensor]
    """Layer -> θ, 0-d."""


def prepare(case: Case, num_images: int | None = None) -> Prepared:
    """Build, convert and calibrate a network.

    The same case always gives the same values, and its images are the first ones of a fixed series, whatever their
    number.
    """
    torch.manual_seed(0)
    ann = build(case.network, case.classes, 3, case.side).eval()
    if case.weights:
        load_weights(ann, case.weights)
    images = smooth_images(max(num_images or case.num_images, CALIBRATION_IMAGES), case.side)
    net = convert(ann, images[:2])
    thresholds = calibrate(net, images[:CALIBRATION_IMAGES], "activation_p99.9", batch_size=4)
    return Prepared(ann, net, images[: num_images or case.num_images], thresholds)


def smooth_images(num_images: int, side: int) -> Tensor:
    """Random normalised images [N, 3, side, side], whose power is mostly at low frequencies, as in photographs."""
    total = torch.zeros(num_images, 3, side, side)
    for index in range(num_images):
        generator = torch.Generator().manual_seed(index)
        for cells in (2, 4, 8, 16):
            noise = torch.randn(1, 3, cells, cells, generator=generator) / cells
            total[index] += F.interpolate(noise, size=side, mode="bicubic")[0]
    pixels = (0.5 + 0.55 * total).clamp(0, 1)
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def firing_rate(prepared: Prepared, steps: int, numerics: Numerics) -> float:
    """The spikes per neuron per step, over all layers and images."""
    done = simulate(prepared.net, prepared.images, prepared.thresholds, [steps], numerics=numerics)
    spikes = sum(int(counts[-1]) for counts in done.spike_counts.values())
    neurons = sum(math.prod(prepared.net.node(layer).shape) for layer in prepared.net.layers)
    return spikes / (neurons * len(prepared.images) * steps)
