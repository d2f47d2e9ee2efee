import numpy as np
import pytest
import torch
from torch import nn

from rmpsweep.engine import calibrate, convert, simulate, simulate_many, thresholds_from_scales
from rmpsweep.engine.constants import make_constants
from rmpsweep.engine.cpu.device import CpuKernels
from rmpsweep.engine.encode import fill_poisson, poisson, uniform
from rmpsweep.engine.network import activations
from rmpsweep.engine.numerics import CalibratedSetting
from rmpsweep.engine.program import make_program
from rmpsweep.terms import FIGURES, RESETS
from tests.helpers.nets import Chain, MaxPooled, Pooled, Residual, dyadic_images, make_dyadic, powers_of_two

IMAGES = dyadic_images(5)


def dyadic_net(build=Residual):
    net = convert(make_dyadic(build()), IMAGES)
    return net, powers_of_two(net)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reset": "hard"},
        {"encoding": "poisson"},
        {"v_init": 0.5, "alpha": 0.5},
        {"alpha_scope": "network", "alpha": 2.0},
    ],
)
@pytest.mark.parametrize("build", [Residual, MaxPooled, Pooled])
def test_law_6_two_runs_of_half_the_steps_are_one_run(build, options):
    net, thresholds = dyadic_net(build)
    whole = simulate(net, IMAGES, thresholds, [4, 8, 16], record_spikes=True, **options)
    first = simulate(net, IMAGES, thresholds, [4, 8], record_spikes=True, **options)
    second = simulate(net, IMAGES, thresholds, [16], record_spikes=True, state=first.state, start=8, **options)
    again = simulate(net, IMAGES, thresholds, [16], state=first.state, start=8, **options)
    assert torch.equal(torch.cat([first.logits, second.logits]), whole.logits)
    assert torch.equal(again.logits, second.logits)  # the state handed over is not changed by its use
    for layer in net.layers:
        assert torch.equal(torch.cat([first.spikes[layer], second.spikes[layer]]), whole.spikes[layer])
        assert torch.equal(second.spike_counts[layer][0], whole.spike_counts[layer][2])
    assert torch.equal(second.synops["input"][0], whole.synops["input"][2])


@pytest.mark.parametrize("encoding", ["constant", "poisson"])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_law_7_batch_size_and_order_do_not_matter_on_a_dyadic_net(batch_size, encoding):
    net, thresholds = dyadic_net()
    ids = torch.arange(5) + 100
    whole = simulate(net, IMAGES, thresholds, [16], image_ids=ids, encoding=encoding, record_spikes=True)
    order = torch.tensor([3, 0, 4, 1, 2])
    mixed = simulate(
        net,
        IMAGES[order],
        thresholds,
        [16],
        image_ids=ids[order],
        encoding=encoding,
        record_spikes=True,
        batch_size=batch_size,
    )
    assert torch.equal(mixed.logits, whole.logits[:, order])
    for layer in net.layers:
        assert torch.equal(mixed.spikes[layer], whole.spikes[layer][:, order])


def test_law_7_in_float_at_one_batch_shape():
    torch.manual_seed(0)
    ann, images = Residual(bias=True), torch.rand(7, 2, 6, 6)
    net = convert(ann, images)
    thresholds = calibrate(net, images)
    whole = simulate(net, images, thresholds, [32], batch_size=8)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        parts = [
            simulate(net, images[i : i + 3], thresholds, [32], image_ids=range(i, min(i + 3, 7)), batch_size=8)
            for i in range(0, 7, 3)
        ]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.cat([p.logits for p in parts], 1), whole.logits)


def test_many_settings_equal_one_at_a_time():
    net, thresholds = dyadic_net()
    channelwise = {**thresholds, "act1": torch.tensor([1.0, 2.0, 0.5, 1.0])}
    settings = [
        {"thresholds": thresholds, "alpha": 0.5},
        {"thresholds": thresholds, "reset": "hard", "v_init": 0.5},
        {"thresholds": channelwise, "alpha": 2.0, "alpha_scope": "network"},
        {"thresholds": thresholds, "encoding": "poisson", "seed": 3},
        {"thresholds": thresholds, "encoding": "poisson", "seed": 4},
        {"thresholds": thresholds, "numerics": "float64"},
    ]
    together = simulate_many(net, IMAGES, settings, [8, 16], batch_size=4)
    for setting, sim in zip(settings, together, strict=True):
        alone = simulate(net, IMAGES, time_steps=[8, 16], **setting)
        assert torch.equal(sim.logits, alone.logits)
        assert {k: v.tolist() for k, v in sim.spike_counts.items()} == {
            k: v.tolist() for k, v in alone.spike_counts.items()
        }
        assert {k: v.tolist() for k, v in sim.synops.items()} == {k: v.tolist() for k, v in alone.synops.items()}
    assert not torch.equal(together[3].logits, together[4].logits)


