import json
import random
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rmpsweep.data import image_order
from rmpsweep.results import Layout, PlanFile
from rmpsweep.sweep import plan as plan_module
from rmpsweep.sweep.file import parse_sweep
from rmpsweep.sweep.plan import (
    ANN,
    TRIALS_PER_UNIT,
    Facts,
    Plan,
    Trial,
    Unit,
    calibration_ids,
    disjoint,
    make_plan,
    make_trial,
    pending,
)
from rmpsweep.sweep.schema import Sweep
from rmpsweep.terms import SETTINGS, Setting

EARLIER = Path(__file__).parents[1] / "fixtures" / "results-b667ece"
FACTS = Facts(weights="w", data_fingerprint="d", calibration_fingerprint="c", num_images=40, num_calibration_images=100)
SWEEP = """
name: t
network: {name: vgg-small, weights: w.safetensors}
data: {source: digits, shard_size: 16}
calibration: {images: 8, time_steps: 16, encoding: constant, seed: 1}
grid: {encoding: poisson, seed: 1, threshold: vin_max, alpha: 0.5, input_scale: 2}
time_steps: [4, 8]
run: {actors: 1, batch_size: 32}
"""


def sweep_with(*changes):
    """SWEEP with (section, key, value) replaced; key None: the whole section."""
    content = yaml.safe_load(SWEEP)
    for section, key, value in changes:
        if key is None:
            content[section] = value
        else:
            content[section] = {**content.get(section, {}), key: value}
    return Sweep.model_validate(content)


def plan_with(*changes, limit=None, **facts):
    return make_plan(sweep_with(*changes), replace(FACTS, **facts), limit)


def only_trial(*changes, **facts):
    (trial,) = plan_with(*changes, **facts).trials
    return trial


def cells(*units):
    """Every (trial, position, time step) as often as it occurs."""
    return [
        (trial, i, t)
        for unit in units
        for trial, steps in unit.work
        for t in steps
        for i in range(unit.start, unit.stop)
    ]


def planned(plan):
    return cells(Unit(0, plan.limit, plan.work))


def test_identities_are_those_of_earlier_versions():
    """Literals of commit b667ece. A change of any of them voids every result on every disk."""
    plan = plan_with()
    assert plan.context == "6747c9594bf81322"
    assert [(trial.trial_id, trial.calibration_id) for trial in plan.trials] == [
        ("9851b7fdf1901336", "1aecd9668cb44dec")
    ]
    assert [unit.unit_id(plan.context) for unit in pending(plan, [])] == [
        "add6ea55743fb90b",
        "4b3d60552cdcc019",
        "93010db5c1992b11",
    ]


