import random
from dataclasses import asdict, replace

import pyarrow as pa
import pytest

from rmpsweep.data import image_order
from rmpsweep.errors import ResultsError
from rmpsweep.results import (
    ACTIVITY_SCHEMA,
    PREDICTIONS_SCHEMA,
    SUMMARY_SCHEMA,
    UNIT_SCHEMA,
    LayerActivity,
    Layout,
    UnitResult,
    commit_unit,
    journal,
    make_units,
    scan,
    write_table,
)
from rmpsweep.results.merge import merge
from rmpsweep.sweep.plan import Facts, Plan, Trial, Unit, pending
from rmpsweep.terms import ANN, FIGURES, Setting

NUM_IMAGES = 10
SETTINGS = {"soft": Setting(alpha=0.5), "hard": Setting(alpha=0.5, reset="hard", v_init=0.25)}
SCALES = {"soft": 1.0, "hard": 2.5}
NEURONS = {"input": 4, "conv": 5, "fc": 3}


def plan_of(limit=NUM_IMAGES, shard_size=3, trials=("soft", "hard"), time_steps=(4, 8)):
    """Named trials in place of digests; `image_order` puts the ids 2 8 4 9 1 6 7 3 0 5 at positions 0 to 9."""
    facts = Facts("w", "d", "c", NUM_IMAGES, NUM_IMAGES)
    members = tuple(Trial(name, "c", SETTINGS[name]) for name in trials)
    return Plan("context", facts, members, time_steps, limit, shard_size)