@pytest.mark.parametrize("reset", RESETS)
def test_kernels_compute_every_reset_as_the_reference_does(reset):
    net, thresholds = dyadic_net()
    setting = {"thresholds": thresholds, "reset": reset, "alpha": 0.75, "v_init": 0.25, "record_spikes": True}
    fast = simulate(net, IMAGES, time_steps=[16], **setting)
    slow = simulate(net, IMAGES, time_steps=[16], kernels="reference", **setting)
    for layer in net.layers:
        assert torch.equal(fast.spikes[layer], slow.spikes[layer])
        assert torch.equal(fast.state.potentials[layer], slow.state.potentials[layer])


def test_a_reset_that_the_kernels_do_not_compute_is_refused():
    net, thresholds = dyadic_net()
    constants = make_constants(net, [CalibratedSetting(thresholds=thresholds)], 1.0)
    program = make_program(constants)
    CpuKernels(constants, program)
    object.__setattr__(constants.settings[0], "reset", "leaky")  # a word that everything else knows
    with pytest.raises(AssertionError, match="leaky"):
        CpuKernels(constants, program)


def test_figures_of_the_input_are_among_those_of_the_layers():
    net, thresholds = dyadic_net()
    sim = simulate(net, IMAGES, thresholds, [4, 16])
    assert set(sim.figures) == {"input", *net.layers}
    for layer, figures in sim.figures.items():
        assert (figures.shape, figures.dtype) == ((len(FIGURES), 2), torch.int64)
        of = {"spikes": sim.spike_counts, "synops": sim.synops, "saturated": sim.saturated}
        if layer != "input":
            assert [of[name][layer].tolist() for name in FIGURES] == figures.tolist()
    spikes, synops, saturated = sim.figures["input"]
    assert torch.equal(spikes, sim.input_spikes)
    assert torch.equal(synops, sim.synops["input"])
    assert saturated.tolist() == [0, 0]  # however often an element was shown


@pytest.mark.parametrize("granularity", ["layer", "channel"])
@pytest.mark.parametrize(
    "build",
    [Chain, lambda: Chain(True), Pooled, lambda: Residual(True), MaxPooled],
    ids=["chain", "bias", "pooled", "residual", "max-pooled"],
)
def test_law_3_network_rates_approach_the_anns_activations_as_one_over_T(build, granularity):
    torch.manual_seed(3)
    images = torch.rand(6, 2, 6, 6)
    ann = build().eval()
    net = convert(ann, images)
    scales = thresholds_from_scales(
        net,
        {
            "input": 1.0,
            **{
                layer: value.amax((0, *range(2, value.dim()))).clamp_min(1e-3)
                if granularity == "channel"
                else value.max()
                for layer, value in activations(net, images, net.layers).items()
            },
        },
    )
    steps = [128, 256, 512, 1024, 2048]
    sim = simulate(net, images, scales, steps, numerics="float64")
    with torch.no_grad():
        errors = (sim.logits - ann.double()(images.double())).abs().mean((1, 2))
    slope = np.polyfit(np.log(steps), np.log(errors.numpy()), 1)[0]
    assert slope < -0.8, errors  # -1 up to the noise of few images; a biased conversion levels out at slope 0
    ann.float()


def test_max_pool_count_converges_where_or_is_biased():
    torch.manual_seed(3)
    ann, images = MaxPooled().eval(), torch.rand(8, 2, 6, 6)
    net = convert(ann, images)
    thresholds = calibrate(net, images, "activation_max")
    with torch.no_grad():
        expected = ann(images)
    errors = {
        how: float((simulate(net, images, thresholds, [1024], max_pool=how).logits[0] - expected).abs().mean())
        for how in ("count", "spike")
    }
    assert errors["count"] < errors["spike"] / 10, errors


def test_max_pool_count_emits_zero_or_one_and_adds_up_to_the_largest_count():
    """Read out by the identity: the output summed over steps is the largest spike count of the window."""
    ann = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.MaxPool2d(2))
    nn.init.ones_(ann[0].weight)
    images = torch.tensor([[0.25, 0.5], [0.75, -1.0]]).view(1, 1, 2, 2)
    net = convert(ann, images)
    steps = list(range(1, 17))
    sim = simulate(net, images, powers_of_two(net, (0,)), steps, record_spikes=True)
    total = sim.logits.flatten() * torch.tensor(steps)
    largest = sim.spikes["1"].long().cumsum(0).flatten(1).amax(1)
    assert total.tolist() == largest.tolist()
    assert set(total.diff().tolist()) == {0.0, 1.0}


def test_alpha_scope_layer_scales_every_threshold_and_network_only_the_first():
    net, thresholds = dyadic_net(Chain)
    by_hand = {k: v if k == "input" else v * 0.5 for k, v in thresholds.items()}
    first_only = {**thresholds, "act1": thresholds["act1"] * 0.5}
    layer = simulate(net, IMAGES, thresholds, [16], alpha=0.5, record_spikes=True)
    network = simulate(net, IMAGES, thresholds, [16], alpha=0.5, alpha_scope="network", record_spikes=True)
    for sim, reference in ((layer, by_hand), (network, first_only)):
        expected = simulate(net, IMAGES, reference, [16], record_spikes=True)
        assert all(torch.equal(sim.spikes[name], expected.spikes[name]) for name in net.layers)
        assert torch.equal(sim.logits, expected.logits)
    assert not torch.equal(layer.spikes["act2"], network.spikes["act2"])