def test_a_plan_on_disk_is_planned_again_with_the_identities_it_has():
    saved = json.loads((EARLIER / "plan.json").read_text())
    sweep = parse_sweep((EARLIER / "sweep.yaml").read_text(), "sweep.yaml")
    plan = make_plan(sweep, PlanFile.read(Layout(EARLIER)).plan.facts, saved["limit"])
    assert plan.context == saved["context"] == "9e4eb628f398df3e"
    assert [(trial.trial_id, trial.calibration_id) for trial in plan.trials] == [
        ("462d717f445dbec3", "0fce2bcba8cd9f2d"),
        ("a5fb9cefda381a5b", "0fce2bcba8cd9f2d"),
        ("2b9cccfe10379af7", "a85f592cbd5227fd"),
    ]
    units = {f"{unit.unit_id(plan.context)}.parquet" for unit in pending(plan, [])}
    assert units == {path.name for path in (EARLIER / "units").iterdir()}
    assert units == {"50be41ed68339b84.parquet", "99f45e7404a515c7.parquet"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Extended(Setting):
    """A setting with an axis that came after version 1."""

    offset: float = 0.0


def test_an_axis_that_was_added_leaves_trial_ids_alone_at_its_default_and_changes_them_off_it():
    plan = plan_with()
    (trial,) = plan.trials
    extended = Extended(**asdict(trial.setting))
    again = make_trial(sweep_with(), extended, FACTS, plan.context)
    assert (again.trial_id, again.calibration_id) == (trial.trial_id, trial.calibration_id)
    other = make_trial(sweep_with(), replace(extended, offset=0.5), FACTS, plan.context)
    assert other.trial_id != trial.trial_id


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_of_version_1_is_in_the_identity_at_its_default_too(name):
    assert name in Setting().identity()


OTHER_SETTING = {
    "encoding": "constant",
    "max_pool": "spike",
    "numerics": "float64",
    "reset": "hard",
    "threshold": "vin_p99",
    "granularity": "channel",
    "input_scale": "auto",
    "alpha_scope": "network",
    "v_init": 0.5,
    "alpha": 0.25,
    "seed": 2,
}


@pytest.mark.parametrize("field", SETTINGS)
def test_trial_id_depends_on_each_setting(field):
    assert only_trial(("grid", field, OTHER_SETTING[field])).trial_id != only_trial().trial_id


@pytest.mark.parametrize("fact", ["weights", "data_fingerprint", "calibration_fingerprint"])
def test_trial_id_depends_on_weights_and_data(fact):
    assert only_trial(**{fact: "other"}).trial_id != only_trial().trial_id


def test_trial_id_depends_on_the_network_that_the_weights_are_put_in():
    assert only_trial(("network", "name", "vgg16")).trial_id != only_trial().trial_id


@pytest.mark.parametrize(("key", "value"), [("images", 9), ("time_steps", 17), ("encoding", "poisson"), ("seed", 2)])
def test_trial_id_and_thresholds_depend_on_the_calibration_recipe(key, value):
    other = only_trial(("calibration", key, value))
    assert other.trial_id != only_trial().trial_id
    assert other.calibration_id != only_trial().calibration_id


def test_everything_depends_on_the_engine_version(monkeypatch):
    before = plan_with()
    monkeypatch.setattr(plan_module, "ENGINE_VERSION", "other")
    after = plan_with()
    assert before.context != after.context
    assert before.trials[0].trial_id != after.trials[0].trial_id
    assert before.trials[0].calibration_id != after.trials[0].calibration_id


@pytest.mark.parametrize(
    ("network", "numerics", "depends"),
    [
        ({"module": "own:factory", "weights": "w.safetensors"}, "fixed16", True),
        ({"module": "own:factory", "weights": "w.safetensors"}, "fixed8", True),
        ({"module": "own:factory", "weights": "w.safetensors"}, "float64", False),
        ({"name": "vgg-small", "weights": "w.safetensors"}, "fixed16", False),
    ],
)
def test_trials_of_own_networks_on_the_grid_depend_on_its_version(monkeypatch, network, numerics, depends):
    changes = (("network", None, network), ("grid", "numerics", numerics))
    before = only_trial(*changes).trial_id
    monkeypatch.setattr(plan_module, "GRID_VERSION", "other")
    assert (only_trial(*changes).trial_id != before) == depends


INDIFFERENT = [
    ("name", None, "u"),
    ("time_steps", None, [2]),
    ("data", "shard_size", 3),
    ("data", "path", "elsewhere"),
    ("run", "actors", 7),
    ("run", "batch_size", 7),
    ("run", "retries", 7),
    ("mlflow", "experiment", "e"),
    ("network", "weights", "moved.safetensors"),
]


@pytest.mark.parametrize("change", INDIFFERENT, ids=str)
def test_trial_id_does_not_depend_on_how_or_how_long_it_runs(change):
    assert plan_with(change).trials == plan_with().trials
    assert plan_with(change).context == plan_with().context


def test_trial_id_does_not_depend_on_limit_number_of_images_or_other_trials():
    alone = only_trial()
    assert plan_with(limit=3).trials == plan_with(num_images=7).trials == (alone,)
    assert alone in plan_with(("grid", "alpha", [0.25, 0.5, 1.0])).trials
    assert re.fullmatch("[0-9a-f]{16}", alone.trial_id)


SAME_THRESHOLDS = [
    *(("vin_max", key, OTHER_SETTING[key]) for key in ("alpha", "alpha_scope", "reset", "v_init", "seed", "numerics")),
    *(("activation_p99", key, OTHER_SETTING[key]) for key in ("alpha", "reset", "v_init", "encoding", "max_pool")),
]
OTHER_THRESHOLDS = [
    *(("vin_max", key, OTHER_SETTING[key]) for key in ("threshold", "granularity", "input_scale", "max_pool")),
    *(("activation_max", key, OTHER_SETTING[key]) for key in ("granularity", "input_scale")),
]


@pytest.mark.parametrize(("rule", "key", "value"), SAME_THRESHOLDS)
def test_calibration_id_ignores_what_thresholds_do_not_depend_on(rule, key, value):
    base, other = only_trial(("grid", "threshold", rule)), only_trial(("grid", "threshold", rule), ("grid", key, value))
    assert (base.calibration_id, base.trial_id != other.trial_id) == (other.calibration_id, True)


@pytest.mark.parametrize(("rule", "key", "value"), OTHER_THRESHOLDS)
def test_calibration_id_depends_on_what_thresholds_depend_on(rule, key, value):
    base, other = only_trial(("grid", "threshold", rule)), only_trial(("grid", "threshold", rule), ("grid", key, value))
    assert base.calibration_id != other.calibration_id


@pytest.mark.parametrize(("key", "value"), [("time_steps", 17), ("encoding", "poisson")])
def test_thresholds_from_activations_do_not_depend_on_a_simulation(key, value):
    rule = ("grid", "threshold", "activation_max")
    assert only_trial(rule, ("calibration", key, value)) == only_trial(rule)


def test_calibration_encoding_is_the_trials_unless_given():
    unset = ("calibration", "encoding", None)
    assert only_trial(unset).calibration_id == only_trial(("calibration", "encoding", "poisson")).calibration_id
    assert only_trial(unset, ("grid", "encoding", "constant")).calibration_id == only_trial().calibration_id


def test_thresholds_do_not_depend_on_the_images_evaluated():
    assert only_trial(data_fingerprint="other").calibration_id == only_trial().calibration_id
    assert only_trial(weights="other").calibration_id != only_trial().calibration_id
    assert only_trial(calibration_fingerprint="other").calibration_id != only_trial().calibration_id


def test_images_are_taken_in_one_fixed_order_without_repeats():
    assert sorted(image_order(1000)) == list(range(1000))
    assert image_order(1000).tolist() == image_order(1000).tolist() != list(range(1000))
    assert calibration_ids(1000, 30, seed=3).tolist() == calibration_ids(1000, 50, seed=3).tolist()[:30]
    assert calibration_ids(1000, 30, seed=4).tolist() != calibration_ids(1000, 30, seed=3).tolist()
    assert sorted(calibration_ids(7, 30, seed=3)) == list(range(7))


def test_limits_nest():
    assert [plan_with(limit=limit).limit for limit in (None, 7, 40, 41)] == [40, 7, 40, 40]
    assert set(planned(plan_with(limit=7))) < set(planned(plan_with(limit=8))) < set(planned(plan_with()))


def test_what_a_unit_holds_and_costs():
    unit = Unit(3, 8, ((ANN, (0,)), ("a", (4, 8)), ("b", (8,))))
    assert (unit.num_cells, unit.image_steps) == (5 * 4, 5 * (0 + 8 + 8))
    others = [replace(unit, start=2), replace(unit, stop=9), replace(unit, work=unit.work[:2]), Unit(3, 8, ())]
    assert len({unit.unit_id("c"), unit.unit_id("d"), *(other.unit_id("c") for other in others)}) == 6


def test_the_same_sweep_with_its_keys_in_another_order_is_the_same_plan():
    grid = {"threshold": ["vin_max", "activation_max"], "reset": ["soft", "hard"], "alpha": [0.5, 1]}
    content = {**yaml.safe_load(SWEEP), "grid": grid}
    turned = {
        key: dict(reversed(value.items())) if isinstance(value, dict) else value
        for key, value in reversed(content.items())
    }
    assert json.dumps(turned) != json.dumps(content)
    assert make_plan(Sweep.model_validate(turned), FACTS) == make_plan(Sweep.model_validate(content), FACTS)


def test_a_new_plan_is_every_cell_once_in_shards_and_groups_of_trials():
    plan = plan_with(("grid", "alpha", [i / 10 for i in range(1, 11)]))
    units = pending(plan, [])
    assert sorted(cells(*units)) == sorted(planned(plan))
    assert [(unit.start, unit.stop, len(unit.work)) for unit in units] == [
        (0, 16, 9),
        (0, 16, 2),
        (16, 32, 9),
        (16, 32, 2),
        (32, 40, 9),
        (32, 40, 2),
    ]
    assert [unit.work[0][0] == ANN for unit in units] == [True, False] * 3
    assert len(cells(*units)) == plan.num_cells == 40 * (1 + 10 * 2)


def test_the_ann_alone_may_be_missing():
    plan = plan_with(limit=20)
    everything_else = Unit(0, 20, plan.work[1:])
    assert pending(plan, [everything_else]) == [Unit(0, 16, plan.work[:1]), Unit(16, 20, plan.work[:1])]


def added(change, limit=30):
    """The cells left to do after `change`, and those of both plans, when everything before it was done."""
    before, after = plan_with(limit=30), plan_with(*change, limit=limit)
    left = cells(*pending(after, pending(before, [])))
    assert len(left) == len(set(left))
    return set(left), set(planned(after)) - set(planned(before))


CONTINUATIONS = [
    ([("grid", "alpha", [0.5, 0.75])], 30, 30 * 2),
    ([("time_steps", None, [4, 6, 8])], 30, 30),
    ([("time_steps", None, [4, 8, 4096])], 30, 30),
    ([], 37, 7 * 3),
    ([("data", "shard_size", 7)], 30, 0),
    ([("data", "shard_size", 7), ("grid", "alpha", [0.5, 0.75]), ("time_steps", None, [4, 6])], 31, 30 * 3 + 5),
    ([("time_steps", None, [8])], 20, 0),
]


@pytest.mark.parametrize(("change", "limit", "expected"), CONTINUATIONS)
def test_only_what_a_change_adds_is_left_to_do(change, limit, expected):
    left, missing = added(change, limit)
    assert left == missing
    assert len(left) == expected


def unit_of(trials, last):
    """Units of some trials at some time steps, anywhere up to `last`; the ANN only at 0."""
    steps = st.sets(st.sampled_from([2, 4, 8, 16]), min_size=1).map(lambda found: tuple(sorted(found)))
    works = st.fixed_dictionaries({}, optional={trial: st.just((0,)) if trial == ANN else steps for trial in trials})
    work = works.filter(bool).map(lambda found: tuple(found.items()))
    bounds = st.tuples(st.integers(0, last), st.integers(0, last)).filter(lambda b: b[0] != b[1]).map(sorted)
    return st.builds(lambda edges, work: Unit(*edges, work), bounds, work)


TRIALS = tuple(Trial(trial_id, "c", Setting()) for trial_id in "abcdefghi")
DONE = st.lists(unit_of([ANN, *"abcdefghi", "no longer planned"], last=20), max_size=12)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(DONE, st.integers(1, 15), st.integers(1, 20), st.integers(1, 9), st.randoms(use_true_random=False))
def test_pending_is_every_missing_cell_once_and_no_finished_one(done, limit, shard_size, trials, order):
    plan = Plan("context", FACTS, TRIALS[:trials], (4, 8), limit, shard_size)
    units = pending(plan, done)
    found = cells(*units)
    assert len(found) == len(set(found))
    assert set(found) == set(planned(plan)) - set(cells(*done))
    assert all(unit.work and len(dict(unit.work).keys() - {ANN}) <= TRIALS_PER_UNIT for unit in units)
    assert all(unit.start // shard_size == (unit.stop - 1) // shard_size for unit in units)
    assert [unit.start for unit in units] == sorted(unit.start for unit in units)
    assert pending(plan, [*done, *units]) == []
    assert pending(plan, order.sample(done, len(done))) == units


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(unit_of([ANN, "a", "b", "c"], last=12), max_size=10))
def test_disjoint_counts_no_cell_twice_and_drops_only_what_overlaps(units):
    keep = disjoint(units)
    kept = [unit for unit, counts in zip(units, keep, strict=True) if counts]
    counted = cells(*kept)
    assert len(counted) == len(set(counted))
    for unit, counts in zip(units, keep, strict=True):
        assert counts or set(cells(unit)) & set(counted)
    shuffled = random.Random(0).sample(units, len(units))
    again = [unit for unit, counts in zip(shuffled, disjoint(shuffled), strict=True) if counts]
    assert set(again) == set(kept)
    assert len(again) == len(kept)


def test_of_overlapping_units_the_larger_counts():
    small, large, apart = Unit(0, 2, (("a", (4,)),)), Unit(1, 8, (("a", (4,)),)), Unit(0, 8, (("a", (8,)), ("b", (4,))))
    assert disjoint([small, large, apart, large]) == [False, True, True, False]
