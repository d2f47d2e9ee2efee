"""The page on extending: its files and names exist, and its rule and its data source run as they stand there."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rmpsweep.results import Layout, read_thresholds
from tests.helpers.commands import rmpsweep

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
PROSE = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
WEIGHTS = ROOT / "sweeps" / "weights" / "digits-vgg-small.safetensors"
SWEEP = {
    "name": "own",
    "network": {"name": "vgg-small", "weights": str(WEIGHTS)},
    "calibration": {"images": 16, "time_steps": 4},
    "time_steps": [4, 8],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(rmpsweep/[\w/.]*)`", PROSE))))
def test_every_file_that_it_names_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_every_name_in_it_stands_in_the_package() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "rmpsweep").rglob("*.py"))
    names = set(re.findall(r"`(?:[\w]+\.)*(\w+)(?:\([\w, ]*\))?`", PROSE)) - {"py", "md", "mypy", "pytest"}
    assert {"Setting", "calibration_recipe", "Store", "STEP_METRICS"} <= names
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", source)] == []


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: None) -> Path:
    """A directory with the page's modules, and a sweep of the page's lines; the current one."""
    for block in blocks("python"):
        name = re.match(r"# (\w+\.py)\n", block)
        assert name is not None
        (tmp_path / name[1]).write_text(block)
    sections: dict[str, Any] = dict(SWEEP)
    for block in blocks("yaml"):
        sections |= yaml.safe_load(block)
    assert {"grid", "data"} <= sections.keys()
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(sections))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_its_rule_and_its_data_source_run_as_they_stand(own: Path) -> None:
    document = rmpsweep("launch", "own.yaml", "--inline", "--limit", 40, "--mlflow", "none", "--results", "r")
    rows = document["summary"]
    assert {row["threshold"] for row in rows} == {"my_rules:damped", "vin_max"}
    assert {(row["dataset"], row["images"]) for row in rows} == {("my_data:bars/test", 40)}
    compared = ("launch", "own.yaml", "--inline", "--limit", 40, "--mlflow", "none", "--results", "compared")
    rmpsweep(*compared, "--set", "grid.threshold=[activation_max]")
    (largest,) = (read_thresholds(path) for path in Layout(own / "compared").calibration.glob("*.parquet"))
    found = [read_thresholds(path) for path in Layout(own / "r").calibration.glob("*.parquet")]
    damped = {layer: values if layer == "input" else [0.9 * values[0]] for layer, values in largest.items()}
    assert damped in found
