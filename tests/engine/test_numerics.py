"""The rule of fixed numerics, worked out by hand, and what it refuses."""

from fractions import Fraction

import pytest
import torch
from torch import nn

from rmpsweep.engine import calibrate, convert, simulate
from rmpsweep.engine.constants import make_constants
from rmpsweep.engine.cpu.device import CpuKernels
from rmpsweep.engine.numerics import LARGEST_WEIGHT, CalibratedSetting, quantize_input
from rmpsweep.engine.program import make_program
from rmpsweep.errors import CalibrationError
from tests.helpers.nets import (
    Bottlenecks,
    Chain,
    MaxPooled,
    Pooled,
    Residual,
    dyadic_images,
    make_dyadic,
    powers_of_two,
)

IMAGES = dyadic_images(4)


def half_even(x: Fraction) -> int:
    return round(x)  # Python's round of a Fraction is half to even


def constants_of(ann, images=IMAGES, thresholds=None, **options):
    net = convert(ann.eval(), images)
    setting = CalibratedSetting(thresholds=thresholds or powers_of_two(net), **{"numerics": "fixed16", **options})
    return net, make_constants(net, [setting], float(images.abs().max()))


@pytest.mark.parametrize("numerics", ["fixed16", "fixed8"])
def test_weights_thresholds_biases_and_factors_are_those_of_the_rule(numerics):
    torch.manual_seed(0)
    ann = Residual(bias=True)
    net, constants = constants_of(ann, numerics=numerics, alpha=0.75, v_init=0.25)
    top = LARGEST_WEIGHT[numerics]
    unit = {"input": Fraction(1)}
    last = "input"
    for layer in net.layers:
        unit[layer] = Fraction(float(powers_of_two(net)[layer])) * Fraction(3, 4) * unit[last]
        last = layer
    grid = {}
    for name, module in ann.named_modules():
        if isinstance(module, nn.Conv2d):
            for c, weight in enumerate(module.weight.detach()):
                exact = [Fraction(w.item()) for w in weight.flatten()]
                grid[name, c] = Fraction(float(max(abs(w) for w in exact)) / top)
                expected = [half_even(Fraction(float(w) / float(grid[name, c]))) for w in exact]
                assert constants.weights[name][c].flatten().tolist() == expected
    for name, source, layer in (("conv1", "act0", "act1"), ("conv4", "act3", "act4")):
        for c in range(net.node(layer).shape[0]):
            step = float(grid[name, c])
            theta = float(powers_of_two(net)[layer]) * 0.75
            assert constants.threshold[layer][0, c] == max(1, half_even(Fraction(theta / step)))
            bias = getattr(ann, name).bias[c].item()
            assert constants.bias[name][0, c] == half_even(Fraction(bias / float(unit[source]) / step))
            assert constants.start[layer][0, c] == min(
                half_even(Fraction(int(constants.threshold[layer][0, c])) / 4), constants.threshold[layer][0, c] - 1
            )
    junction = net.node("act4").inputs[0]
    for c in range(6):  # the projection shortcut, brought from its own grid and unit to the branch's
        ratio = float(unit["act2"]) / float(unit["act3"]) * (float(grid["shortcut", c]) / float(grid["conv4", c]))
        factor = int(constants.factor[junction, 0][0, c])
        assert abs(factor - 2**16 * ratio) <= 0.5 + 2**16 * ratio * 2**-50
    identity = net.node("act2").inputs[0]
    for c in range(4):
        ratio = float(unit["act0"]) / float(unit["act1"]) / float(grid["conv2", c])
        assert abs(int(constants.factor[identity, 1][0, c]) - 2**16 * ratio) <= 0.5 + 2**16 * ratio * 2**-50
    assert len({float(grid["stem", c]) for c in range(4)}) == 4  # a grid for each channel
    steps = constants.weights["fc"].abs().flatten(1).amax(1)
    assert steps.max() == top > steps.min()  # but one for all classes of the output layer