def test_v_init_is_a_fraction_of_the_scaled_threshold():
    ann = nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    for weight in (ann[1].weight, ann[3].weight):
        nn.init.ones_(weight)
    image = torch.full((1, 1, 1, 1), 0.25)
    net = convert(ann, image)
    thresholds = {"input": torch.tensor(1.0), "2": torch.tensor(2.0)}
    sim = simulate(net, image, thresholds, [8], alpha=0.5, v_init=0.5, record_spikes=True)
    assert sim.spikes["2"].flatten().tolist() == [0, 1, 0, 0, 0, 1, 0, 0]  # 1/2 + t/4 crosses 1 at t = 2, then every 4


def test_readout_is_in_ann_units_for_any_input_scale():
    net, thresholds = dyadic_net(Chain)
    doubled = simulate(net, IMAGES * 2, {**thresholds, "input": torch.tensor(2.0)}, [16])
    assert torch.equal(doubled.logits, 2 * simulate(net, IMAGES, thresholds, [16]).logits)


def test_poisson_depends_on_seed_image_step_and_element_alone():
    images = torch.linspace(-1.5, 1.5, 24).view(2, 3, 2, 2)
    one, ids, seeds = torch.ones(2), torch.tensor([5, 9]), torch.tensor([1, 1])
    both = torch.stack([poisson(images, one, seeds, ids, t) for t in range(200)])
    alone = torch.stack([poisson(images[1:], one[1:], seeds[1:], ids[1:], t) for t in range(200)])
    assert torch.equal(both[:, 1:], alone)
    assert set(both.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert bool((both[:, images.abs() >= 1].abs() == 1).all())
    assert not torch.equal(both, torch.stack([poisson(images, one, seeds + 1, ids, t) for t in range(200)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_poisson_spikes_of_a_chunk_are_those_of_its_steps(dtype):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 2, 4, 5, generator=generator).to(dtype)
    scale, seeds, ids = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0, 7, 2**31 - 1]), torch.tensor([5, 0, 2**40])
    out = torch.zeros(6, 3, 4, 5, 16, dtype=torch.uint8)
    fill_poisson(images, scale, seeds, ids, 9, out)
    planes = out.permute(0, 1, 4, 2, 3).to(dtype)
    expected = torch.stack([poisson(images, scale, seeds, ids, 9 + t) for t in range(6)])
    assert torch.equal(planes[:, :, :2] - planes[:, :, 2:4], expected)
    assert int(planes[:, :, 4:].sum()) == 0


def test_uniform_numbers_are_uniform_and_uncorrelated():
    r = torch.stack([uniform(torch.tensor([0, 1]), torch.tensor([3, 3]), t, 500) for t in range(400)]).double()
    n = r.numel()
    assert float(r.min()) >= 0
    assert float(r.max()) < 1
    # five standard deviations of the mean, of the variance and of a correlation of n uniform numbers
    assert abs(float(r.mean()) - 0.5) < 5 * (1 / 12 / n) ** 0.5
    assert abs(float(r.var()) - 1 / 12) < 5 * (1 / 180 / n) ** 0.5
    centred = (r - 0.5) * 12**0.5
    for a, b in ((centred[1:], centred[:-1]), (centred[:, 0], centred[:, 1]), (centred[..., 1:], centred[..., :-1])):
        assert abs(float((a * b).mean())) < 5 / a.numel() ** 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 0.0}, "alpha: got 0.0"),
        ({"alpha": float("nan")}, "alpha"),
        ({"reset": "softt"}, "reset: got 'softt'"),
        ({"v_init": 1.0}, "v_init: got 1.0"),
        ({"time_steps": []}, "time_steps"),
        ({"time_steps": [8, 4]}, "time_steps"),
        ({"time_steps": [0]}, "time_steps"),
        ({"time_steps": [4, 4]}, "time_steps"),
        ({"alpha_scope": "net"}, "alpha_scope"),
        ({"thresholds": {"input": 1.0}}, "thresholds: no entry for 'act1'"),
        ({"encoding": "ttfs"}, "encoding"),
        ({"max_pool": "max"}, "max_pool"),
        ({"numerics": "int4"}, "numerics"),
        ({"start": 4}, "without a state"),
    ],
)
def test_bad_arguments_name_the_value_and_what_is_allowed(change, message):
    net, thresholds = dyadic_net(Chain)
    with pytest.raises(ValueError, match=r"expected|without") as error:
        simulate(net, IMAGES, **{"thresholds": thresholds, "time_steps": [8], **change})
    assert message in str(error.value)


def test_a_state_of_other_steps_or_images_is_refused():
    net, thresholds = dyadic_net(Chain)
    state = simulate(net, IMAGES, thresholds, [8]).state
    with pytest.raises(ValueError, match="state: got one of 8 steps, expected one of 4"):
        simulate(net, IMAGES, thresholds, [16], state=state, start=4)
    with pytest.raises(ValueError, match="for 2 images"):
        simulate(net, IMAGES[:2], thresholds, [16], state=state, start=8)
