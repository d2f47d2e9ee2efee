import importlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from rmpsweep.engine import calibrate, convert, neuron, simulate, thresholds_from_scales
from rmpsweep.engine.network import activations
from rmpsweep.errors import CalibrationError
from rmpsweep.terms import parse_rule
from tests.helpers.nets import Chain, Clipped, Concatenated, Pooled, Residual, dyadic_images, make_dyadic

IMAGES = dyadic_images(9)
calibration = importlib.import_module("rmpsweep.engine.calibrate")
"""The module: its name in the package is that of the function."""


def order_statistic(values, percent):
    """The definition, by sorting everything: smallest value with at least p % of all values not above it."""
    ordered = np.sort(np.asarray(values, dtype=np.float64).ravel())
    return next(v for i, v in enumerate(ordered) if (i + 1) * 100 >= percent * len(ordered))


def currents_by_hand(ann, images, thresholds, upto, steps):
    """All currents into layer `upto` of a bias-free Chain, written out step by step."""
    v1, z_all = torch.zeros(()), []
    for _ in range(steps):
        z1 = ann.conv1(images)
        if upto == "act1":
            z_all.append(z1)
            continue
        s1, v1 = neuron.step(z1, v1, float(thresholds["act1"]), "soft")
        z_all.append(ann.conv2(s1))
    return torch.stack(z_all).detach()


@pytest.mark.parametrize(("method", "percent"), [("vin_max", 100), ("vin_p99.7", 99.7), ("vin_p60", 60)])
def test_vin_is_the_exact_order_statistic_of_spike_driven_currents(method, percent):
    ann = make_dyadic(Chain())
    found = calibrate(convert(ann, IMAGES), IMAGES, method, time_steps=12, batch_size=4)
    for layer in ("act1", "act2"):
        expected = order_statistic(currents_by_hand(ann, IMAGES, found, layer, 12), percent)
        assert float(found[layer]) == expected, layer


@pytest.mark.parametrize(
    ("method", "percent"), [("activation_max", 100), ("activation_p99.9", 99.9), ("activation_p70", 70)]
)
def test_activation_rules_set_the_scale_to_the_order_statistic_of_the_relu_outputs(method, percent):
    net = convert(make_dyadic(Residual()), IMAGES)
    found = calibrate(net, IMAGES, method, batch_size=4, input_scale=2.0)
    scales = {k: order_statistic(v, percent) for k, v in activations(net, IMAGES, net.layers).items()}
    expected = thresholds_from_scales(net, {"input": 2.0, **scales})
    assert {k: float(v) for k, v in found.items()} == {k: float(v) for k, v in expected.items()}


def test_channel_granularity_takes_each_channel_on_its_own():
    ann = make_dyadic(Chain())
    net = convert(ann, IMAGES)
    found = calibrate(net, IMAGES, "activation_p99", "channel")
    values = activations(net, IMAGES, ["act1"])["act1"]
    by_channel = [order_statistic(values[:, c], 99) for c in range(4)]
    assert found["act1"].tolist() == [x if x > 0 else max(by_channel) for x in by_channel]
    vin = calibrate(net, IMAGES, "vin_max", "channel", time_steps=6)
    assert vin["act1"].tolist() == ann.conv1(IMAGES).amax((0, 2, 3)).double().tolist()


@pytest.mark.parametrize("method", ["vin_max", "vin_p99", "activation_p99"])
@pytest.mark.parametrize("encoding", ["constant", "poisson"])
def test_order_and_batch_size_do_not_matter(method, encoding):
    net = convert(make_dyadic(Pooled()), IMAGES)
    order = torch.tensor([4, 8, 0, 2, 1, 7, 6, 3, 5])
    one = calibrate(net, IMAGES, method, encoding=encoding, time_steps=8, batch_size=9)
    other = calibrate(net, IMAGES[order], method, encoding=encoding, time_steps=8, batch_size=2, image_ids=order)
    assert one == other


@pytest.mark.parametrize("build", [Residual, Concatenated])
def test_maximal_current_keeps_every_neuron_below_one_spike_per_step(build):
    """V_th >= V_in^max: the residual potential never exceeds the threshold, so nothing saturates."""
    net = convert(make_dyadic(build()), IMAGES)
    thresholds = calibrate(net, IMAGES, "vin_max", time_steps=64)
    sim = simulate(net, IMAGES, thresholds, [64])
    for layer in net.layers:
        assert float((sim.state.potentials[layer] / thresholds[layer]).max()) < 1


