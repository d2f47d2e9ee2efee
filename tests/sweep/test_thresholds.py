"""Thresholds and weights given in a file, presets, and how they become trials and results."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rmpsweep.data import open_split
from rmpsweep.engine import calibrate, convert, thresholds_from_scales
from rmpsweep.errors import CalibrationError, SweepError
from rmpsweep.models.registry import build
from rmpsweep.models.weights import load_weights
from rmpsweep.results import Layout, read_thresholds
from rmpsweep.sweep.file import load_sweep
from rmpsweep.sweep.thresholds import PRESETS, read_threshold_file
from tests.helpers.commands import rmpsweep, run_here

pytestmark = pytest.mark.filterwarnings("ignore:.*silent")


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def found(weights: Path) -> dict[str, torch.Tensor]:
    """Thresholds of the digits network by channel."""
    images, _ = open_split("digits", None, "train", None).load(range(64))
    ann = build("vgg-small", 10, 1, 8).eval()
    load_weights(ann, weights)
    return calibrate(convert(ann, images[:1]), images, "activation_p99.9", granularity="channel")


def launch(sweep: Path, results: Path, *settings: str) -> dict[str, Any]:
    changes = [part for setting in settings for part in ("--set", setting)]
    return rmpsweep("launch", sweep, "--inline", "--results", results, "--mlflow", "none", "--limit", 40, *changes)


GRID = "grid=[{{threshold: ['{}'], granularity: [{}], alpha: [0.7]}}]"


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_given_thresholds_count_as_those_calibrated(
    write_sweep: Callable[..., Path], tmp_path: Path, found: dict[str, torch.Tensor]
) -> None:
    file = write(tmp_path / "mine, too.json", {"thresholds": {layer: value.tolist() for layer, value in found.items()}})
    sweep, setting = write_sweep(40), GRID.format(f"file:{file}", "channel")
    given = launch(sweep, tmp_path / "given", setting)
    (path,) = Layout(tmp_path / "given").calibration.glob("*.parquet")
    assert read_thresholds(path) == {layer: value.reshape(-1).tolist() for layer, value in found.items()}
    assert {row["threshold"] for row in given["summary"]} == {f"file:{file}"}
    assert given["units_run"] == 1
    with open(tmp_path / "given" / "calibration.csv", newline="") as table:
        assert {row["rule"] for row in csv.DictReader(table)} == {f"file:{file} by channel"}

    copy = write(tmp_path / "copy.json", json.dumps(json.loads(file.read_text()), indent=4))
    assert launch(sweep, tmp_path / "given", GRID.format(f"file:{copy}", "channel"))["units_run"] == 0
    changed = {layer: (value * 2).tolist() for layer, value in found.items()}
    write(file, {"thresholds": changed})
    assert launch(sweep, tmp_path / "given", setting)["units_run"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_given_scales_become_thresholds(
    write_sweep: Callable[..., Path], tmp_path: Path, found: dict[str, torch.Tensor], weights: Path
) -> None:
    ann = build("vgg-small", 10, 1, 8).eval()
    load_weights(ann, weights)
    net = convert(ann, torch.zeros(1, 1, 8, 8))
    scales = {layer: 1.5 + k for k, layer in enumerate(net.layers)}
    file = write(tmp_path / "scales.json", {"scales": scales})
    launch(write_sweep(40), tmp_path / "r", GRID.format(f"file:{file}", "layer"), "grid.input_scale=2")
    (path,) = Layout(tmp_path / "r").calibration.glob("*.parquet")
    tensors = {layer: torch.tensor(scale) for layer, scale in scales.items()}
    expected = thresholds_from_scales(net, {"input": torch.tensor(2.0), **tensors})
    assert read_thresholds(path) == {layer: [float(value)] for layer, value in expected.items()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "expected"),
        ({"thresholds": {"a": 1}, "scales": {}}, "expected"),
        ({"thetas": {"a": 1}}, "expected"),
        ({"thresholds": {"a": 0}}, "a: got 0, expected one number > 0"),
        ({"thresholds": {"a": []}}, r"a: got \[\]"),
        ({"thresholds": {"a": [1, None]}}, r"a: got \[1, None\]"),
        ({"scales": {"a": True}}, "a: got True"),
        ('{"scales": {"a": Infinity}}', "a: got inf"),
    ],
)
def test_unusable_files(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=f"mine.json: {message}"):
        read_threshold_file(write(tmp_path / "mine.json", content))


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relu": None}, "missing"),
        ({"nowhere": 1.0}, "unknown nowhere; the layers are "),
        ({"channels": None}, "has thresholds per channel, the trial has granularity: layer"),
        ({"odd": None}, r"expected \(\) or \(16,\)"),
    ],
)
def test_files_that_do_not_fit_are_refused_before_anything_is_written(
    change: dict[str, Any],
    message: str,
    write_sweep: Callable[..., Path],
    tmp_path: Path,
    found: dict[str, torch.Tensor],
) -> None:
    values = {layer: float(value.max()) for layer, value in found.items()}
    first = next(layer for layer in values if layer != "input")
    granularity = "layer"
    match next(iter(change)):
        case "relu":
            del values[first]
        case "channels":
            values[first] = [1.0] * 16  # type: ignore[assignment]
        case "odd":
            values[first], granularity = [1.0] * 5, "channel"  # type: ignore[assignment]
        case _:
            values |= change
    file = write(tmp_path / "mine.json", {"thresholds": values})
    grid = GRID.format(f"file:{file}", granularity)
    code, _, errors = run_here(
        ["launch", str(write_sweep()), "--inline", "--results", str(tmp_path / "r"), "--mlflow", "none", "--set", grid]
    )
    assert code == 2
    assert "mine.json" in errors
    assert re.search(message, errors)
    assert not (tmp_path / "r").exists()


def preset(name: str, tmp_path: Path, *changes: str) -> Any:
    text = f"""
