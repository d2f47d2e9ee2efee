"""ReLU6: one spike per step is the ceiling, so no spike is worth more than it."""

import numpy as np
import pytest
import torch
from torch import nn

from rmpsweep.engine import calibrate, convert, simulate, thresholds_from_scales
from rmpsweep.engine.constants import make_constants
from rmpsweep.engine.numerics import CalibratedSetting
from tests.helpers.nets import Clipped, dyadic_images, make_dyadic, powers_of_two


def one_layer(channels: int = 1):
    """Neurons behind ReLU6 that see constant currents, 1,000 of them from -1 to 12: net, currents."""
    ann = nn.Sequential(nn.Conv2d(1, channels, 1, bias=False), nn.ReLU6(), nn.Flatten(), nn.Linear(channels, 1))
    nn.init.ones_(ann[0].weight)
    z = torch.tensor(np.random.default_rng(0).uniform(-1, 12, 1000))
    return convert(ann.double(), z[:1].view(1, 1, 1, 1)), z


@pytest.mark.slow
@pytest.mark.parametrize("scale", [6.0, 10.0])
@pytest.mark.parametrize(("alpha", "scope"), [(1.0, "layer"), (1.7, "layer"), (3.0, "network")])
@pytest.mark.parametrize("numerics", ["float64", "fixed16"])
def test_rates_approach_the_clipped_activation_as_one_over_T(numerics, alpha, scope, scale):
    net, z = one_layer()
    steps = [2**k for k in range(2, 10)]
    thresholds = {"input": torch.tensor(0.75), "1": torch.tensor(scale / 0.75)}
    options = {"alpha": alpha, "alpha_scope": scope, "numerics": numerics, "record_spikes": True}
    spikes = simulate(net, z.view(-1, 1, 1, 1), thresholds, steps, **options).spikes["1"].flatten(1).double()
    errors = [(6 * spikes[:t].mean(0) - z.clamp(0, 6)).abs() for t in steps]
    grid = 2.0**-10 if numerics == "fixed16" else 1e-9  # of the input and of θ
    assert all(float(error.max()) < 6 / t + grid for t, error in zip(steps, errors, strict=True))
    slope = np.polyfit(np.log(steps), np.log([float(error.mean()) for error in errors]), 1)[0]
    assert abs(slope + 1) < 0.1


def test_a_scale_below_the_ceiling_stays():
    net, z = one_layer()
    thresholds = {"input": torch.tensor(0.75), "1": torch.tensor(8.0)}
    spikes = simulate(net, z.view(-1, 1, 1, 1), thresholds, [64], alpha=0.5, record_spikes=True).spikes["1"]
    rates = spikes.flatten(1).double().mean(0)
    assert float((3 * rates - z.clamp(0, 3)).abs().max()) < 3 / 64 + 1e-4


def test_each_channel_has_the_ceiling():
    net, _ = one_layer(channels=3)
    wanted = {"input": torch.tensor(1.0), "1": torch.tensor([2.0, 6.0, 30.0])}
    assert thresholds_from_scales(net, wanted)["1"].tolist() == [2.0, 6.0, 6.0]
    constants = make_constants(net, [CalibratedSetting(thresholds=wanted, alpha=1.5, numerics="float64")], 1.0)
    assert constants.threshold["1"].tolist() == [[3.0, 6.0, 6.0]]
    assert constants.weights["3"].tolist() == (net.weights["3"][0] * torch.tensor([0.5, 1.0, 1.0])).tolist()


@pytest.mark.parametrize("numerics", ["float32", "fixed16"])
def test_kernels_equal_the_reference_on_a_dyadic_net(numerics):
    images = dyadic_images(5)
    net = convert(make_dyadic(Clipped()), images)
    for reset in ("soft", "hard"):
        options = {"numerics": numerics, "reset": reset, "alpha": 2.0, "record_spikes": True}
        one = simulate(net, images, powers_of_two(net), [9, 20], chunk=4, batch_size=2, **options)
        other = simulate(net, images, powers_of_two(net), [9, 20], kernels="reference", **options)
        assert torch.equal(one.logits, other.logits)
        assert all(torch.equal(one.spikes[layer], other.spikes[layer]) for layer in net.layers)
        assert int(one.saturated["act1"][1]) > 0


@pytest.mark.filterwarnings("ignore:layer .* channels are silent")
@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_law_3_a_network_approaches_the_anns_output_as_one_over_T(granularity):
    torch.manual_seed(0)
    ann, images = Clipped().eval(), torch.randn(8, 2, 6, 6)
    net = convert(ann, images)
    steps = [128, 256, 512, 1024]
    sim = simulate(net, images, calibrate(net, images, "activation_max", granularity), steps, numerics="float64")
    found = (sim.logits - ann(images)).abs().mean((1, 2)).detach()
    assert abs(np.polyfit(np.log(steps), found.log().numpy(), 1)[0] + 1) < 0.25, found