def test_constant_input_is_rounded_to_multiples_of_one_4096th_half_to_even():
    x = torch.tensor([[0.5, 1.5, 2.5, -0.5, 4096.0, 0.49]]) / 4096
    assert quantize_input(x, torch.ones(1)).tolist() == [[0, 2, 2, 0, 4096, 0]]
    assert quantize_input(x, torch.tensor([2.0])).tolist() == [[0, 1, 1, 0, 2048, 0]]


def test_the_divisor_of_average_pooling_is_in_the_threshold():
    net, constants = constants_of(make_dyadic(Pooled()))
    weight = net.weights["conv2"][0]
    grid = weight.double().flatten(1).abs().amax(1) / 32639
    expected = (powers_of_two(net)["act2"] * 4 / grid).round()
    assert torch.equal(constants.threshold["act2"][0].double(), expected)


@pytest.mark.parametrize("kernels", ["reference", "auto"])
def test_windows_of_unequal_size_share_one_divisor(kernels):
    """A padded 3x3 average over 9, 6 or 4 spikes, with weights of one."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Conv2d(1, 1, 1, bias=False), nn.ReLU()
            self.pool = nn.MaxPool2d(3, 2, 1)
            self.conv2, self.act2, self.fc = nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)

        def forward(self, x):
            return self.fc(self.act2(self.conv2(self.pool(self.act(self.conv(x))))).flatten(1))

    ann = Net().eval()
    for parameter in ann.parameters():
        nn.init.ones_(parameter)
    images = torch.ones(1, 1, 4, 4)
    net = convert(ann, images)
    thresholds = {"input": torch.tensor(1.0), "act": torch.tensor(1.0), "act2": torch.tensor(0.5)}
    sim = simulate(
        net, images, thresholds, [8], numerics="fixed16", max_pool="average", record_spikes=True, kernels=kernels
    )
    assert int(sim.spikes["act"].sum()) == 8 * 16  # so each window's average is one: twice the threshold at every step
    assert int(sim.spikes["act2"].sum()) == 8 * 4
    assert torch.equal(sim.state.potentials["act2"].long(), torch.full((1, 1, 2, 2), 8 * (36 * 32639 - 18 * 32639)))


@pytest.mark.parametrize("how", ["count", "spike", "average"])
@pytest.mark.parametrize("numerics", ["fixed16", "float32"])
def test_max_pooling_by_kernels_equals_the_reference(how, numerics):
    net = convert(make_dyadic(MaxPooled()), IMAGES)
    options = {"numerics": numerics, "max_pool": how, "record_spikes": True, "encoding": "poisson"}
    one = simulate(net, IMAGES, powers_of_two(net), [9, 20], chunk=4, **options)
    other = simulate(net, IMAGES, powers_of_two(net), [9, 20], kernels="reference", **options)
    assert torch.equal(one.logits, other.logits)
    assert all(torch.equal(one.spikes[layer], other.spikes[layer]) for layer in net.layers)


def test_fixed_numerics_follow_float64():
    """Same rates up to the grid: logits of fixed16 come within 0.2 %, of fixed8 within 5 % of the largest."""
    torch.manual_seed(1)
    ann, images = Residual(bias=True).eval(), torch.rand(16, 2, 6, 6)
    net = convert(ann, images)
    thresholds = calibrate(net, images, "activation_max")
    exact = simulate(net, images, thresholds, [512], numerics="float64").logits
    for numerics, tolerance in (("fixed16", 2e-3), ("fixed8", 5e-2)):
        error = (simulate(net, images, thresholds, [512], numerics=numerics).logits - exact).abs().max()
        assert float(error) < tolerance * float(exact.abs().max())


def inhibited(weight: float, bias: float) -> nn.Module:
    """A layer that a bias pulls down by weight / threshold per step, behind one that fires."""
    ann = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1, 1))
    with torch.no_grad():
        for module, w, b in ((ann[0], 1.0, 0.0), (ann[2], weight, bias), (ann[5], 1.0, 0.0)):
            module.weight.fill_(w)
            module.bias.fill_(b)
    return ann


@pytest.mark.filterwarnings("ignore:Sequential. its output is the same")
def test_potentials_beyond_int32_are_found_out_and_computed_in_int64():
    image = torch.ones(1, 1, 1, 1)
    net = convert(inhibited(0.001, -1.0), image)
    thresholds = {"input": torch.tensor(1.0), "1": torch.tensor(1.0), "3": torch.tensor(1.0)}
    constants = make_constants(net, [CalibratedSetting(thresholds=thresholds, numerics="fixed16")], 1.0)
    per_step = int(constants.weights["2"].flatten()[0]) + int(constants.bias["2"].flatten()[0])
    steps = 200
    assert constants.largest[net.node("3").inputs[0]] * 16 < 2**30  # so int32 is tried first
    assert -per_step * steps > 2**31  # and would wrap
    sim = simulate(net, image, thresholds, [steps], numerics="fixed16", chunk=16)
    assert int(sim.state.potentials["3"]) == per_step * steps


def test_a_layer_whose_currents_may_not_fit_int32_starts_in_int64():
    image = torch.ones(1, 1, 1, 1)
    net = convert(inhibited(1.0, 1.0), image)
    thresholds = {"input": torch.tensor(1.0), "1": torch.tensor(1.0), "3": torch.tensor(1e6)}
    constants = make_constants(net, [CalibratedSetting(thresholds=thresholds, numerics="fixed16")], 1.0)
    program = make_program(constants)
    kernels = CpuKernels(constants, program)
    assert int(constants.threshold["3"]) > 2**31
    assert [kernels.needs_wide(layer, 16) for layer in program.stages if hasattr(layer, "weighted")] == [False, True]
    options = {"numerics": "fixed16", "record_spikes": True}
    one = simulate(net, image, thresholds, [40], **options)
    other = simulate(net, image, thresholds, [40], kernels="reference", **options)
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(one.state.potentials["3"].long(), other.state.potentials["3"])


@pytest.mark.parametrize(
    ("images", "threshold", "steps"), [(torch.full((1, 1, 1, 1), 1e12), 1.0, 8), (torch.ones(1, 1, 1, 1), 1e13, 8)]
)
def test_sums_that_int64_cannot_hold_are_refused_before_anything_runs(images, threshold, steps):
    net = convert(inhibited(1.0, 0.0), torch.ones(1, 1, 1, 1))
    thresholds = {"input": torch.tensor(1.0), "1": torch.tensor(1.0), "3": torch.tensor(threshold)}
    with pytest.raises(CalibrationError, match="out of the range of fixed16"):
        simulate(net, images, thresholds, [steps], numerics="fixed16")


class Grouped(Chain):
    def __init__(self) -> None:
        super().__init__()
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
        self.fc = nn.Linear(54, 3)


class Linear2(nn.Module):
    """Two linear layers without spikes between, an average of currents, and spikes added to spikes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.pool, self.act1, self.act2, self.fc = nn.AvgPool2d(2), nn.ReLU(), nn.ReLU(), nn.Linear(16, 3)
        self.conv4, self.act3 = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()

    def forward(self, x):
        x = self.act1(self.pool(self.conv2(self.conv1(x))))
        x = x + self.act2(self.conv3(x))
        return self.fc(self.act3(self.conv4(x)).flatten(1))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*silent")
@pytest.mark.parametrize("granularity", ["layer", "channel"])
@pytest.mark.parametrize("build", [Grouped, Linear2, Bottlenecks])
def test_networks_without_a_program_run_node_by_node_on_the_same_grid(build, granularity):
    torch.manual_seed(0)
    ann = build().eval()
    images = torch.rand(5, 2, 6, 6)
    net = convert(ann, images)
    thresholds = calibrate(net, images, "activation_max", granularity=granularity)
    constants = make_constants(net, [CalibratedSetting(thresholds=thresholds, numerics="fixed16")], 1.0)
    assert make_program(constants) is None
    exact = simulate(net, images, thresholds, [256], numerics="float64")
    fixed = simulate(net, images, thresholds, [256], numerics="fixed16")
    assert int(exact.spike_counts[net.layers[-1]][0]) > 100
    assert float((fixed.logits - exact.logits).abs().max()) < 5e-3 * float(exact.logits.abs().max())