@pytest.mark.parametrize("granularity", ["layer", "channel"])
@pytest.mark.parametrize("method", ["vin_max", "vin_p99", "activation_max", "activation_p99.9"])
def test_no_scale_is_above_its_ceiling(method, granularity):
    net = convert(make_dyadic(Clipped()), IMAGES)
    found = calibrate(net, IMAGES, method, granularity, time_steps=16)
    assert float(found["act1"].max()) == 0.5  # Λ of the layer after the input is θ
    without = calibrate(unclipped(net), IMAGES, method, granularity, time_steps=16)
    assert float(without["act1"].max()) > 0.5


def unclipped(net):
    return replace(net, nodes=tuple(replace(node, options={}) if node.op == "spike" else node for node in net.nodes))


def test_currents_through_a_concatenation_are_the_same_by_kernels_and_node_by_node(monkeypatch):
    """Driven by spikes; sums of dyadic numbers are exact in any order, thresholds rounded up to powers of two."""
    net = convert(make_dyadic(Concatenated()), IMAGES)
    monkeypatch.setattr(calibration, "_checked", lambda _, values, __: 2.0 ** values.max().log2().ceil())
    found = calibrate(net, IMAGES, "vin_max", time_steps=8)
    monkeypatch.setattr(calibration, "find_program", lambda _: None)
    assert found == calibrate(net, IMAGES, "vin_max", time_steps=8)
    assert len({float(value) for value in found.values()}) > 2


def test_auto_input_scale_is_the_largest_input():
    net = convert(make_dyadic(Chain()), IMAGES)
    assert float(calibrate(net, IMAGES, input_scale="auto", time_steps=4)["input"]) == float(IMAGES.abs().max())


def test_silent_layer_is_an_error_naming_it_and_a_silent_channel_takes_the_layers_largest():
    ann = make_dyadic(Chain())
    with torch.no_grad():
        ann.conv2.weight[3] = -ann.conv2.weight[3].abs()
    net = convert(ann, IMAGES)
    with pytest.warns(UserWarning, match="'act2': 1 of 5 channels are silent"):
        found = calibrate(net, IMAGES, "vin_max", "channel", time_steps=4)
    assert float(found["act2"][3]) == float(found["act2"].max())
    with torch.no_grad():
        ann.conv2.weight.copy_(-ann.conv2.weight.abs())
    with pytest.warns(UserWarning, match="its output is the same for different images"):
        net = convert(ann, IMAGES)
    with pytest.raises(CalibrationError, match="layer 'act2' is silent"):
        calibrate(net, IMAGES, "vin_max", time_steps=4)


@pytest.mark.parametrize("method", ["max", "vin_p0", "vin_p101", "vin_p", "vin_max ", "99.9%", "activation-max"])
def test_unknown_methods_list_the_known_ones(method):
    with pytest.raises(ValueError, match="expected one of vin_max"):
        parse_rule(method)


def test_percentiles_are_read_exactly():
    assert math.isclose(float(parse_rule("vin_p99.7")[1]), 99.7)
    assert parse_rule("vin_p99.7")[1].denominator == 10


@pytest.mark.parametrize(
    "change", [{"granularity": "neuron"}, {"time_steps": 0}, {"input_scale": 0.0}, {"images": IMAGES[:0]}]
)
def test_bad_arguments(change):
    net = convert(nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()), IMAGES)
    with pytest.raises(ValueError, match="got"):
        calibrate(net, **{"images": IMAGES, **change})


def test_moving_average_of_maxima_is_spikingjellys() -> None:
    ann2snn = pytest.importorskip("spikingjelly.activation_based.ann2snn")
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 8), nn.ReLU(), nn.Linear(8, 3))
    images = torch.randn(70, 1, 8, 8)
    net = convert(ann, images[:1])
    hooks = {name: ann2snn.modules.VoltageHook(mode="Max").train() for name in net.layers}
    for part in images.split(16):
        for name, values in activations(net, part, net.layers).items():
            hooks[name](values)
    scales = {"input": torch.tensor(1.0), **{name: hook.scale for name, hook in hooks.items()}}
    found = calibrate(net, images, "activation_max_ema", batch_size=16)
    assert found == thresholds_from_scales(net, scales)
    assert found != calibrate(net, images.flip(0), "activation_max_ema", batch_size=16)
    with pytest.raises(ValueError, match="granularity"):
        calibrate(net, images, "activation_max_ema", "channel")
