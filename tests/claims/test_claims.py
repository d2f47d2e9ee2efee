"""The claims of RMP-SNN as commands: closed forms, statistics, files and messages."""

import csv
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from rmpsweep.claims.activity import activity_claim, activity_rows
from rmpsweep.claims.loss import loss_claim, loss_rows
from rmpsweep.claims.response import closed_form_rate, closed_form_spikes, in_operating_range, response_claim
from rmpsweep.claims.steps import best_at_each, fewer_steps, steps_claim
from rmpsweep.engine.response import output_spikes, regular_train
from rmpsweep.errors import ResultsError
from rmpsweep.results import ACTIVITY_SCHEMA, PREDICTIONS_SCHEMA, SUMMARY_SCHEMA, Layout, write_table
from rmpsweep.stats import paired_interval
from tests.helpers.commands import run_here
from tests.helpers.summary_rows import summary_row

RATES = [Fraction(0), Fraction(1, 7), Fraction(1, 3), Fraction(2, 5), Fraction(1, 2), Fraction(7, 10), Fraction(1)]


def spikes_of_a_neuron_in_fractions(ratio: Fraction, f_in: Fraction, time_steps: int, reset: str) -> int:
    """Integrate, test, reset; potential in thresholds."""
    v, total = Fraction(0), 0
    for t in range(time_steps):
        v += ratio * (-((-(t + 1) * f_in) // 1) + (-t * f_in) // 1)
        if v >= 1:
            v, total = (v - 1 if reset == "soft" else Fraction(0)), total + 1
    return total


@pytest.mark.parametrize("reset", ["soft", "hard"])
@pytest.mark.parametrize("f_in", RATES)
def test_reference_neuron_gives_the_closed_form_exactly_on_dyadic_values(f_in, reset):
    ratios = [Fraction(k, 16) for k in range(1, 130)]
    v_in = torch.tensor([0.25 * float(ratio) for ratio in ratios], dtype=torch.float64)
    for time_steps in (f_in.denominator, 13 * f_in.denominator):
        trains = regular_train(f_in, time_steps).unsqueeze(1).expand(-1, len(ratios))
        measured = output_spikes(v_in, 0.25, trains, reset).tolist()
        assert measured == [closed_form_spikes(ratio, f_in, time_steps, reset) for ratio in ratios]


@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_closed_form_holds_for_any_rational_step(reset):
    ratios = [Fraction(1, 3), Fraction(2, 3), Fraction(5, 7), Fraction(10, 9), Fraction(7, 3), Fraction(31, 3)]
    for f_in in RATES:
        for ratio in ratios:
            time_steps = 6 * f_in.denominator
            expected = spikes_of_a_neuron_in_fractions(ratio, f_in, time_steps, reset)
            assert closed_form_spikes(ratio, f_in, time_steps, reset) == expected


def test_soft_is_a_line_up_to_one_and_hard_a_staircase():
    half = Fraction(1, 2)
    ratios = [Fraction(k, 12) for k in (3, 4, 5, 6, 11, 12, 18, 24, 30)]
    soft = [Fraction(k, 24) for k in (3, 4, 5, 6, 11, 12, 18, 24, 24)]
    hard = [Fraction(1, n) for n in (8, 6, 6, 4, 4, 2, 2, 2, 2)]
    assert [closed_form_rate(ratio, half, "soft") for ratio in ratios] == soft
    assert [closed_form_rate(ratio, half, "hard") for ratio in ratios] == hard
    assert [in_operating_range(ratio, half) for ratio in ratios] == [False] * 5 + [True, True, False, False]
    both_forms = [(1 <= ratio < 1 / half) == (half * ratio < 1 <= ratio) for ratio in ratios]
    assert all(both_forms)


def test_response_claim_compares_every_point_and_finds_the_bounds():
    claim = response_claim()
    assert claim.statistics["points"] == claim.statistics["points_equal"] == 2 * (80 + 3 * 21)
    assert claim.statistics["soft_points_as_bounds_say"] == claim.statistics["soft_points"] == 80 + 3 * 20
    over = {(row["reset"], row["v_in_over_v_th"]): row["spikes"] for row in claim.rows if row["f_in"] == 0.5}
    # 100 input spikes of 0.375 thresholds: 37.5 thresholds in all; three of them per spike with hard reset
    assert (over["soft", 0.375], over["hard", 0.375]) == (37, 33)
    assert "reconstruction" in claim.statement


def summary_of(accuracies: dict[tuple[str, float], dict[int, int]], images: int = 100, planned: int = 100) -> pa.Table:
    """(reset, α) -> T -> correct images; the ANN has 90 % right."""
    rows = []
    for (reset, alpha), by_t in accuracies.items():
        for t, correct in by_t.items():
            columns = {"reset": reset, "alpha": alpha, "images_planned": planned, "firing_rate": 0.1 / alpha}
            rows.append(summary_row(f"{reset}-{alpha:g}", t, correct, images, **columns))
    return pa.Table.from_pylist(rows, schema=SUMMARY_SCHEMA)


HARD = {8: 30, 16: 70, 32: 85, 64: 85}


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        # T of hard reset's best, of exceeding and of reaching it; whether hard's is the largest T
        ({8: 60, 16: 86, 32: 88, 64: 88}, HARD, (32, 16, 16, False)),
        ({8: 85, 16: 85, 32: 86, 64: 88}, HARD, (32, 32, 8, False)),
        ({8: 60, 16: 80, 32: 85, 64: 85}, HARD, (32, None, 32, False)),
        ({8: 60, 16: 80, 32: 84, 64: 84}, HARD, (32, None, None, False)),
        ({8: 87, 16: 80, 32: 84, 64: 84}, HARD | {64: 86}, (64, 8, 8, True)),
    ],
)
def test_fewer_steps_on_tables_worked_by_hand(soft, hard, expected):
    found = fewer_steps(summary_of({("soft", 1.0): soft, ("hard", 1.0): hard}))
    exceeds, reaches = (cell.time_steps if cell else None for cell in (found.exceeds, found.reaches))
    assert (found.hard.time_steps, exceeds, reaches, found.hard_best_at_largest) == expected
    assert found.ratio_exceeds == (expected[0] / expected[1] if expected[1] else None)
    assert found.ratio_reaches == (expected[0] / expected[2] if expected[2] else None)


