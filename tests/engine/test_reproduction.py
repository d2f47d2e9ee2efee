"""The same spikes as SpikingJelly 2.0's own conversion, on He's CIFAR ResNets with batch norm and option-A shortcuts.

With RMPSWEEP_TEST_DATA naming a folder that holds networks/cifar10-resnet32-he-optionA.pth (resnet32 of
akamaster/pytorch_resnet_cifar10) and cifar10/ (Parquet files train-* and test-*), the ResNet-32 that others trained is
compared too, on a few images. In full, with the published accuracy on all 10,000 images (half an hour on one core):

    RMPSWEEP_TEST_DATA=DIR RMPSWEEP_REPRODUCTION_IMAGES=500 pytest --timeout=0 tests/engine/test_reproduction.py
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rmpsweep.data import ImageSplit, image_order, open_split
from rmpsweep.engine import convert
from rmpsweep.engine.network import activations
from tests.helpers.cifar_resnet import CifarResNet, with_statistics_of
from tests.helpers.lockstep import Comparison, Pair

T = 64
DATA = Path(os.environ.get("RMPSWEEP_TEST_DATA", "test-data"))
WEIGHTS = DATA / "networks" / "cifar10-resnet32-he-optionA.pth"
NUM_IMAGES = int(os.environ.get("RMPSWEEP_REPRODUCTION_IMAGES", "4"))
BATCH = 10  # potentials and counts of an image take 8 MB in float64
needs_data = pytest.mark.skipif(not WEIGHTS.exists(), reason=f"{WEIGHTS} is not there; set RMPSWEEP_TEST_DATA")


def random_pair(seed: int, dtype: torch.dtype) -> tuple[Pair, torch.Tensor]:
    """A ResNet-8 with random weights and batch norm with the statistics of 16 images; calibrated on the last 8."""
    torch.manual_seed(seed)
    images = torch.randn(16, 3, 16, 16)
    ann = with_statistics_of(CifarResNet(1), images).to(dtype)
    return Pair(ann, images[8:].to(dtype)), images.to(dtype)


def resnet32() -> CifarResNet:
    ann = CifarResNet(5)
    ann.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return ann.eval()


def cifar10(split: str) -> ImageSplit:
    return open_split("parquet", str(DATA / "cifar10"), split, "imagenet-norm")


def resnet32_comparisons(dtype: torch.dtype) -> Iterator[Comparison]:
    """Calibrated on training images, compared on the first test images of the fixed permutation, batch by batch."""
    pair = Pair(resnet32().to(dtype), cifar10("train").load(range(64))[0].to(dtype))
    test = cifar10("test")
    for start in range(0, NUM_IMAGES, BATCH):
        images, _ = test.load(image_order(10_000)[start : min(start + BATCH, NUM_IMAGES)])
        yield pair.compare(images.to(dtype), T)


def assert_ties_up_to_rounding(result: Comparison, dtype: torch.dtype) -> None:
    """Up to an image's first differing spike all spikes are equal, so both potentials there are one sum, rounded
    differently: at most 4 √n ε off the threshold after n roundings, here one for each weight of the widest layer and
    step (Higham and Mary, SIAM J. Sci. Comput. 2019, with λ = 4). What differs later follows from it.
    """
    assert (result.differing == 0) == (result.flips == [])
    for flip in result.flips:
        bound = 4 * ((flip.step + 1) * 9 * 64) ** 0.5 * torch.finfo(dtype).eps
        assert max(abs(flip.ours), abs(flip.theirs)) < bound, flip


@pytest.mark.slow
def test_every_spike_of_a_random_resnet_is_equal_in_float64():
    pair, images = random_pair(0, torch.float64)
    result = pair.compare(images[:8], T)
    assert result.differing == 0
    assert result.spikes > 100_000
    assert torch.equal(result.ours, result.theirs)


@pytest.mark.slow
def test_in_float32_only_ties_up_to_rounding_differ():
    pair, images = random_pair(0, torch.float32)
    assert_ties_up_to_rounding(pair.compare(images[:8], T), torch.float32)


def test_the_neuron_that_set_the_scale_is_at_its_threshold_and_may_differ_even_in_float64():
    """λ_1 is the largest current into the first layer: on that very image its neuron is at θ at the first step."""
    pair, images = random_pair(1, torch.float64)
    result = pair.compare(images[8:], 8)
    assert_ties_up_to_rounding(result, torch.float64)
    assert {flip.layer for flip in result.flips} <= {pair.net.layers[0]}


@pytest.mark.parametrize("layer", ["relu", "relu_3", "relu_6"])
def test_a_scale_that_is_off_by_a_thousandth_is_found(layer):
    pair, images = random_pair(0, torch.float32)
    pair.thresholds[layer] = pair.thresholds[layer] * 1.001
    with pytest.raises(AssertionError, match=f"layer='{layer}'"):
        assert_ties_up_to_rounding(pair.compare(images[:8], 32), torch.float32)


@needs_data
def test_resnet32_trained_by_others_gives_the_spikes_of_spikingjelly():
    for result in resnet32_comparisons(torch.float64):
        assert result.differing == 0, result.flips
        assert torch.equal(result.ours, result.theirs)
        assert result.spikes > 100_000 * result.ours.shape[1]


@needs_data
def test_resnet32_in_float32_differs_only_in_ties_up_to_rounding():
    for result in resnet32_comparisons(torch.float32):
        assert_ties_up_to_rounding(result, torch.float32)


@needs_data
@pytest.mark.skipif(NUM_IMAGES < 500, reason="takes a minute; set RMPSWEEP_REPRODUCTION_IMAGES=500")
def test_resnet32_has_its_published_accuracy():
    net = convert(resnet32(), torch.rand(2, 3, 32, 32))
    test, correct = cifar10("test"), 0
    with torch.no_grad():
        for ids in torch.arange(10_000).split(250):
            images, labels = test.load(ids.numpy())
            correct += int((activations(net, images, [net.output])[net.output].argmax(1) == labels).sum())
    assert correct == 9263
