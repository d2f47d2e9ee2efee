"""verify computes committed units again: it finds the one that was altered, and changes nothing itself."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from rmpsweep.checks.verify import compare
from rmpsweep.engine import convert, dense_macs
from rmpsweep.models.registry import build
from rmpsweep.pipeline.look import look
from rmpsweep.pipeline.prepare import reopen
from rmpsweep.results import Layout, UnitResult, commit_unit
from rmpsweep.terms import ANN
from tests.helpers.commands import rmpsweep, run_here
from tests.helpers.inputs import snapshot

pytestmark = pytest.mark.usefixtures("environment")


def committed(results: Path) -> list[UnitResult]:
    journal = look(reopen(results)).journal
    return sorted(journal.results, key=lambda result: result.unit.start)


def with_predictions(result: UnitResult, column: str, changed: dict[int, int]) -> UnitResult:
    """The result with other values in some rows of a column."""
    table = result.predictions
    values = table[column].to_pylist()
    for row, value in changed.items():
        values[row] = value
    index = table.schema.get_field_index(column)
    field = table.schema.field(index)
    return replace(result, predictions=table.set_column(index, field, pa.array(values, field.type)))


def alter(results: Path, result: UnitResult) -> str:
    """Put another result in the place of a committed unit, whole and with the checksum it should have."""
    unit_id = result.unit.unit_id(result.context)
    layout = Layout(results)
    layout.unit(unit_id).unlink()
    commit_unit(layout, result)
    return unit_id


@pytest.mark.ray
def test_verify_finds_the_one_altered_unit_inline_and_with_two_actors(results, cluster):
    before = snapshot(results)
    document = rmpsweep("verify", results, "--inline", "--units", 9)
    assert document["equal"] is True
    assert [each["positions"] for each in document["compared"]] == [[0, 16], [16, 32], [32, 40]]
    assert sum(each["rows"] for each in document["compared"]) == 40 * (5 * 2 + 1)
    assert snapshot(results) == before

    victim = committed(results)[1]
    row = victim.predictions["time_steps"].to_pylist().index(12)
    trial = victim.predictions["trial_id"][row].as_py()
    right = victim.predictions["prediction"][row].as_py()
    altered = alter(results, with_predictions(victim, "prediction", {row: (right + 1) % 10}))
    assert rmpsweep("status", results)["rejected"] == {}
    before = snapshot(results)
    code, output, errors = run_here(["verify", str(results), "--inline", "--units", "9", "--json"])
    assert (code, json.loads(output)["equal"]) == (1, False)
    assert f"unit {altered} (images 16 to 31 of the order): differs in 1 prediction of 176 rows" in errors
    assert all(part in errors for part in (trial, "2 of 3 units are equal", "numerics fixed16", "CPU"))
    where = ["--address", cluster.address, "--actors", "2"]
    code, output, errors = run_here(["verify", str(results), *where, "--units", "9", "--json"])
    assert code == 1, errors
    document = json.loads(output)
    differing = [each for each in document["compared"] if each["differ"]]
    assert [(each["unit"], each["differ"], each["trials"]) for each in differing] == [
        (altered, {"prediction": 1}, [trial])
    ]
    assert "error: 2 of 3 units are equal bit for bit" in errors
    assert snapshot(results) == before


@pytest.mark.slow
def test_the_draw_is_seeded_and_other_images_weights_or_trials_are_said(results, write_sweep, weights, tmp_path):
    def draw(seed: int) -> list[str]:
        document = rmpsweep("verify", results, "--inline", "--units", 1, "--seed", seed)
        return [each["unit"] for each in document["compared"]]

    drawn = [draw(seed) for seed in range(5)]
    assert draw(0) == drawn[0]
    assert len({unit for units in drawn for unit in units}) > 1

    saved = (results / "sweep.yaml").read_text()
    other = tmp_path / "other.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    other.write_bytes(bytes(content))
    (results / "sweep.yaml").write_text(saved.replace(str(weights), str(other)))
    code, _, errors = run_here(["verify", str(results), "--inline"])
    assert (code, str(other) in errors, "put those back" in errors) == (2, True, True)
    (results / "sweep.yaml").write_text(saved.replace("split: test", "split: train", 1))
    code, _, errors = run_here(["verify", str(results), "--inline"])
    assert (code, "digits: split 'train' has the fingerprint" in errors) == (2, True)
    (results / "sweep.yaml").write_text(saved)
    plan = (results / "plan.json").read_text()
    (results / "plan.json").write_text(plan.replace(json.loads(plan)["context"], "0123456789abcdef"))
    code, _, errors = run_here(["verify", str(results), "--inline"])
    assert (code, "another version of the engine" in errors) == (2, True)
    (results / "plan.json").write_text(plan)

    grid = ("--set", "grid.alpha=[0.5]", "--limit", 48)
    rmpsweep("launch", write_sweep(), "--results", results, "--inline", "--mlflow", "none", *grid)
    document = rmpsweep("verify", results, "--inline", "--units", 9)
    assert (document["equal"], document["committed"], document["left_out"]) == (True, 7, 3)
    assert len(document["compared"]) == 4


def test_every_kind_of_difference_is_counted(results):
    result = committed(results)[0]
    rows = result.predictions.num_rows
    trial = result.activity[-1].trial_id
    first = result.predictions["trial_id"][0].as_py()
    assert compare("u", result, result).differ == {}
    ranks = compare("u", with_predictions(result, "label_rank", {0: 99, 1: 98}), result)
    assert (ranks.differ, ranks.trials, ranks.rows) == ({"label_rank": 2}, (first,), rows)
    spikes, *others = result.activity[-1].counts
    one_more = replace(result.activity[-1], counts=(tuple(s + 1 for s in spikes), *others))
    counts = compare("u", replace(result, activity=(*result.activity[:-1], one_more)), result)
    assert (counts.differ, counts.trials) == ({"activity": 1}, (trial,))
    fewer = compare("u", replace(result, activity=result.activity[1:]), result)
    assert fewer.differ == {"activity": 1}
    earlier = replace(result, activity=tuple(each for each in result.activity if each.trial_id != ANN))
    assert len(earlier.activity) < len(result.activity)
    assert compare("u", earlier, result).differ == {}
    thresholds = compare("u", replace(result, provenance={**result.provenance, trial: "0" * 16}), result)
    assert (thresholds.differ, thresholds.trials) == ({"provenance": 1}, (trial,))


def test_units_hold_the_operations_of_the_ann(results):
    macs = dense_macs(convert(build("vgg-small", 10, 1, 8).eval(), torch.rand(1, 1, 8, 8)))
    units = committed(results)
    assert sum(result.unit.stop - result.unit.start for result in units) == 40
    for result in units:
        images = result.unit.stop - result.unit.start
        rows = {each.layer: each for each in result.activity if each.trial_id == ANN}
        assert {each.time_steps for each in rows.values()} == {(0,)}
        assert {layer: each.counts for layer, each in rows.items()} == {
            layer: ((0,), (images * n,), (0,)) for layer, n in macs.items()
        }


def test_where_nothing_is_committed_nothing_is_verified(results):
    for path in (results / "units").iterdir():
        os.truncate(path, 10)
    code, _, errors = run_here(["verify", str(results), "--inline"])
    assert (code, "no unit is committed" in errors) == (2, True)
    code, _, errors = run_here(["verify", str(results.parent), "--inline"])
    assert (code, "no sweep has been launched here" in errors) == (2, True)
