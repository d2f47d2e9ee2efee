"""`rmpsweep check`: where the rates of a converted network part from the ANN's activations."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rmpsweep.engine import SpikingNetwork, calibrate, convert, simulate, thresholds_from_scales
from rmpsweep.engine.agreement import LARGEST_GROWTH, Agreement, LayerSums, compare_layers
from rmpsweep.engine.network import activations
from rmpsweep.engine.scales import scaled
from tests.helpers.commands import rmpsweep, run_here
from tests.helpers.nets import Chain, GlobalPooled, MaxPooled, Pooled, Residual


def converted(build: type[nn.Module], size: int = 6) -> tuple[SpikingNetwork, Tensor, dict[str, Tensor]]:
    """With random weights, on eight random images, thresholds the largest activations."""
    torch.manual_seed(0)
    images = torch.randn(8, 2, size, size, dtype=torch.float64)
    net = convert(build(), images[:1].float())
    return net, images, calibrate(net, images, "activation_max")


def verdicts(found: Agreement) -> dict[str, str]:
    return {layer.layer: layer.verdict for layer in found.layers}


@pytest.mark.parametrize("build", [Chain, Pooled, Residual, MaxPooled, GlobalPooled])
@pytest.mark.parametrize("granularity", ["layer", "channel"])
@pytest.mark.filterwarnings("ignore:layer .* channels are silent")
def test_every_layer_of_a_healthy_network_agrees(build, granularity):
    net, images, _ = converted(build, 12 if build is GlobalPooled else 6)
    found = compare_layers(net, images, calibrate(net, images, "activation_max", granularity), 256)
    assert set(verdicts(found).values()) == {"ok"}, found
    assert found.parting is None
    assert found.causes == ()
    assert {layer.clipped for layer in found.layers} == {0.0}
    for layer in found.layers:
        assert layer.errors[2] < layer.errors[1] < layer.errors[0]


T = 256
STEPS = (T // 4, T // 2, T)
ACTIVATION = torch.rand(1, 4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TIME = torch.arange(1, T + 1, dtype=torch.float64)[:, None, None]


def floor(counts: Tensor) -> Tensor:
    return counts.floor().clamp(min=0)


def random_spikes(rate: Tensor) -> Tensor:
    drawn = torch.rand(T, *rate.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return (drawn < rate).double().cumsum(0)


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        (floor(TIME * ACTIVATION), "ok"),  # law 2
        (floor((TIME - 60) * ACTIVATION), "ok"),  # a lag that ended before T/4
        (floor((TIME - 0.45 * T) * ACTIVATION), "ok"),  # a little before T/2
        (floor((TIME - 2 * T / 3) * ACTIVATION), "starting"),
        (floor((TIME + T / 3 * (-3 * TIME / T).expm1()) * ACTIVATION), "starting"),  # a current that rises as 1 - e^-t
        (random_spikes(ACTIVATION), "parts here"),  # off by the square root of T
        (floor(TIME * ACTIVATION * 1.1), "parts here"),  # a rate that is wrong
        (floor(TIME * ACTIVATION * 0.9), "parts here"),
        (floor(TIME * ACTIVATION.clamp(max=0.6)), "parts here"),  # rates clipped though Λ is not to blame
        (TIME * 0 * ACTIVATION, "silent"),
    ],
    ids=["law", "lag", "longer lag", "too long a lag", "slow rise", "random", "more", "less", "clipped", "none"],
)
def test_the_rule_on_neurons_whose_spikes_are_known(counts: Tensor, verdict: str):
    sums = LayerSums()
    sums.add(ACTIVATION, [counts[t - 1] for t in STEPS], torch.ones(1, dtype=torch.float64), STEPS)
    found = sums.agreement("layer", 1.0)
    assert found.verdict == verdict, found


def test_activations_above_what_a_spike_is_worth_saturate():
    worth = torch.tensor([0.5], dtype=torch.float64)
    sums = LayerSums()
    rate = (ACTIVATION / worth).clamp(max=1.0)
    sums.add(ACTIVATION, [floor(t * rate) for t in STEPS], worth, STEPS)
    found = sums.agreement("layer", 0.5)
    assert found.verdict == "saturated"
    assert found.clipped == pytest.approx(float((ACTIVATION - worth).relu().mean() / ACTIVATION.mean()), rel=1e-6)


def test_errors_are_those_of_the_recorded_spikes():
    """Against the plain definition: every spike counted, divided by T, times what it is worth."""
    net, images, thresholds = converted(Residual)
    found = compare_layers(net, images, thresholds, 64)
    sim = simulate(net, images, thresholds, [64], numerics="float64", record_spikes=True)
    ann = activations(net.to(dtype=torch.float64), images, net.layers)
    scales = scaled(net, thresholds, 1.0, "layer")
    for layer in found.layers:
        for t, error in zip((16, 32, 64), layer.errors, strict=True):
            rate = sim.spikes[layer.layer][:t].double().mean(0)
            expected = (rate * scales[layer.layer].unit - ann[layer.layer]).abs().mean() / ann[layer.layer].mean()
            assert error == pytest.approx(float(expected), rel=1e-12)


def test_the_layer_after_a_biased_max_pooling_is_named():
    net, images, thresholds = converted(MaxPooled)
    found = compare_layers(net, images, thresholds, 256, max_pool="spike")
    assert verdicts(found) == {"act1": "ok", "act2": "parts here"}
    assert found.parting is found.layers[1]
    assert found.parting.growth > LARGEST_GROWTH
    assert "max_pool: spike at 'pool'" in found.causes[0]
    assert "max_pool: count" in found.causes[0]


@pytest.mark.parametrize(("layer", "rest"), [("act1", "act2"), ("act2", None)])
def test_a_threshold_too_small_is_told_by_what_the_rate_cannot_say(layer, rest):
    net, images, thresholds = converted(Chain)
    unit = {name: scale.unit for name, scale in scaled(net, thresholds, 1.0, "layer").items()}
    small = thresholds_from_scales(net, {k: torch.tensor(v / (4 if k == layer else 1)) for k, v in unit.items()})
    found = compare_layers(net, images, small, 256)
    assert found.parting is not None
    assert (found.parting.layer, found.parting.verdict) == (layer, "saturated")
    assert f"({layer}): thresholds, or α, are too low" in found.causes[0]
    if rest:
        assert verdicts(found)[rest] == "follows"
    else:
        assert verdicts(found)["act1"] == "ok"


def test_an_alpha_too_small_saturates_the_first_layer():
    net, images, thresholds = converted(Chain)
    found = compare_layers(net, images, thresholds, 256, alpha=0.2, alpha_scope="network")
    assert verdicts(found)["act1"] == "saturated"


def test_hard_reset_parts_at_the_first_layer():
    net, images, thresholds = converted(Chain)
    found = compare_layers(net, images, thresholds, 256, reset="hard")
    assert verdicts(found) == {"act1": "parts here", "act2": "follows"}
    assert found.causes == ("reset: hard forgets what is left of the potential at every spike; use reset: soft",)


def test_a_threshold_never_reached_is_silence():
    net, images, thresholds = converted(Chain)
    found = compare_layers(net, images, {**thresholds, "act2": thresholds["act2"] * 1e6}, 64)
    assert verdicts(found) == {"act1": "ok", "act2": "silent"}
    assert "no spike in 64 steps: its threshold is too high, or --time-steps 256" in found.causes[0]


def test_a_layer_that_has_hardly_begun_is_not_blamed():
    """A threshold of 20 times the largest activation: nothing is wrong but that T is too small."""
    net, images, thresholds = converted(Chain)
    slow = {**thresholds, "act2": thresholds["act2"] * 20}
    assert verdicts(compare_layers(net, images, slow, 32)) == {"act1": "ok", "act2": "starting"}
    assert verdicts(compare_layers(net, images, slow, 4096)) == {"act1": "ok", "act2": "ok"}


def test_layers_behind_one_that_starts_are_not_silent_but_starting():
    net, images, thresholds = converted(Residual)
    slow = {name: value * (1 if name == "input" else 2) for name, value in thresholds.items()}
    found = verdicts(compare_layers(net, images, slow, 16))
    assert list(found.values()) == sorted(found.values(), key=["ok", "starting"].index)
    assert found["act4"] == "starting"
    assert set(verdicts(compare_layers(net, images, slow, 2048)).values()) == {"ok"}


@pytest.mark.parametrize("time_steps", [0, 2, 63])
def test_time_steps_that_are_no_multiple_of_4_are_refused(time_steps):
    with pytest.raises(ValueError, match=f"time_steps: got {time_steps}, expected a multiple of 4"):
        compare_layers(*converted(Chain), time_steps)


MODULES = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.body, self.head = nn.Sequential(*layers), nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))

def pooled():
    return Net(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU())

def sigmoid():
    return Net(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 6), nn.Sigmoid())

def normalised_first():
    return Net(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 6), nn.ReLU())

def hooked():
    network = pooled()
    network.body[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return network
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "rmpsweep_checked.py").write_text(MODULES)
    monkeypatch.setenv("RMPSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "rmpsweep_checked", raising=False)
    return tmp_path


def test_a_network_by_name_with_random_weights_on_random_images():
    document = rmpsweep("check", "vgg-small", "--images", 4, "--time-steps", 128)
    assert document["agrees"]
    assert document["parts_at"] is None
    assert (document["weights"], document["images_of"]) == ("random (seed 0)", "random images of 1x8x8")
    assert document["time_steps"] == [32, 64, 128]
    assert [layer["verdict"] for layer in document["layers"]] == ["ok"] * 5
    assert document == rmpsweep("check", "vgg-small", "--images", 4, "--time-steps", 128)


def test_the_table_and_the_sentence(weights: Path):
    code, output, errors = run_here(
        ["check", "vgg-small", "--weights", str(weights), "--source", "digits", "--images", "4", "--time-steps", "128"]
    )
    assert code == 0, errors
    for part in (
        "T = 32",
        "T = 64",
        "T = 128",
        "growth",
        "features.1",
        "(output)",
        "2^(1/4)",
        "4 images of digits/test",
        "all 5 spiking layers agree with the ANN",
    ):
        assert part in output


def test_a_network_of_the_user_that_disagrees_is_located(modules: Path):
    options = ("check", "rmpsweep_checked:pooled", "--source", "digits", "--time-steps", 128)
    assert rmpsweep(*options)["agrees"]
    document = rmpsweep(*options, "--max-pool", "spike", expected=3)
    assert document["parts_at"] == "body.4"
    assert any("max_pool: spike at node 'body.2' is biased" in warning for warning in document["warnings"])
    assert "max_pool: spike at 'body.2'" in document["causes"][0]


def test_a_sweep_brings_its_weights_images_and_settings(modules: Path):
    import rmpsweep_checked
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(rmpsweep_checked.pooled().state_dict(), modules / "w.safetensors")
    sweep = modules / "sweep.yaml"
    sweep.write_text(
        "name: t\nnetwork: {module: 'rmpsweep_checked:pooled', weights: w.safetensors}\ndata: {source: digits}\n"
        "grid: {max_pool: [spike, count], alpha: [1.0, 0.5], threshold: activation_p99.9}\ntime_steps: [4]\n"
    )
    document = rmpsweep("check", sweep, "--time-steps", 128, expected=3)
    assert (document["network"], document["parts_at"]) == ("rmpsweep_checked:pooled", "body.4")
    assert document["images_of"] == "images of digits/test"
    assert document["weights"].endswith("w.safetensors")
    assert 0 < document["rounding"]["deviation"] < 1e-3
    assert document["rounding"]["alpha"] == 0.5
    assert rmpsweep("check", sweep, "--time-steps", 128, "--max-pool", "count", "--threshold", "activation_max")[
        "agrees"
    ]
    assert not (modules / "results").exists()


@pytest.mark.parametrize(
    ("factory", "messages"),
    [
        ("sigmoid", ["node 'body_3' (Sigmoid at 'body.3')", "has no faithful spiking counterpart"]),
        ("normalised_first", ["node 'body_2' (BatchNorm2d at 'body.2')", "folded only directly after a convolution"]),
        ("hooked", ["differs from the ANN", "hooks"]),
    ],
)
def test_what_cannot_be_converted_is_refused_by_the_nodes_name(factory: str, messages: list[str], modules: Path):
    code, output, errors = run_here(["check", f"rmpsweep_checked:{factory}", "--image", "1x8x8"])
    assert (code, output) == (2, "")
    for message in messages:
        assert message in errors


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        ("resnet19", ["sweep 'resnet19': no such file", "quickstart"]),
        ("vgg-small --image 8x8", ["--image: got '8x8'", "such as 3x224x224"]),
        ("vgg-small --image 1x8x8 --source digits", ["--image is the size of random images", "not both"]),
        ("vgg-small --max-pool or", ["check: max_pool: got 'or'", "'count', 'spike' or 'average'"]),
        ("vgg-small --numerics half", ["check: numerics: got 'half'", "'float32'"]),
        ("vgg-small --threshold largest", ["check: threshold: got 'largest'", "activation_max"]),
        ("vgg-small --time-steps 30", ["--time-steps: got 30, expected a multiple of 4"]),
        ("vgg-small --source mnist", ["check: source: got 'mnist'", "digits, cifar10"]),
        ("vgg-small --path /tmp", ["check: source: missing"]),
        ("vgg-small --source digits --transform vit", ["check: transform: got 'vit'", "unit, cifar10"]),
        ("vgg-small --source digits --transform weights", ["no transform is known for the weights None of vgg-small"]),
        ("vgg-small --weights none.pth", ["none.pth: there is no such weights file"]),
        ("quickstart --weights w.pth", ["'quickstart' is a sweep", "--weights"]),
        ("no_such_module:factory", ["network.module: no_such_module:factory: cannot import"]),
    ],
)
def test_bad_arguments(options: str, messages: list[str]):
    code, _, errors = run_here(["check", *options.split()])
    assert code == 2, errors
    for message in messages:
        assert message in errors