def test_fewer_steps_takes_the_best_of_all_trials_and_breaks_ties_by_accuracy_then_name():
    hard = {("hard", 1.0): {8: 20, 16: 80}, ("hard", 0.5): {8: 80, 16: 50}, ("hard", 0.7): {8: 80, 16: 50}}
    soft = {("soft", 1.0): {8: 81, 16: 90}, ("soft", 0.5): {8: 83, 16: 70}}
    summary = summary_of(hard | soft)
    found = fewer_steps(summary)
    assert (found.hard.trial_id, found.exceeds.trial_id) == ("hard-0.5", "soft-0.5")
    assert found.trials == {"soft": 2, "hard": 3}
    best = best_at_each(summary)
    assert [cell.trial_id for cell in best["soft"].values()] == ["soft-0.5", "soft-1"]
    assert [cell.trial_id for cell in best["hard"].values()] == ["hard-0.5", "hard-1"]


def test_findings_say_plainly_when_soft_never_exceeds_or_the_best_comes_last():
    table = {("soft", 1.0): {8: 60, 16: 80}, ("hard", 1.0): {8: 20, 16: 81}}
    text = " ".join(steps_claim(summary_of(table), None).findings)
    assert "never exceeds it at the T reported: the claim does not hold here" in text
    assert "never reaches it either" in text
    assert "lower bound" in text


def predictions_of(correct: dict[tuple[str, int], list[int]], images: int = 100) -> pa.Table:
    """(trial, T) -> images classified correctly."""
    rows = [
        {"trial_id": trial, "time_steps": t, "image_id": i, "label": 1, "prediction": 1, "label_rank": 0 if ok else 9}
        | {"correct": ok}
        for (trial, t), right in correct.items()
        for i, ok in ((i, i in set(right)) for i in range(images))
    ]
    return pa.Table.from_pylist(rows, schema=PREDICTIONS_SCHEMA)