def rank(trial, image, t):
    """The ANN is right but for image 0; soft fails images below 8 / T; hard is right on 3, 6, 9, else sixth."""
    return {ANN: int(image == 0), "soft": int(image < 8 // max(t, 1)), "hard": 0 if image in (3, 6, 9) else 5}[trial]


def compute(unit):
    """A unit's result by the rules above. Image i: T·i spikes in conv, T in fc, 2T in the input; synops tenfold."""
    ids = [int(i) for i in image_order(NUM_IMAGES)[unit.start : unit.stop]]
    rows, activity = [], []
    for trial, steps in unit.work:
        rows += [
            {
                "trial_id": trial,
                "image_id": i,
                "label": i % 3,
                "time_steps": t,
                "prediction": (i + rank(trial, i, t)) % 3,
                "label_rank": rank(trial, i, t),
            }
            for t in steps
            for i in ids
        ]
        for layer, neurons in NEURONS.items() if trial != ANN else ():
            per_step = {"input": 2 * len(ids), "conv": sum(ids), "fc": len(ids)}[layer]
            spikes = tuple(t * per_step for t in steps)
            synops, saturated = (tuple(factor * count for count in spikes) for factor in (10, 2))
            activity.append(LayerActivity(trial, layer, neurons, steps, (spikes, synops, saturated)))
    return UnitResult(unit, "context", {}, pa.Table.from_pylist(rows, schema=UNIT_SCHEMA), tuple(activity))


def results_of(plan):
    return [compute(unit) for unit in pending(plan, [])]


def merged(plan, results=None, **options):
    return merge(plan, results_of(plan) if results is None else results, "net", "digits", SCALES, **options)


def by_cell(table, *columns):
    return {(row["trial_id"], row["time_steps"]): tuple(row[c] for c in columns) for row in table.to_pylist()}


def test_image_order_is_the_one_these_numbers_were_worked_out_for():
    assert image_order(NUM_IMAGES).tolist() == [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]


def test_predictions_are_every_cell_in_order():
    table = merged(plan_of()).predictions
    rows = [
        {
            "trial_id": trial,
            "image_id": i,
            "label": i % 3,
            "time_steps": t,
            "prediction": (i + rank(trial, i, t)) % 3,
            "label_rank": rank(trial, i, t),
            "correct": rank(trial, i, t) == 0,
        }
        for trial, steps in ((ANN, (0,)), ("hard", (4, 8)), ("soft", (4, 8)))
        for t in steps
        for i in range(NUM_IMAGES)
    ]
    assert table.schema == PREDICTIONS_SCHEMA
    assert table.to_pylist() == rows


def test_summary_holds_the_numbers_worked_out_by_hand():
    table = merged(plan_of()).summary
    assert table.schema == SUMMARY_SCHEMA
    assert by_cell(table, "images", "images_planned", "correct", "accuracy", "top5", "ann_accuracy") == {
        ("soft", 4): (10, 10, 8, 0.8, 1.0, 0.9),
        ("soft", 8): (10, 10, 9, 0.9, 1.0, 0.9),
        ("hard", 4): (10, 10, 3, 0.3, 0.3, 0.9),
        ("hard", 8): (10, 10, 3, 0.3, 0.3, 0.9),
    }
    # Wilson, z = 1.95996: (0.8 + z²/20 ± z·√(0.016 + z²/400)) / (1 + z²/10)
    assert by_cell(table, "ci_low")["soft", 4] == pytest.approx((0.49016,), abs=1e-5)
    assert by_cell(table, "ci_high")["soft", 4] == pytest.approx((0.94332,), abs=1e-5)


def test_summary_says_which_setting_each_row_is():
    table = merged(plan_of()).summary
    for row in table.to_pylist():
        setting = {**asdict(SETTINGS[row["trial_id"]]), "input_scale": SCALES[row["trial_id"]]}
        assert {key: row[key] for key in setting} == setting
        assert (row["network"], row["dataset"]) == ("net", "digits")
    assert table["trial_id"].to_pylist() == ["soft", "soft", "hard", "hard"]
    assert table["time_steps"].to_pylist() == [4, 8, 4, 8]


def test_operations_of_the_ann_are_added_up_beside_units_that_lack_them():
    plan = plan_of()
    first, *others = results_of(plan)
    layers = [LayerActivity(ANN, layer, n, (0,), ((0,), (3 * 100 * n,), (0,))) for layer, n in NEURONS.items()]
    with_ann = UnitResult(first.unit, "context", {}, first.predictions, (*layers, *first.activity))
    assert first.unit.stop - first.unit.start == 3
    tables, without = merged(plan, [with_ann, *others]), merged(plan)
    rows = tables.activity.to_pylist()
    found = [row for row in rows if row["trial_id"] == ANN]
    assert [(row["layer"], row["time_steps"], row["images"], row["synops"] / row["images"]) for row in found] == [
        ("input", 0, 3, 400),
        ("conv", 0, 3, 500),
        ("fc", 0, 3, 300),
    ]
    assert [row for row in rows if row["trial_id"] != ANN] == without.activity.to_pylist()
    assert tables.summary == without.summary


def test_activity_adds_up_and_rates_are_per_image_neuron_and_step():
    tables = merged(plan_of())
    # ids 0 to 9 add up to 45: conv T·45, fc T·10, input T·20 over the ten images
    expected = [
        (trial, layer, t, NEURONS[layer], 10, t * per_step, 10 * t * per_step, 2 * t * per_step)
        for trial in ("hard", "soft")
        for t in (4, 8)
        for layer, per_step in (("input", 20), ("conv", 45), ("fc", 10))
    ]
    assert tables.activity.schema == ACTIVITY_SCHEMA
    assert [tuple(row.values()) for row in tables.activity.to_pylist()] == expected
    # the input's spikes are no neurons': (45 + 10) / 8 neurons; its synaptic operations count: 45 + 10 + 20
    assert by_cell(tables.summary, "spikes_per_image", "firing_rate", "synops_per_image") == {
        (trial, t): (pytest.approx(5.5 * t), pytest.approx(5.5 / 8), pytest.approx(75.0 * t))
        for trial in ("soft", "hard")
        for t in (4, 8)
    }


def one_trial_each(units):
    return [Unit(unit.start, unit.stop, (work,)) for unit in units for work in unit.work]


def one_time_step_each(units):
    return [Unit(u.start, u.stop, ((trial, (t,)),)) for u in units for trial, steps in u.work for t in steps]


@pytest.mark.parametrize("shard_size", [1, 3, 4, 10])
@pytest.mark.parametrize("grouping", [list, one_trial_each, one_time_step_each])
def test_tables_do_not_depend_on_the_order_or_the_grouping_of_units(tmp_path, shard_size, grouping):
    usual = merged(plan_of())
    units = grouping(pending(plan_of(shard_size=shard_size), []))
    random.Random(shard_size).shuffle(units)
    tables = merged(plan_of(), [compute(unit) for unit in units])
    for name, schema in (
        ("predictions", PREDICTIONS_SCHEMA),
        ("summary", SUMMARY_SCHEMA),
        ("activity", ACTIVITY_SCHEMA),
    ):
        assert getattr(tables, name) == getattr(usual, name)
        write_table(tmp_path / "usual", getattr(usual, name), schema)
        write_table(tmp_path / "tables", getattr(tables, name), schema)
        assert (tmp_path / "usual").read_bytes() == (tmp_path / "tables").read_bytes()


GAPS = [
    ([Unit(0, 10, ((ANN, (0,)), ("soft", (4, 8))))], 20),  # no hard
    ([Unit(0, 10, ((ANN, (0,)), ("soft", (4, 8)), ("hard", (4,))))], 10),  # no hard at T = 8
    ([Unit(0, 9, ((ANN, (0,)), ("soft", (4, 8)), ("hard", (4, 8))))], 5),  # not the last image
    ([Unit(0, 10, (("soft", (4, 8)), ("hard", (4, 8))))], 10),  # no ANN
    ([], 50),
]


@pytest.mark.parametrize(("units", "missing"), GAPS)
def test_gaps_are_refused_with_their_number(units, missing):
    with pytest.raises(ResultsError, match=rf"^{missing} of 50 results are missing; .*--allow-partial"):
        merged(plan_of(), [compute(unit) for unit in units])


@pytest.mark.parametrize(("units", "missing"), GAPS)
def test_partial_tables_hold_what_is_there(units, missing):
    tables = merged(plan_of(), [compute(unit) for unit in units], allow_partial=True)
    assert tables.predictions.num_rows == 50 - missing
    assert set(by_cell(tables.summary)) == {(t, s) for unit in units for t, steps in unit.work for s in steps} - {
        (ANN, 0)
    }


def test_partial_tables_say_how_much_they_cover():
    units = [
        Unit(0, 10, ((ANN, (0,)),)),
        Unit(0, 3, (("soft", (4, 8)),)),  # ids 2 8 4
        Unit(6, 9, (("soft", (8,)), ("hard", (4,)))),  # ids 7 3 0, of which the ANN misses 0
    ]
    tables = merged(plan_of(), [compute(unit) for unit in units], allow_partial=True)
    columns = ("images", "images_planned", "correct", "ann_accuracy", "spikes_per_image")
    assert by_cell(tables.summary, *columns) == {
        ("soft", 4): (3, 10, 3, 1.0, pytest.approx(4 * (14 + 3) / 3)),
        ("soft", 8): (6, 10, 5, pytest.approx(5 / 6), pytest.approx(8 * (24 + 6) / 6)),
        ("hard", 4): (3, 10, 1, pytest.approx(2 / 3), pytest.approx(4 * (10 + 3) / 3)),
    }
    assert set(by_cell(tables.activity, "images").values()) == {(3,), (6,)}


def test_without_the_ann_its_accuracy_is_not_a_number():
    (row,) = merged(
        plan_of(trials=("soft",), time_steps=(4,)), [compute(Unit(0, 10, (("soft", (4,)),)))], allow_partial=True
    ).summary.to_pylist()
    assert row["correct"] == 8
    assert row["ann_accuracy"] != row["ann_accuracy"]


def test_cells_that_are_not_planned_are_left_out():
    results = results_of(plan_of(shard_size=10))
    small = plan_of(trials=("soft",), time_steps=(8,))
    tables, usual = merged(small, results), merged(small)
    assert set(by_cell(tables.predictions)) == {(ANN, 0), ("soft", 8)}
    for name in ("predictions", "summary", "activity"):
        assert getattr(tables, name) == getattr(usual, name)


def test_a_lower_limit_than_was_computed_counts_only_its_images():
    tables = merged(plan_of(limit=4), results_of(plan_of(shard_size=3)))  # ids 2 8 4 9; units of 3, 3, 3, 1
    assert set(tables.predictions["image_id"].to_pylist()) == {2, 8, 4, 9}
    columns = ("images", "images_planned", "correct", "accuracy", "ann_accuracy")
    assert by_cell(tables.summary, *columns)["hard", 4] == (4, 4, 1, 0.25, 1.0)
    # two units reach below the limit, ids 2 8 4 9 1 6: activity is theirs, per image
    assert set(tables.activity["images"].to_pylist()) == {6}
    spikes, firing_rate = by_cell(tables.summary, "spikes_per_image", "firing_rate")["hard", 4]
    assert spikes == pytest.approx(4 * (30 + 6) / 6)
    assert firing_rate == pytest.approx((30 + 6) / 6 / 8)


@pytest.mark.parametrize("allow_partial", [True, False])
def test_duplicates_are_refused(allow_partial):
    results = results_of(plan_of())
    again = compute(Unit(2, 3, (("soft", (8,)),)))
    with pytest.raises(ResultsError, match="counted twice"):
        merged(plan_of(), [*results, again], allow_partial=allow_partial)


def test_a_figure_that_a_unit_lacks_is_null_and_the_others_are_whole(tmp_path, monkeypatch):
    """A unit that was committed before a figure was counted is not computed again for it."""
    plan = plan_of()
    layout = Layout(tmp_path)
    make_units(layout)
    first, *later = results_of(plan)
    with monkeypatch.context() as earlier:
        earlier.setattr(journal, "FIGURES", FIGURES[:2])
        old = replace(first, activity=tuple(replace(each, counts=each.counts[:2]) for each in first.activity))
        commit_unit(layout, old)
    for result in later:
        commit_unit(layout, result)
    found = scan(layout, "context", {}).results
    assert len(found) == 1 + len(later)
    table, whole = merged(plan, found).activity, merged(plan).activity
    assert set(table["saturated"].to_pylist()) == {None}
    assert table.drop_columns("saturated").equals(whole.drop_columns("saturated"))
