"""The laws of the design for every kernel and every numerics: one suite, run for each pair.

Floating point gets dyadic numbers, whose sums are exact; in fixed numerics everything is an integer. So each law that
is exact in theory is tested exactly. Law 8, equality with SpikingJelly, is in test_spikingjelly.py.
"""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from rmpsweep.engine import convert, simulate, simulate_many
from rmpsweep.engine.constants import make_constants
from rmpsweep.engine.numerics import CalibratedSetting, quantize_input
from tests.helpers.nets import Chain, dyadic_images, make_dyadic, powers_of_two

PAIRS = [(k, n) for k in ("reference", "auto") for n in ("float32", "float64", "fixed16", "fixed8")]
if find_spec("triton"):  # is interpreted here
    PAIRS += [pytest.param("triton", numerics, marks=pytest.mark.slow) for numerics in ("float32", "fixed16")]
every_kernel = pytest.mark.parametrize(("kernels", "numerics"), PAIRS)
IMAGES = dyadic_images(4)


def one_layer(z, **options):
    """Neurons with θ = 1 that see the constant currents z: spikes of their layer [T, N], constants, result."""
    ann = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(1, 1, bias=False))
    nn.init.ones_(ann[0].weight)
    images = torch.as_tensor(z, dtype=torch.float32).view(-1, 1, 1, 1)
    net = convert(ann, images[:1])
    thresholds = {"input": torch.tensor(1.0), "1": torch.tensor(1.0)}
    kernels = options.pop("kernels")
    sim = simulate(net, images, thresholds, record_spikes=True, kernels=kernels, batch_size=len(images), **options)
    given = {k: v for k, v in options.items() if k in ("numerics", "v_init", "reset")}
    constants = make_constants(net, [CalibratedSetting(thresholds=thresholds, **given)], 2.0)
    return sim.spikes["1"].flatten(1).long(), constants, sim, images


def numbers(constants, images):
    """Current, threshold and first potential of `one_layer` in the numbers the simulation computes in, exactly."""
    theta, start = constants.threshold["1"][0, 0].item(), constants.start["1"][0, 0].item()
    if not constants.is_fixed:
        return images.double().flatten().tolist(), theta, start
    sums = quantize_input(images, torch.ones(len(images))).flatten() * int(constants.weights["0"].flatten()[0])
    return ((sums + 2**11) >> 12).tolist(), theta, start


def chain(numerics, **options):
    net = convert(make_dyadic(Chain(bias=True)), IMAGES)
    thresholds = powers_of_two(net)
    sim = simulate(net, IMAGES, thresholds, numerics=numerics, record_spikes=True, **options)
    given = {k: v for k, v in options.items() if k in ("alpha", "v_init", "reset")}
    return net, sim, make_constants(net, [CalibratedSetting(thresholds=thresholds, numerics=numerics, **given)], 2.0)


@every_kernel
def test_law_1_charge_is_conserved_under_soft_reset(kernels, numerics):
    steps = 12
    net, sim, constants = chain(numerics, time_steps=[steps], v_init=0.5, kernels=kernels)
    dtype = constants.dtype
    total = torch.nn.functional.conv2d(
        sim.spikes["act1"].sum(0).to(dtype), constants.weights["conv2"].to(dtype), **net.node("conv2").options
    )
    total = total + steps * constants.bias["conv2"].view(1, -1, 1, 1)
    threshold = constants.threshold["act2"].view(1, -1, 1, 1)
    gained = sim.state.potentials["act2"].to(dtype) - constants.start["act2"].view(1, -1, 1, 1)
    assert int(sim.spikes["act2"].sum()) > 10
    assert torch.equal(total, threshold * sim.spikes["act2"].sum(0) + gained)