def tables() -> tuple[pa.Table, pa.Table, pa.Table]:
    """Soft and hard reset, two α, T = 8 and 16; the ANN is right on images 0-89."""
    correct = {("soft", 1.0): {8: 70, 16: 88}, ("soft", 0.5): {8: 84, 16: 86}}
    correct |= {("hard", 1.0): {8: 20, 16: 80}, ("hard", 0.5): {8: 60, 16: 70}}
    right = {(f"{r}-{a:g}", t): list(range(n)) for (r, a), by_t in correct.items() for t, n in by_t.items()}
    layers = {"input": 64, "conv1": 10, "fc1": 5}
    activity = [
        {"trial_id": f"{r}-{a:g}", "layer": layer, "time_steps": t, "neurons": n, "images": 100, "synops": 1}
        | {"saturated": 0, "spikes": int(n * 100 * t * (0.5 if layer == "conv1" else 0.2) / a / 2)}
        for r, a in correct
        for t in (8, 16)
        for layer, n in layers.items()
    ]
    predictions = predictions_of({("ann", 0): list(range(90))} | right)
    return summary_of(correct), predictions, pa.Table.from_pylist(activity, schema=ACTIVITY_SCHEMA)


def test_steps_claim_tests_pairs_at_every_t_and_where_soft_surpasses():
    summary, predictions, _ = tables()
    claim = steps_claim(summary, predictions)
    at_8, at_16 = claim.statistics["soft_against_hard"]
    assert (at_8["accuracy_a"], at_8["accuracy_b"]) == (0.84, 0.6)
    assert (at_16["accuracy_a"], at_16["accuracy_b"], at_16["p_value"]) == (0.88, 0.8, pytest.approx(2 / 2**8))
    assert (claim.statistics["ratio_exceeds"], claim.statistics["exceeds"]["alpha"]) == (2.0, 0.5)
    assert "T = 8 with 84.00% (α 0.5, vin_max): T(hard) / T(soft) = 2. The claim: 2 to 8." in claim.findings[1]
    # Soft reset is right on images 80-83 too: 4 discordant images, all on one side
    assert claim.statistics["exceeds_p_value"] == pytest.approx(2 / 2**4)
    assert steps_claim(summary, None).statistics["exceeds_p_value"] is None


def test_loss_is_paired_by_image():
    summary, predictions, _ = tables()
    row = next(row for row in loss_rows(summary, predictions) if row["trial_id"] == "soft-1" and row["time_steps"] == 8)
    assert (row["loss_points"], row["images"]) == (pytest.approx(20), 100)
    low, high = paired_interval(20, 0, 100)
    assert (row["ci_low_points"], row["ci_high_points"]) == (100 * low, 100 * high)
    alone = [row["loss_points"] for row in loss_rows(summary, None)]
    assert alone == pytest.approx([row["loss_points"] for row in loss_rows(summary, predictions)])
    assert loss_rows(summary, None)[0]["ci_low_points"] is None
    assert loss_claim(summary, predictions).statistics["least_loss"]["soft"]["loss_points"] == pytest.approx(2)


def test_paired_interval_equals_its_formula_and_covers_as_often_as_it_says():
    # (12 + 1) / 102 and (3 + 1) / 102
    half = 1.959963984540054 * np.sqrt((13 / 102 + 4 / 102 - (9 / 102) ** 2) / 102)
    assert paired_interval(12, 3, 100) == (pytest.approx(9 / 102 - half), pytest.approx(9 / 102 + half))
    draws = np.random.default_rng(0).multinomial(200, [0.06, 0.02, 0.92], size=20_000)
    low, high = paired_interval(draws[:, 0], draws[:, 1], 200)
    assert np.mean((low <= 0.04) & (high >= 0.04)) == pytest.approx(0.95, abs=0.015)


