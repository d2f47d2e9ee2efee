"""Synaptic operations against counts worked out by hand."""

import pytest
import torch
from torch import nn

from rmpsweep.engine import calibrate, convert, dense_macs, fan_out, simulate
from tests.helpers.nets import Chain, Concatenated, Residual, dyadic_images, make_dyadic, powers_of_two

# A 3x3 convolution with padding 1 on a 4x4 map: corners reach 4 positions, edges 6, the inside 9.
BORDERS = torch.tensor([[4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]])
# Stride 2: position i is read by the outputs r in {0, 1} with |2r - i| <= 1: once, twice, once, once.
STRIDED = torch.outer(torch.tensor([1, 2, 1, 1]), torch.tensor([1, 2, 1, 1]))


def chain(*layers):
    return convert(nn.Sequential(*layers), torch.rand(1, 1, 4, 4))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        pytest.param([nn.Conv2d(1, 5, 3, padding=1), nn.ReLU()], 5 * BORDERS, id="borders"),
        pytest.param([nn.Conv2d(1, 5, 3, padding=1, stride=2), nn.ReLU()], 5 * STRIDED, id="stride"),
        pytest.param([nn.Conv2d(1, 3, 1), nn.ReLU()], torch.full((4, 4), 3), id="one-by-one"),
        pytest.param([nn.Conv2d(1, 2, 3), nn.ReLU()], 2 * torch.outer(*[torch.tensor([1, 2, 2, 1])] * 2), id="valid"),
        pytest.param([nn.Conv2d(1, 5, 3, padding="same"), nn.ReLU()], 5 * BORDERS, id="same"),
        pytest.param([nn.Conv2d(1, 5, 2, dilation=2), nn.ReLU()], torch.full((4, 4), 5), id="dilated"),
        pytest.param([nn.AvgPool2d(2), nn.Conv2d(1, 7, 1), nn.ReLU()], torch.full((4, 4), 7), id="pool-then-conv"),
        pytest.param(
            [nn.AvgPool2d(3, stride=1), nn.Conv2d(1, 7, 1), nn.ReLU()],
            7 * torch.outer(*[torch.tensor([1, 2, 2, 1])] * 2),
            id="overlapping-pool",
        ),
        pytest.param([nn.MaxPool2d(2), nn.Conv2d(1, 7, 1), nn.ReLU()], torch.full((4, 4), 7), id="max-pool"),
        pytest.param([nn.Flatten(), nn.Linear(16, 11), nn.ReLU()], torch.full((4, 4), 11), id="linear"),
        pytest.param(
            [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 11), nn.ReLU()],
            torch.full((4, 4), 11),
            id="global-pool",
        ),
    ],
)
def test_fan_out_of_the_input(layers, expected):
    assert torch.equal(fan_out(chain(*layers))["input"][0], expected)


def test_groups_divide_the_fan_out():
    net = convert(nn.Sequential(nn.Conv2d(4, 8, 1, groups=2), nn.ReLU()), torch.rand(1, 4, 3, 3))
    assert torch.equal(fan_out(net)["input"], torch.full((4, 3, 3), 4))


def test_each_group_counts_what_becomes_of_its_own_channels():
    class Sliced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 6, 1, groups=2)

        def forward(self, x):
            return self.conv(x)[:, :4].relu()

    net = convert(Sliced(), torch.rand(1, 4, 3, 3))
    assert fan_out(net)["input"][:, 0, 0].tolist() == [3, 3, 1, 1]


def test_a_residual_branch_adds_one_operation_for_the_identity():
    net = convert(make_dyadic(Residual()), dyadic_images())
    borders = torch.nn.functional.conv2d(torch.ones(1, 1, 6, 6), torch.ones(1, 1, 3, 3), padding=1)[0, 0].long()
    assert torch.equal(fan_out(net)["act0"], (4 * borders + 1).expand(4, 6, 6))
    assert torch.equal(fan_out(net)["act1"], (4 * borders).expand(4, 6, 6))


def test_parts_of_a_concatenation_count_each_its_own_channels():
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 4, 1), nn.Conv2d(3, 5, 1)

        def forward(self, x):
            return self.c(torch.cat([self.a(x).relu(), self.b(x).relu()], 1)[:, 1:4])

    fans = fan_out(convert(Joined(), torch.rand(1, 1, 4, 4)))
    assert fans["relu"][:, 0, 0].tolist() == [0, 5]
    assert fans["relu_1"][:, 0, 0].tolist() == [5, 5, 0, 0]


