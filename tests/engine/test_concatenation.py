"""Concatenated spikes: those of each part weigh what a spike of its own layer is worth."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmpsweep.engine import calibrate, convert, neuron, simulate, simulate_many, thresholds_from_scales
from rmpsweep.engine.constants import make_constants
from rmpsweep.engine.numerics import CalibratedSetting, weights_kind
from tests.helpers.nets import Concatenated, dyadic_images, make_dyadic, powers_of_two

IMAGES = dyadic_images(4)


class Fire(nn.Module):
    """SqueezeNet's module. The unit is the part whose ReLU comes last in forward, wherever it is concatenated."""

    def __init__(self, right_first: bool = True) -> None:
        super().__init__()
        self.right_first = right_first
        self.squeeze, self.left, self.right = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 3, padding=1)
        self.head, self.act, self.fc = nn.Conv2d(9, 6, 3, padding=1), nn.ReLU(), nn.Linear(216, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        left, right = F.relu(self.left(x)), F.relu(self.right(x))
        parts = [right, left] if self.right_first else [left, right]
        return self.fc(self.act(self.head(torch.cat(parts, 1))).flatten(1))


def fire(right_first: bool = True) -> tuple[nn.Module, object, dict[str, Tensor]]:
    """θ of squeeze, left, right and act: 1, 1/2, 2, 1/4; so a spike of left is worth a quarter of one of right."""
    ann = make_dyadic(Fire(right_first))
    net = convert(ann, IMAGES)
    assert net.layers == ["relu", "relu_1", "relu_2", "act"]
    return ann, net, powers_of_two(net, (0, -1, 1, -2))


@torch.no_grad()
def spikes_by_hand(ann: Fire, thresholds: dict[str, Tensor], steps: int, reset: str) -> Tensor:
    """Spikes of `act`, written out: z = W_right s_right + 1/4 W_left s_left + b / Λ_right."""
    wide = ann.double()
    state = dict.fromkeys(thresholds, torch.zeros((), dtype=torch.float64))
    trains = []

    def fire(layer: str, z: Tensor) -> Tensor:
        spikes, state[layer] = neuron.step(z, state[layer], float(thresholds[layer]), reset)
        return spikes

    for _ in range(steps):
        s = fire("relu", wide.squeeze(IMAGES.double()))
        left, right = fire("relu_1", wide.left(s)), fire("relu_2", wide.right(s))
        w = wide.head.weight
        of_right, of_left = (w[:, :5], w[:, 5:]) if ann.right_first else (w[:, 4:], w[:, :4])
        z = F.conv2d(right, of_right, padding=1) + F.conv2d(left, of_left, padding=1) / 4
        trains.append(fire("act", z + wide.head.bias.view(-1, 1, 1) / 2))
    ann.float()
    return torch.stack(trains)


@pytest.mark.parametrize(("reset", "right_first"), [("soft", True), ("soft", False), ("hard", True)])
@pytest.mark.parametrize(("kernels", "numerics"), [("reference", "float64"), ("auto", "float64"), ("auto", "float32")])
def test_the_current_is_the_sum_of_the_parts_each_at_its_own_scale(kernels, numerics, reset, right_first):
    ann, net, thresholds = fire(right_first)
    options = {"numerics": numerics, "reset": reset, "kernels": kernels, "record_spikes": True}
    sim = simulate(net, IMAGES, thresholds, [24], **options)
    expected = spikes_by_hand(ann, thresholds, 24, reset)
    assert 100 < int(expected.sum()) < 0.9 * expected.numel()
    assert torch.equal(sim.spikes["act"].double(), expected)


@pytest.mark.parametrize("numerics", ["float32", "fixed16", "fixed8"])
@pytest.mark.parametrize("kernels", ["reference", "auto"])
def test_law_1_charge_is_conserved_behind_a_concatenation(kernels, numerics):
    _, net, thresholds = fire()
    sim = simulate(net, IMAGES, thresholds, [12], v_init=0.5, numerics=numerics, record_spikes=True, kernels=kernels)
    constants = make_constants(net, [CalibratedSetting(thresholds=thresholds, v_init=0.5, numerics=numerics)], 2.0)
    counts = torch.cat([sim.spikes[layer].sum(0) for layer in ("relu_2", "relu_1")], 1).to(constants.dtype)
    total = F.conv2d(counts, constants.weights["head"].to(constants.dtype), padding=1)
    total = total + 12 * constants.bias["head"].view(1, -1, 1, 1)
    gained = sim.state.potentials["act"].to(constants.dtype) - constants.start["act"].view(1, -1, 1, 1)
    assert int(sim.spikes["act"].sum()) > 10
    assert torch.equal(total, constants.threshold["act"].view(1, -1, 1, 1) * sim.spikes["act"].sum(0) + gained)


def test_what_a_spike_weighs_is_on_the_weights_before_they_are_quantised():
    _, net, thresholds = fire()
    weight = net.weights["head"][0].double() * torch.tensor([1.0] * 5 + [0.25] * 4).view(1, 9, 1, 1)
    floating = make_constants(net, [CalibratedSetting(thresholds=thresholds, numerics="float32")], 1.0)
    assert torch.equal(floating.weights["head"].double(), weight)
    fixed = make_constants(net, [CalibratedSetting(thresholds=thresholds, numerics="fixed16")], 1.0)
    grid = weight.abs().amax((1, 2, 3), keepdim=True) / 32639
    assert torch.equal(fixed.weights["head"].double(), (weight / grid).round())


def test_parts_of_one_scale_leave_the_weights_as_they_are():
    _, net, _ = fire()
    thresholds = thresholds_from_scales(net, dict.fromkeys(["input", *net.layers], torch.tensor(0.7)))
    constants = make_constants(net, [CalibratedSetting(thresholds=thresholds, numerics="float32")], 1.0)
    assert torch.equal(constants.weights["head"], net.weights["head"][0])


def test_settings_share_weights_where_alpha_cancels_out_and_only_there():
    """Within Fire both parts are as deep; behind Concatenated's second concatenation they are not."""
    alphas = [n / 37 for n in range(3, 50)]
    for build, kinds in ((Fire, 1), (Concatenated, len(alphas))):
        net = convert(build(), IMAGES)
        scales = {
            layer: torch.rand((), generator=torch.Generator().manual_seed(i)) + 0.1
            for i, layer in enumerate(["input", *net.layers])
        }
        thresholds = thresholds_from_scales(net, scales)
        for scope, expected in (("network", 1), ("layer", kinds)):
            settings = [CalibratedSetting(thresholds=thresholds, alpha=alpha, alpha_scope=scope) for alpha in alphas]
            assert len({weights_kind(net, setting) for setting in settings}) == expected, (build, scope)
            assert len({float(make_constants(net, [s], 1.0).output_scale) for s in settings}) > 1


@pytest.mark.filterwarnings("ignore:layer .* channels are silent")
@pytest.mark.parametrize("granularity", ["layer", "channel"])
@pytest.mark.parametrize("numerics", ["float64", "fixed16"])
def test_law_3_rates_approach_the_activations_as_one_over_T(granularity, numerics):
    """Nested and pooled concatenations, one a shortcut, one read out; in fixed16 as long as its grid allows."""
    torch.manual_seed(0)
    ann, images = Concatenated().eval(), torch.randn(8, 2, 6, 6)
    net = convert(ann, images)
    thresholds = calibrate(net, images, "activation_max", granularity)
    steps = [64, 128, 256, 512, 1024] if numerics == "float64" else [32, 64, 128, 256]
    sim = simulate(net, images, thresholds, steps, numerics=numerics)
    found = (sim.logits - ann(images)).abs().mean((1, 2)).detach()
    slope = np.polyfit(np.log(steps), found.log().numpy(), 1)[0]
    assert abs(slope + 1) < 0.25, found


@pytest.mark.parametrize("max_pool", ["count", "spike", "average"])
@pytest.mark.parametrize("numerics", ["float32", "fixed16"])
def test_kernels_equal_the_reference_on_a_dyadic_net(numerics, max_pool):
    net = convert(make_dyadic(Concatenated()), IMAGES)
    settings = [
        {"thresholds": powers_of_two(net), "numerics": numerics, "max_pool": max_pool, **more}
        for more in ({}, {"reset": "hard"}, {"alpha": 0.5}, {"encoding": "poisson", "v_init": 0.5})
    ]
    one = simulate_many(net, IMAGES, settings, [9, 20], record_spikes=True, chunk=4, batch_size=3)
    other = simulate_many(net, IMAGES, settings, [9, 20], record_spikes=True, kernels="reference")
    for sim, expected in zip(one, other, strict=True):
        assert torch.equal(sim.logits, expected.logits)
        assert all(torch.equal(sim.spikes[layer], expected.spikes[layer]) for layer in net.layers)
        assert {k: v.tolist() for k, v in sim.synops.items()} == {k: v.tolist() for k, v in expected.synops.items()}
