"""Slices and padding with zeros, as in the option-A shortcuts of He et al. 2016."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmpsweep.engine import calibrate, convert, neuron, simulate
from rmpsweep.errors import ConversionError
from tests.helpers.cifar_resnet import CifarResNet, LambdaLayer, with_statistics_of
from tests.helpers.nets import dyadic_images, make_dyadic, powers_of_two

IMAGES = dyadic_images(3, size=6)


class OptionA(nn.Module):
    """One block that halves the map and triples the channels; sizes are read from the tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 2, 3, padding=1)
        self.conv1, self.conv2 = nn.Conv2d(2, 6, 3, stride=2, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        out = self.conv2(F.relu(self.conv1(x)))
        out += F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2), "constant", 0)
        out = F.relu(out)
        out = F.avg_pool2d(out, out.size()[3])
        return self.fc(out.view(out.size(0), -1))


def option_a_by_hand(ann: OptionA, images: Tensor, thresholds: dict[str, Tensor], reset: str, steps: int):
    """Every step written out: biases in units of Λ, the shortcut times Λ of the stem over Λ of the branch."""
    stem, branch, block = (float(thresholds[name]) for name in ("relu", "relu_1", "relu_2"))
    unit_stem, unit_branch = stem, branch * stem
    v = [torch.zeros(()), torch.zeros(()), torch.zeros(())]
    trains, total = [], torch.zeros(())
    for _ in range(steps):
        s0, v[0] = neuron.step(ann.stem(images), v[0], stem, reset)
        z1 = F.conv2d(s0, ann.conv1.weight, ann.conv1.bias / unit_stem, 2, 1)
        s1, v[1] = neuron.step(z1, v[1], branch, reset)
        z2 = F.conv2d(s1, ann.conv2.weight, ann.conv2.bias / unit_branch, padding=1)
        z2[:, 2:4] += s0[:, :, [0, 2, 4]][..., [0, 2, 4]] * (unit_stem / unit_branch)
        s2, v[2] = neuron.step(z2, v[2], block, reset)
        trains.append((s0, s1, s2))
        total = total + s2.mean((2, 3))
    logits = total / steps * block * unit_branch @ ann.fc.weight.T + ann.fc.bias
    return [torch.stack(layer).to(torch.uint8) for layer in zip(*trains, strict=True)], logits


@pytest.mark.parametrize("reset", ["soft", "hard"])
@torch.no_grad()
def test_spikes_equal_those_of_the_steps_written_out(reset):
    ann = make_dyadic(OptionA())
    net = convert(ann, IMAGES)
    thresholds = powers_of_two(net)
    sim = simulate(net, IMAGES, thresholds, [32], reset=reset, record_spikes=True)
    trains, logits = option_a_by_hand(ann, IMAGES, thresholds, reset, 32)
    for layer, expected in zip(net.layers, trains, strict=True):
        assert torch.equal(sim.spikes[layer], expected), layer
        assert int(expected.sum()) > 100
    torch.testing.assert_close(sim.logits[0], logits, rtol=1e-6, atol=1e-6)


def test_fan_out_counts_what_a_slice_keeps():
    """6 channels of a 3x3 stride-2 convolution, and one more operation where both coordinates are even."""
    reads = torch.tensor([1, 2, 1, 2, 1, 1])  # of position i: outputs r in {0, 1, 2} with |2r - i| <= 1
    kept = torch.tensor([1, 0, 1, 0, 1, 0])
    net = convert(make_dyadic(OptionA()), IMAGES)
    expected = 6 * torch.outer(reads, reads) + torch.outer(kept, kept)
    assert torch.equal(net.fan_out["relu"], expected.expand(2, 6, 6))
    assert torch.equal(net.fan_out["relu_2"], torch.full((6, 3, 3), 3))


def test_synops_of_a_sliced_input_by_hand():
    """Two of four pixels are kept, each read by 5 neurons; the other two cost nothing."""
    ann = nn.Sequential(LambdaLayer(lambda x: F.pad(x[..., ::2], (1, 1, 0, 0))), nn.Conv2d(1, 5, 1), nn.ReLU())
    image = torch.tensor([0.5, 1.0, 1.0, 1.0]).view(1, 1, 1, 4)
    net = convert(ann, image)
    assert net.fan_out["input"].flatten().tolist() == [5, 0, 5, 0]
    sim = simulate(net, image, powers_of_two(net), [4])
    assert sim.input_spikes.tolist() == [16]
    assert sim.synops["input"].tolist() == [40]


def test_rates_of_a_batch_normed_resnet_approach_the_ann():
    """Ten times the steps, a tenth of the error: a slope nearer to -1 than to -1/2."""
    torch.manual_seed(0)
    images = torch.randn(4, 3, 16, 16)
    ann = with_statistics_of(CifarResNet(1), images)
    net = convert(ann, images)
    sim = simulate(net, images, calibrate(net, images, "activation_max"), [128, 1280])
    with torch.no_grad():
        errors = (sim.logits - ann(images)).abs().mean((1, 2))
    assert float(errors[1] / errors[0]) < 0.1 ** (3 / 4), errors


class Indexed(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(2, 2, 1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(F.relu(self.conv(x)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[:1], "node 'getitem' (getitem) indexes by (slice(None, 1, None),), which takes a part"),
        (lambda x: x[..., ::2, :, :, :], "which takes a part of the batch"),
        (lambda x: x[:, 0], "only slices are supported"),
        (lambda x: x[:, :, None], "only slices are supported"),
        (lambda x: x[x > 0], "(gt) has no faithful spiking counterpart"),
        (lambda x: F.pad(x, (1, 1), value=0.5), "pads with mode='constant', value=0.5; only zeros"),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), "node 'pad' (pad) pads with mode='reflect'"),
        (lambda x: F.pad(x, (0, 0, 0, 0, 0, 0, 0, 1)), "pads the batch"),
        (lambda x: x.view(-1, 2), "only flattening to [N, features] is supported"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(function, message):
    with pytest.raises(ConversionError) as error:
        convert(Indexed(function), IMAGES)
    assert message in str(error.value)


def test_slices_take_sizes_as_bounds():
    net = convert(Indexed(lambda x: x[:, : x.size(1), 1 : x.shape[2]]), IMAGES)
    assert net.node("getitem").shape == (2, 5, 6)