def test_a_part_of_a_concatenation_counts_what_becomes_of_its_own_channels():
    """Pooled, then 3x3 (6 channels) beside 1x1 (18) and the identity; and averaged into a read-out of 3 classes."""
    net = convert(make_dyadic(Concatenated()), dyadic_images())
    borders = torch.tensor([[4, 6, 4], [6, 9, 6], [4, 6, 4]]).repeat_interleave(2, 0).repeat_interleave(2, 1)
    fans = fan_out(net)
    assert [net.node(layer).shape[0] for layer in net.layers] == [4, 5, 7, 6, 18]
    for layer in net.layers[1:3]:
        assert torch.equal(fans[layer], (6 * borders + 18 + 1 + 3).expand(net.node(layer).shape))
    assert torch.equal(fans[net.layers[3]], torch.full((6, 3, 3), 18 + 1))
    assert torch.equal(fans[net.layers[4]], torch.full((18, 3, 3), 3))


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3)), (1, 4, 4)),
        (nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1, groups=2), nn.ReLU(), nn.Conv2d(8, 4, 2, dilation=2)), (4, 7, 6)),
        (nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(2, 3, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 2, 1)), (2, 8, 8)),
        (Chain(), (2, 6, 6)),
        (Residual(), (2, 6, 6)),
        (Concatenated(), (2, 6, 6)),
    ],
    ids=["borders", "groups, stride, dilation", "pooling", "chain", "residual", "concatenated"],
)
def test_dense_macs_are_those_of_each_convolution_and_linear_layer(network, shape):
    """With ones for inputs and weights a layer's outputs count its multiplications; borders hold zeros."""
    total = 0

    def add(module, inputs, output):
        nonlocal total
        ones, weight = torch.ones_like(inputs[0]), torch.ones_like(module.weight)
        if isinstance(module, nn.Linear):
            total += int(torch.nn.functional.linear(ones, weight).sum())
        else:
            total += int(module._conv_forward(ones, weight, None).sum())

    net = convert(network.eval(), torch.rand(1, *shape))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(add)
    network(torch.rand(1, *shape))
    counts = dense_macs(net)
    assert list(counts) == ["input", *net.layers]
    assert sum(counts.values()) == total > 0


def test_dense_macs_are_booked_to_the_layer_they_take_from_and_leave_out_padding_and_pooling_windows():
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 5, 3), nn.Conv2d(5, 7, 1), nn.Linear(28, 3)

        def forward(self, x):
            x = nn.functional.avg_pool2d(self.a(nn.functional.pad(x, (1, 1, 1, 1))).relu(), 2)
            return self.c(self.b(x).relu().flatten(1))

    net = convert(Padded(), torch.rand(1, 1, 4, 4))
    counts = dict(zip(("input", "first", "second"), dense_macs(net).values(), strict=True))
    assert counts == {"input": 5 * int(BORDERS.sum()), "first": 4 * 5 * 7, "second": 28 * 3}
    assert int(fan_out(net)[net.layers[0]].sum()) == 16 * 5 * 7  # spikes: every window of four hands on up to four


def test_synops_are_spikes_times_fan_out_by_hand():
    """One image, two neurons: input 1 and 1/2, weights 1, θ = 1: the first fires every step, the second every other."""
    ann = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 3, bias=False))
    with torch.no_grad():
        ann[1].weight.copy_(torch.eye(2))
    images = torch.tensor([1.0, 0.5]).view(1, 1, 1, 2)
    net = convert(ann, images)
    sim = simulate(net, images, powers_of_two(net, (0,)), [1, 4])
    assert sim.spike_counts["2"].tolist() == [1, 6]
    assert sim.synops["2"].tolist() == [3, 18]
    assert sim.input_spikes.tolist() == [2, 8]
    assert sim.synops["input"].tolist() == [4, 16]


def test_counts_are_of_unit_spikes_whatever_the_channel_thresholds():
    net = convert(make_dyadic(Residual()), dyadic_images())
    thresholds = powers_of_two(net)
    thresholds["act1"] = torch.tensor([0.5, 1.0, 2.0, 0.25])
    sim = simulate(net, dyadic_images(), thresholds, [16], record_spikes=True)
    fans = fan_out(net)
    for layer in net.layers:
        spikes = sim.spikes[layer].long()
        assert int(sim.spike_counts[layer]) == int(spikes.sum())
        assert int(sim.synops[layer]) == int((spikes * fans[layer]).sum())


def test_saturated_neurons_are_those_that_spike_at_nearly_every_step() -> None:
    net = convert(Chain(), dyadic_images(1))
    images = dyadic_images(3)
    thresholds = calibrate(net, images, time_steps=8)
    sim = simulate(net, images, thresholds, [7, 40], alpha=0.25, record_spikes=True)
    some = 0
    for layer in net.layers:
        rates = [sim.spikes[layer][:t].double().mean(0) for t in (7, 40)]
        assert sim.saturated[layer].tolist() == [int((rate >= 0.95).sum()) for rate in rates]
        some += int(sim.saturated[layer][1])
    assert 0 < some < sum(sim.spikes[layer][0].numel() for layer in net.layers)
    assert "input" not in sim.saturated