name: p
network: {{name: vgg-small, train: digits-vgg-small}}
data: {{source: digits}}
grid: {{preset: {name}}}
time_steps: [4]
"""
    return load_sweep(str(write(tmp_path / "p.yaml", text)), changes)


def test_presets_are_settings(tmp_path: Path) -> None:
    search = preset("purdue-search", tmp_path)
    (setting,) = search.settings()
    assert (setting.threshold, setting.alpha, setting.alpha_scope, setting.encoding) == (
        "vin_max",
        0.7,
        "layer",
        "poisson",
    )
    assert (search.calibration.images, search.calibration.time_steps) == (512, 1000)
    (setting,) = preset("robust-norm", tmp_path).settings()
    assert (setting.threshold, setting.alpha, setting.v_init) == ("activation_p99.9", 1.0, 0.0)
    (setting,) = preset("qcfs", tmp_path, "grid.threshold=file:scales.json").settings()
    assert (setting.threshold, setting.v_init, setting.reset) == ("file:scales.json", 0.5, "soft")
    assert preset("spikingjelly-max", tmp_path).settings()[0].threshold == "activation_max_ema"


def test_what_a_sweep_says_goes_before_its_preset(tmp_path: Path) -> None:
    sweep = preset("purdue-search", tmp_path, "grid.alpha=[0.6, 0.8]", "calibration.images=64")
    assert [setting.alpha for setting in sweep.settings()] == [0.6, 0.8]
    assert (sweep.calibration.images, sweep.calibration.time_steps) == (64, 1000)


@pytest.mark.parametrize("name", ["qcfs", "nonesuch", "[a]", "null"])
def test_unknown_and_incomplete_presets_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        SweepError, match="needs threshold" if name == "qcfs" else f"expected one of {', '.join(PRESETS)}"
    ):
        preset(name, tmp_path)


def test_weights_are_looked_for_here_and_then_beside_the_sweep_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    beside = write(tmp_path / "there" / "w.safetensors", "")
    change = "network={name: vgg-small, weights: w.safetensors}"
    assert preset("robust-norm", tmp_path / "there", change).network.weights == beside
    write(tmp_path / "w.safetensors", "")
    assert preset("robust-norm", tmp_path / "there", change).network.weights == Path("w.safetensors")
    assert load_sweep("cifar10-resnet20", ["data.path=x"]).network.weights.is_file()
