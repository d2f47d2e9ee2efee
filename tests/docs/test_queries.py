"""The SQL of docs/queries.md, against our own tables and statistics."""

import re
from pathlib import Path

import pyarrow.compute as pc
import pytest

from rmpsweep.pipeline import publish
from rmpsweep.pipeline.look import look
from rmpsweep.stats import (
    CONVENTIONS,
    compare_paired,
    correct_by_cell,
    energies,
    on_common_images,
    pareto_rows,
    time_steps_to_reach,
)
from rmpsweep.terms import ANN
from tests.helpers.synthetic import Synthetic

DOCS = (Path(__file__).parents[2] / "docs" / "queries.md").read_text(encoding="utf-8")
QUERIES = dict(re.findall(r"```sql\n-- (\w+)\n(.*?)```", DOCS, re.DOTALL))


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """The directory, and its tables; Poisson input in half of the trials."""
    root = tmp_path_factory.mktemp("queried")
    prepared = Synthetic(images=80, encodings=("constant", "poisson")).write(root)
    return root, publish.merge_tables(look(prepared))


@pytest.fixture
def ask(merged, monkeypatch):
    duckdb = pytest.importorskip("duckdb")
    monkeypatch.chdir(merged[0])
    return lambda name: duckdb.sql(QUERIES[name]).to_arrow_table().to_pylist()


@pytest.fixture
def tables(merged):
    return merged[1]


def rows_of(table, *columns):
    return [tuple(row[column] for column in columns) for row in table]


def test_every_query_of_the_page_is_tested_here():
    assert DOCS.count("```sql") == len(QUERIES)
    assert set(QUERIES) == set(re.findall(r'ask\("(\w+)"\)', Path(__file__).read_text(encoding="utf-8")))


def test_accuracy_and_counts_are_those_of_the_summary(ask, tables):
    cells = correct_by_cell(tables.predictions)
    expected = [(*key, len(right), int(right.sum()), float(right.mean())) for key, (_, right) in sorted(cells.items())]
    assert rows_of(ask("accuracy"), "trial_id", "time_steps", "images", "correct", "accuracy") == expected
    columns = ("reset", "threshold", "alpha", "time_steps", "accuracy", "ci_low", "ci_high")
    assert sorted(rows_of(ask("settings"), *columns)) == sorted(rows_of(tables.summary.to_pylist(), *columns))


def test_the_difference_of_two_trials_is_that_of_the_statistics(ask, tables):
    last = [row for row in tables.summary.to_pylist() if row["time_steps"] == 32]
    found = ask("paired")
    best = {}
    for reset in ("soft", "hard"):
        top = max(row["accuracy"] for row in last if row["reset"] == reset)
        best[reset] = [row["trial_id"] for row in last if row["reset"] == reset and row["accuracy"] == top]
    alternatives = [
        [
            (c.time_steps, c.images, c.difference_points, c.ci_low_points, c.ci_high_points)
            for c in compare_paired(*(tables.predictions.filter(pc.field("trial_id") == t) for t in pair))
        ]
        for pair in ((a, b) for a in best["soft"] for b in best["hard"])
    ]
    shown = rows_of(found, "time_steps", "images", "points", "low", "high")
    assert any(
        all(ours == pytest.approx(theirs, abs=1e-9) for ours, theirs in zip(each, shown, strict=True))
        for each in alternatives
    )


def test_the_hardest_images_are_those_no_trial_gets_right(ask, tables):
    rows = tables.predictions.to_pylist()
    right = {row["image_id"] for row in rows if row["time_steps"] == 32 and row["correct"]}
    ann = {row["image_id"]: row["correct"] for row in rows if row["trial_id"] == ANN}
    found = ask("hardest")
    assert rows_of(found, "image_id", "ann_correct") == [(i, ann[i]) for i in sorted(ann.keys() - right)]
    assert 0 < len(found) < 80
    labels = {row["image_id"]: row["label"] for row in rows}
    assert all(row["label"] == labels[row["image_id"]] != row["mostly_taken_for"] for row in found)


def test_latency_is_that_of_the_statistics(ask, tables):
    cells = correct_by_cell(tables.predictions)
    steps = (4, 8, 16, 32)
    found = {row["trial_id"]: row["time_steps"] for row in ask("latency")}
    for trial in {trial for trial, _ in cells} - {ANN}:
        _, correct = on_common_images([*(cells[trial, t] for t in steps), cells[ANN, 0]])
        assert found[trial] == time_steps_to_reach(correct[:-1], correct[-1], steps, resamples=1).time_steps
    assert None in found.values()
    assert len(set(found.values())) > 1


def test_the_pareto_front_is_that_of_the_statistics(ask, tables):
    front = pareto_rows(tables.summary.to_pylist(), lambda row: row["synops_per_image"])
    columns = ("trial_id", "time_steps", "accuracy", "synops_per_image")
    assert sorted(rows_of(ask("pareto"), *columns)) == sorted(rows_of(front, *columns))


def test_classes_add_up_to_the_predictions(ask, tables):
    expected = {}
    for row in tables.predictions.to_pylist():
        cell = expected.setdefault((row["trial_id"], row["time_steps"], row["label"]), [0, 0])
        cell[0] += 1
        cell[1] += row["correct"]
    found = ask("classes")
    assert rows_of(found, "trial_id", "time_steps", "label", "images", "correct") == [
        (*key, *counts) for key, counts in sorted(expected.items())
    ]
    assert all(row["mostly_taken_for"] != row["label"] for row in found)


def test_energy_is_the_estimate_of_the_statistics(ask, tables):
    expected = energies(tables.summary, tables.activity, CONVENTIONS["mac_ac"])
    found = {(row["trial_id"], row["time_steps"]): row for row in ask("energy")}
    assert found.keys() == expected.keys()
    for key, energy in expected.items():
        assert found[key]["snn_joule_estimate"] == pytest.approx(energy.snn_joule, rel=1e-12)
        assert found[key]["ann_joule_estimate"] == pytest.approx(energy.ann_joule, rel=1e-12)
