"""Results that commit b667ece wrote: opened, continued without computing anything, verified, and added to."""

import shutil
from pathlib import Path

import pytest

from tests.helpers.commands import rmpsweep
from tests.pipeline.test_launch import tables, unit_files

ROOT = Path(__file__).parents[2]
FIXTURE = ROOT / "tests" / "fixtures" / "results-b667ece"
WEIGHTS = ROOT / "sweeps" / "weights" / "digits-vgg-small.safetensors"
SWEEP = """
name: before
network: {name: vgg-small, weights: digits-vgg-small.safetensors}
data: {source: digits, shard_size: 8}
calibration: {images: 16, time_steps: 8}
grid:
  - {reset: [soft, hard], alpha: [0.5], alpha_scope: network, threshold: [vin_max]}
  - {encoding: poisson, seed: [1], threshold: [activation_p99.9], granularity: channel, alpha: [0.7], v_init: [0.5]}
time_steps: [4, 8]
run: {batch_size: 32}
"""
LAUNCH = ("launch", "before.yaml", "--results", "results", "--limit", 16, "--inline", "--mlflow", "none")


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: None) -> Path:
    """A copy of the earlier results, with the sweep and the weights they are of, in the current directory."""
    monkeypatch.chdir(tmp_path)
    Path("before.yaml").write_text(SWEEP)
    shutil.copy(WEIGHTS, tmp_path)
    return Path(shutil.copytree(FIXTURE, tmp_path / "results"))


def test_earlier_results_open(results: Path) -> None:
    document = rmpsweep("status", results)
    assert document["units_left"] == 0
    assert document["rejected"] == {}
    assert [trial["trial_id"] for trial in document["trials"]] == [
        "ann",
        "462d717f445dbec3",
        "a5fb9cefda381a5b",
        "2b9cccfe10379af7",
    ]
    assert all(trial["done"] == trial["cells"] for trial in document["trials"])


@pytest.mark.slow
def test_earlier_results_continue_without_computing_and_keep_their_tables(results: Path) -> None:
    units = unit_files(results)
    assert rmpsweep(*LAUNCH)["units_run"] == 0
    assert tables(results) == tables(FIXTURE)
    assert unit_files(results) == units


def test_earlier_results_are_computed_again_bit_for_bit(results: Path) -> None:
    document = rmpsweep("verify", results, "--inline")
    assert document["equal"]
    assert (len(document["compared"]), document["left_out"], document["rejected"]) == (2, 0, {})


@pytest.mark.slow
def test_one_more_time_step_is_all_that_is_added_to_earlier_results(results: Path) -> None:
    units = unit_files(results)
    more = ("--set", "time_steps=[4, 8, 12]")
    assert rmpsweep("plan", "before.yaml", "--results", results, "--limit", 16, *more)["cells_missing"] == 16 * 3
    assert rmpsweep(*LAUNCH, *more)["units_run"] == 2
    after = unit_files(results)
    assert {name: after[name] for name in units} == units
    assert len(after) == len(units) + 2
