"""Saturated and silent layers: found in tables, told by launch, status and report; thresholds as a readable table."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from rmpsweep.results import Layout, read_thresholds
from rmpsweep.stats.firing import FlaggedTrial, flag_layers, shortened
from tests.helpers.commands import rmpsweep, run_here
from tests.helpers.summary_rows import summary_row


def summary(*trials: str) -> pa.Table:
    return pa.Table.from_pylist([summary_row(trial, t, 4, images=5, alpha=0.5) for trial in trials for t in (10, 20)])


def activity(trial: str, layer: str, *counts: tuple[int, int]) -> list[dict[str, object]]:
    """Spikes and saturated pairs at T = 10 and 20; 10 neurons and 5 images make 50 pairs."""
    return [
        {"trial_id": trial, "layer": layer, "time_steps": t, "neurons": 10, "images": 5, "spikes": s, "saturated": n}
        for t, (s, n) in zip((10, 20), counts, strict=True)
    ]


def test_layers_are_flagged_by_their_neurons_over_all_steps() -> None:
    rows = [
        *activity("a", "input", (0, 0), (0, 0)),
        *activity("a", "one", (70, 0), (150, 3)),
        *activity("a", "two", (70, 3), (150, 2)),
        *activity("a", "three", (0, 0), (0, 0)),
        *activity("b", "one", (0, 0), (1, 0)),
    ]
    flagged = flag_layers(summary("b", "a"), pa.Table.from_pylist(rows))
    assert flagged == [FlaggedTrial("a", "soft", "vin_max", 0.5, 20, (("one", 0.06),), ("three",))]
    assert str(flagged[0]) == (
        "soft reset, α 0.5, vin_max (trial a) at T = 20: saturated one (6% of neurons); silent three"
    )
    many = replace(flagged[0], saturated=(), silent=tuple("abcdefg"))
    assert str(many).endswith("silent a, b, c, d, e, and 2 more layers")
    assert shortened(flagged * 7)[5:] == ["and 2 more trials"]
    assert shortened(flagged * 5) == [str(flagged[0])] * 5


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_launch_status_and_report_tell_saturated_and_silent_layers(
    write_sweep: Callable[..., Path], tmp_path: Path
) -> None:
    results = tmp_path / "r"
    command = ["launch", write_sweep(), "--inline", "--results", results, "--mlflow", "none", "--limit", 16]
    extremes = "grid=[{alpha: [1.0e-3, 1.0, 1.0e+4], threshold: [activation_max]}]"
    document = rmpsweep(*command, "--set", extremes)
    low, high = document["flagged_layers"]
    assert (low["alpha"], high["alpha"]) == (0.001, 10000.0)
    assert low["saturated"]
    assert not low["silent"]
    assert high["silent"]
    assert not high["saturated"]
    _, shown, _ = run_here([str(part) for part in [*command, "--set", extremes]])
    assert (
        "warning: saturated or silent layers in 2 of 3 trials, which status lists; first soft reset, α 0.001" in shown
    )
    assert [line.partition(" (trial")[0] for line in rmpsweep("status", results)["flagged_layers"]] == [
        "soft reset, α 0.001, activation_max",
        "soft reset, α 10000, activation_max",
    ]
    page = (results / "report.html").read_text()
    assert "in 2 of 3" in page
    assert "threshold-chart" in page


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_thresholds_are_kept_as_a_readable_table(write_sweep: Callable[..., Path], tmp_path: Path) -> None:
    results = tmp_path / "r"
    rmpsweep("launch", write_sweep(), "--inline", "--results", results, "--mlflow", "none", "--limit", 8)
    with open(results / "calibration.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    by_rule: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        by_rule.setdefault(row["rule"], {}).setdefault(row["layer"], []).append(float(row["threshold"]))
    assert set(by_rule) == {"vin_max by layer encoding constant", "activation_p99.9 by channel encoding poisson"}
    tables = [read_thresholds(path) for path in Layout(results).calibration.glob("*.parquet")]
    assert all(values in tables for values in by_rule.values())
    assert {row["channel"] for row in rows if row["rule"].startswith("vin_max")} == {""}