@every_kernel
@pytest.mark.parametrize("v_init", [0.0, 0.5])
def test_law_2_closed_form_of_constant_input(kernels, numerics, v_init):
    z = torch.arange(0, 65) / 64
    spikes, constants, _, images = one_layer(z, time_steps=[20], numerics=numerics, v_init=v_init, kernels=kernels)
    currents, theta, start = numbers(constants, images)
    for t in (1, 7, 20):
        assert spikes[:t].sum(0).tolist() == [int((t * current + start) // theta) for current in currents]


@every_kernel
def test_law_3_the_rate_is_within_one_spike_and_its_error_falls_as_one_over_T(kernels, numerics):
    z = torch.tensor(np.random.default_rng(0).uniform(0, 1, 1000))
    steps = [2**k for k in range(2, 6 if kernels == "triton" else 9)]
    spikes, constants, _, images = one_layer(z, time_steps=steps, numerics=numerics, kernels=kernels)
    currents, theta, _ = numbers(constants, images)
    errors = []
    for t in steps:
        error = (spikes[:t].sum(0) * theta / t - torch.tensor(currents, dtype=torch.float64)).abs() / theta
        # in floating point, the rounding of t additions as well
        assert float(error.max()) < 1 / t + t * (2.0**-24 if numerics == "float32" else 2.0**-52)
        errors.append(float(error.mean()))
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(slope + 1) < 0.1


@pytest.mark.slow
@every_kernel
@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_law_4_a_neuron_at_its_threshold_fires(kernels, numerics, reset):
    options = {"numerics": numerics, "reset": reset, "kernels": kernels}
    spikes, constants, _, images = one_layer([1.0, 0.5], time_steps=[6], **options)
    (first, second), theta, _ = numbers(constants, images)
    assert first == theta
    assert spikes[:, 0].tolist() == [1] * 6
    assert spikes[:, 1].tolist() == [0, 2 * second >= theta] * 3


@every_kernel
def test_law_5_hard_reset_gives_the_staircase(kernels, numerics):
    z = torch.arange(1, 65) / 64
    steps = 64
    spikes, constants, _, images = one_layer(z, time_steps=[steps], numerics=numerics, reset="hard", kernels=kernels)
    currents, theta, _ = numbers(constants, images)
    assert spikes.sum(0).tolist() == [steps // int(-(-theta // current)) for current in currents]


@every_kernel
@pytest.mark.parametrize("options", [{}, {"reset": "hard", "encoding": "poisson"}, {"v_init": 0.5, "alpha": 0.5}])
def test_law_6_two_halves_are_the_whole(kernels, numerics, options):
    net = convert(make_dyadic(Chain()), IMAGES)
    thresholds = powers_of_two(net)
    run = {"numerics": numerics, "record_spikes": True, "kernels": kernels, **options}
    whole = simulate(net, IMAGES, thresholds, [6, 12], **run)
    first = simulate(net, IMAGES, thresholds, [6], **run)
    second = simulate(net, IMAGES, thresholds, [12], state=first.state, start=6, **run)
    assert torch.equal(torch.cat([first.logits, second.logits]), whole.logits)
    for layer in net.layers:
        assert torch.equal(torch.cat([first.spikes[layer], second.spikes[layer]]), whole.spikes[layer])
        assert torch.equal(second.spike_counts[layer][0], whole.spike_counts[layer][1])
    assert {k: int(v[0]) for k, v in second.synops.items()} == {k: int(v[1]) for k, v in whole.synops.items()}


@every_kernel
@pytest.mark.parametrize("encoding", ["constant", "poisson"])
def test_law_7_batch_order_chunk_and_company_do_not_matter(kernels, numerics, encoding):
    net = convert(make_dyadic(Chain(bias=True)), IMAGES)
    setting = {"thresholds": powers_of_two(net), "numerics": numerics, "encoding": encoding}
    company = [{**setting, "reset": "hard"}, {**setting, "alpha": 0.5}, setting]
    ids, order = torch.arange(4) + 100, torch.tensor([3, 0, 2, 1])
    whole = simulate(net, IMAGES, time_steps=[12], image_ids=ids, record_spikes=True, kernels=kernels, **setting)
    mixed = simulate_many(
        net,
        IMAGES[order],
        company,
        [12],
        image_ids=ids[order],
        record_spikes=True,
        kernels=kernels,
        batch_size=5,
        chunk=5,
    )[2]
    assert torch.equal(mixed.logits, whole.logits[:, order])
    for layer in net.layers:
        assert torch.equal(mixed.spikes[layer], whole.spikes[layer][:, order])
