"""torchvision's ResNets with batch norm, converted: the output approaches the ANN's as 1/T."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from rmpsweep.engine import calibrate, convert, simulate
from tests.helpers.cifar_resnet import with_statistics_of


def random_resnet(build) -> tuple[nn.Module, Tensor]:
    """Random weights, batch norm with the statistics of 16 random images; the first two of them."""
    torch.manual_seed(0)
    images = torch.randn(16, 3, 32, 32)
    return with_statistics_of(build(weights=None), images), images[:2]


@pytest.fixture(scope="module")
def resnet18() -> tuple[nn.Module, Tensor]:
    return random_resnet(torchvision.models.resnet18)


@torch.no_grad()
def errors(ann: nn.Module, images: Tensor, steps: list[int], granularity: str, max_pool: str) -> Tensor:
    """Mean error of the logits at each T on the calibration images."""
    net = convert(ann, images)
    thresholds = calibrate(net, images, "activation_max", granularity)
    return (simulate(net, images, thresholds, steps, max_pool=max_pool).logits - ann(images)).abs().mean((1, 2))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:layer .* channels are silent")
@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_law_3_resnet18_approaches_the_anns_output_as_one_over_T(resnet18, granularity):
    """A slope nearer to -1 than to that of the next law there could be, -1/2: spikes at random times."""
    steps = [128, 256, 512, 1024]
    found = errors(*resnet18, steps, granularity, "count")
    slope = np.polyfit(np.log(steps), np.log(found.numpy()), 1)[0]
    assert abs(slope + 1) < 1 / 4, found


def test_law_3_does_not_hold_where_max_pooling_is_biased(resnet18):
    """OR over the window passes on too many spikes, and more steps do not help."""
    found = errors(*resnet18, [64, 128, 256], "layer", "spike")
    assert all(later > earlier / 2 ** (1 / 2) for earlier, later in pairwise(found)), found


@pytest.mark.slow
def test_resnet34_converts_and_spikes_pass_all_of_its_layers():
    ann, images = random_resnet(torchvision.models.resnet34)
    net = convert(ann, images)
    assert len(net.layers) == 33
    sim = simulate(net, images, calibrate(net, images, "activation_max"), [32])
    assert min(int(sim.spike_counts[layer]) for layer in net.layers) > 0