def test_activity_is_spikes_per_neuron_per_step_without_the_input():
    summary, _, activity = tables()
    rows = activity_rows(summary, activity)
    rates = {(r["trial_id"], r["layer"]): r["firing_rate"] for r in rows if r["time_steps"] == 16}
    assert (rates["soft-1", "conv1"], rates["hard-0.5", "fc1"]) == (pytest.approx(0.25), pytest.approx(0.2))
    assert {row["layer"] for row in rows} == {"conv1", "fc1"}
    assert (
        "from α 1 to 0.5 spikes per neuron per step go from 0.1000 to 0.2000"
        in activity_claim(summary, activity).findings[0]
    )


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A results directory with the three tables."""
    layout = Layout(tmp_path / "results")
    summary, predictions, activity = tables()
    write_table(layout.summary, summary, SUMMARY_SCHEMA)
    write_table(layout.predictions, predictions, PREDICTIONS_SCHEMA)
    write_table(layout.activity, activity, ACTIVITY_SCHEMA)
    return layout.root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("subject", "axes"),
    [
        ("response", ["V_in / V_th", "Output rate f_out (spikes per step)"]),
        ("steps", ["Time steps T (log scale)", "Accuracy (%)", "soft reset exceeds it at T = 8"]),
        ("loss", ["Threshold scale α", "Conversion loss (percentage points)"]),
        ("activity", ["Firing rate at T = 16 (spikes per neuron per step)", "conv1"]),
    ],
)
def test_command_writes_figures_points_and_one_document(subject, axes, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = [] if subject == "response" else [str(finished)]
    code, output, _ = run_here(["claims", subject, *target, "--json"])
    assert code == 0
    document = json.loads(output)
    folder = Path("claims") if subject == "response" else finished / "claims"
    assert document["files"] == [str(folder / f"{subject}.{kind}") for kind in ("svg", "png", "csv")]
    assert (folder / f"{subject}.png").read_bytes().startswith(b"\x89PNG")
    svg = (folder / f"{subject}.svg").read_text("utf-8")
    assert [text for text in axes if text not in svg] == []
    with open(folder / f"{subject}.csv", encoding="utf-8", newline="") as file:
        points = list(csv.DictReader(file))
    as_text = [{k: "" if v is None else str(v) for k, v in row.items()} for row in document["rows"]]
    assert points == as_text
    before = (folder / f"{subject}.csv").stat().st_mtime_ns
    code, output, _ = run_here(["claims", subject, *target, "--out", str(folder)])
    assert (code, (folder / f"{subject}.csv").stat().st_mtime_ns) == (0, before)
    assert document["findings"][0] in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["latency"], "claims: got 'latency', expected one of response, steps, loss, activity"),
        (["steps"], "claims steps: expected a sweep or a results directory after it"),
        (["response", "{results}"], "claims response: expected no sweep: it measures the neuron"),
    ],
)
def test_wrong_arguments_end_with_what_is_expected(arguments, message, finished):
    code, _, errors = run_here(["claims", *[each.format(results=finished) for each in arguments]])
    assert (code, errors.strip()) == (2, f"error: {message}")


def test_a_missing_reset_and_missing_images_are_refused(finished):
    summary = tables()[0]
    only_soft = summary.filter(pa.compute.equal(summary["reset"], "soft"))
    write_table(Layout(finished).summary, only_soft, SUMMARY_SCHEMA)
    code, _, errors = run_here(["claims", "steps", str(finished)])
    assert (code, "holds no trial with hard reset; add it to the sweep's grid.reset" in errors) == (2, True)
    assert run_here(["claims", "loss", str(finished)])[0] == 0
    counts = {("soft", 1.0): {8: 40}, ("hard", 1.0): {8: 40}}
    with pytest.raises(ResultsError, match="2 of its 2 rows cover fewer than the 100 images planned"):
        fewer_steps(summary_of(counts, images=50))
    with pytest.raises(ResultsError, match="1 rows are missing"):
        fewer_steps(summary_of(counts | {("soft", 0.5): {8: 40, 16: 50}, ("hard", 1.0): {8: 40, 16: 41}}))
    partial = loss_claim(summary_of(counts, images=50), None).findings[-1]
    assert partial == "Partial results: the least covered trial has 50 of 100 images."
