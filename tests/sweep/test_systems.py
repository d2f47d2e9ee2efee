"""The paper's six systems: their sweeps plan, and every network converts and runs."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision.models import ResNet18_Weights, get_model

from rmpsweep.engine import calibrate, convert, simulate
from rmpsweep.models.registry import NETWORKS, build_any
from rmpsweep.sweep.file import RECIPES, SWEEPS, load_recipe, load_sweep, names
from rmpsweep.sweep.plan import Facts, make_plan
from tests.helpers.commands import rmpsweep, run_here

SYSTEMS = {(data, network) for data in ("cifar10", "cifar100") for network in ("vgg16", "resnet20")} | {
    ("auto", "torchvision:vgg16"),
    ("auto", "torchvision:resnet34"),
    ("auto", "resnet34"),
}


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data folders for the sweep files, a cache and torchvision's cache of this test's own."""
    for name in ("CIFAR10_DIR", "CIFAR100_DIR", "IMAGENET_DIR", "RMPSWEEP_CACHE", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


@pytest.mark.parametrize("name", names(SWEEPS))
def test_shipped_sweeps_load_and_plan(name: str) -> None:
    sweep = load_sweep(name)
    assert sweep.name == name
    plan = make_plan(sweep, Facts("weights", "data", "calibration", 50_000, 1_000))
    assert len({trial.trial_id for trial in plan.trials}) == len(plan.trials) == len(sweep.settings())
    for reset in ("soft", "hard"):
        settings = [trial.setting for trial in plan.trials if trial.setting.reset == reset]
        assert len({setting.alpha for setting in settings}) >= 4
    assert plan.num_cells == 50_000 * (1 + len(plan.trials) * len(sweep.time_steps))
    assert (SWEEPS / f"{name}.yaml").read_text().startswith("# ")


def test_a_sweep_of_every_system_ships() -> None:
    sweeps = [load_sweep(name) for name in names(SWEEPS)]
    assert {(sweep.data.source, sweep.network.label) for sweep in sweeps} >= SYSTEMS


@pytest.mark.parametrize("name", names(RECIPES))
def test_shipped_recipes_load(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.network in NETWORKS


@pytest.mark.parametrize(
    ("name", "side", "classes", "layers"),
    [
        ("vgg16", 32, 10, 15),
        ("resnet20", 32, 100, 1 + 2 * 9),
        ("resnet20-wide", 32, 10, 3 + 2 * 8),
        pytest.param("torchvision:resnet34", 224, 1000, 1 + 2 * 16, marks=pytest.mark.slow),
        # smaller than 224, for time: every layer is there, the first linear one of VGG-16 narrower
        pytest.param("resnet34", 112, 1000, 3 + 2 * 16, marks=pytest.mark.slow),
        pytest.param("vgg16", 64, 1000, 15, marks=pytest.mark.slow),
    ],
)
def test_systems_convert_and_run(name: str, side: int, classes: int, layers: int) -> None:
    torch.manual_seed(0)
    images = torch.randn(1, 3, side, side)
    net = convert(build_any(name, classes, 3, side), images)
    assert len(net.layers) == layers
    assert all(bias is None for _, bias in net.weights.values()) == (name in NETWORKS)
    sim = simulate(net, images, calibrate(net, images, "activation_max"), time_steps=[1, 2])
    assert sim.logits.shape == (2, 1, classes)
    assert sim.logits.isfinite().all()
    assert sim.spike_counts[net.layers[0]][1] > 0


def write_images(folder: Path, labels: int) -> None:
    """Splits train and test of noisy JPEG images, 32x32."""
    folder.mkdir()
    random_state = np.random.RandomState(0)
    for split, number in (("train", 4), ("test", 6)):
        rows = []
        for i in range(number):
            file = io.BytesIO()
            Image.fromarray(random_state.randint(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "JPEG")
            rows.append({"image": {"bytes": file.getvalue(), "path": f"{i}.jpg"}, "label": i % labels})
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")


def write_sweep(tmp_path: Path, network: str) -> Path:
    path = tmp_path / "stand-in.yaml"
    path.write_text(
        f"name: stand-in\nnetwork: {network}\n"
        f"data: {{source: parquet, path: {tmp_path / 'images'}, transform: imagenet-norm}}\n"
        "calibration: {images: 4, time_steps: 8}\ngrid: {threshold: activation_max, reset: [soft, hard]}\n"
        "time_steps: [2, 4]\nrun: {batch_size: 4}\n"
    )
    return path


@pytest.mark.slow
def test_published_weights_launch_and_are_the_same_weights_as_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of 10 classes, though no label is above 4: torchvision's file says how many."""
    write_images(tmp_path / "images", labels=5)
    torch.manual_seed(0)
    torch.save(get_model("resnet18", num_classes=10).state_dict(), tmp_path / "w.pth")
    sha256 = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    published = (tmp_path / "w.pth").rename(tmp_path / f"resnet18-{sha256[:8]}.pth")
    monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "url", published.as_uri())
    results = tmp_path / "results"

    sweep = write_sweep(tmp_path, "{name: 'torchvision:resnet18', weights: IMAGENET1K_V1}")
    assert rmpsweep("plan", sweep, "--results", results, "--inline")["weights"] == "to be fetched"
    launched = rmpsweep("launch", sweep, "--results", results, "--inline", "--mlflow", "none")
    assert {(row["network"], row["images"]) for row in launched["summary"]} == {("torchvision:resnet18", 6)}
    assert json.loads((results / "plan.json").read_text())["facts"]["weights"] == sha256

    write_sweep(tmp_path, f"{{name: 'torchvision:resnet18', weights: {published}}}")
    again = rmpsweep("launch", sweep, "--results", results, "--inline", "--mlflow", "none")
    assert (again["units_run"], again["summary"]) == (0, launched["summary"])


def make_bad_weights(folder: Path) -> None:
    network = get_model("squeezenet1_1", num_classes=10)
    torch.save(network, folder / "module.pth")
    state = network.state_dict()
    torch.save(state, folder / "good.pth")
    torch.save({**state, "features.0.weight": torch.zeros(64, 3, 5, 5)}, folder / "shapes.pth")


@pytest.mark.parametrize(
    ("network", "parts"),
    [
        (
            "{name: 'torchvison:resnet18', weights: DEFAULT}",
            ["got 'torchvison:resnet18', expected one of vgg-small", "resnet34, torchvision:NAME, timm:NAME"],
        ),
        ("{name: 'timm:', weights: pretrained}", ["got 'timm:', expected one of vgg-small"]),
        ("{name: 'torchvision:resnet35', weights: good.pth}", ["torchvision has no such classifier", "did you mean"]),
        ("{name: 'torchvision:resnet35', weights: DEFAULT}", ["torchvision has no such classifier", "did you mean"]),
        ("{name: 'torchvision:resnet18', weights: V9}", ["got 'V9'", ".safetensors", "IMAGENET1K_V1, DEFAULT"]),
        ("{name: 'torchvision:resnet18', weights: DEFAULT}", ["cannot be fetched from file://", "or name a file"]),
        ("{name: 'torchvision:resnet18', weights: none.pth}", ["network.weights: none.pth: no such file; name"]),
        ("{name: 'torchvision:resnet18', weights: good.pth}", ["does not fit the network", "missing bn1.bias"]),
        ("{name: 'torchvision:squeezenet1_1', weights: module.pth}", ["module.pth: damaged, or not", "could run code"]),
        (
            "{name: 'torchvision:squeezenet1_1', weights: shapes.pth}",
            ["features.0.weight: got shape [64, 3, 5, 5], expected [64, 3, 3, 3]"],
        ),
        ("{name: 'torchvision:resnet18', train: digits-vgg-small}", ["recipe trains 'vgg-small'"]),
        (
            "{name: 'torchvision:resnet18', "
            "train: {name: r, network: 'torchvision:resnet18', source: digits, epochs: 1}}",
            ["recipes train constrained networks, not 'torchvision:resnet18'"],
        ),
    ],
)
def test_networks_that_cannot_be_launched(
    network: str, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "images", labels=5)
    make_bad_weights(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "url", (tmp_path / "offline-01234567.pth").as_uri())
    sweep = write_sweep(tmp_path, network)
    code, _, errors = run_here(["launch", str(sweep), "--inline", "--mlflow", "none"])
    assert code == 2, errors
    assert [part for part in parts if part not in errors] == [], errors
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_list_networks_shows_figures_at_the_real_input_size() -> None:
    rows = {(row["name"], row["image"]): row for row in rmpsweep("list", "networks")["networks"]}
    assert {name for name, _ in rows} > set(NETWORKS)
    assert rows["vgg16", "3x224x224"]["parameters"] == 138_344_128
    assert rows["resnet20", "3x32x32"]["parameters"] == 270_896  # 269,722 in He et al., with biases and batch norm
    assert rows["resnet34", "3x224x224"]["macs_per_image"] == 4_492_267_520
    assert rows["torchvision:resnet34", "3x224x224"]["macs_per_image"] == 3_663_761_408
    code, text, _ = run_here(["list", "networks"])
    assert code == 0
    assert "torchvision:NAME or timm:NAME" in text
