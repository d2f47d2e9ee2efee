"""The adaptive search: what it concludes from the cells on disk, and the promise it makes."""

import itertools
import math
import re

import numpy as np
import pyarrow as pa
import pytest

from rmpsweep.data import image_order
from rmpsweep.pipeline.search import GROWTH, replay, search_file
from rmpsweep.results import UNIT_SCHEMA, UnitResult
from rmpsweep.sweep.plan import Facts, Unit, make_plan, pending
from rmpsweep.sweep.schema import Sweep

TIME_STEPS = (4, 8)


def sweep_of(alphas, **search):
    return Sweep.model_validate(
        {
            "name": "t",
            "network": {"name": "vgg-small", "weights": "w.safetensors"},
            "data": {"source": "digits"},
            "grid": {"alpha": list(alphas), "alpha_scope": "network"},
            "time_steps": TIME_STEPS,
            "search": search,
        }
    )


def plan_of(sweep, num_images, **facts):
    return make_plan(sweep, Facts("w", "d", "c", num_images, 1, **facts))


def unit_result(unit, plan, correct):
    """correct: trial_id -> bool [T, positions]."""
    images = image_order(plan.facts.num_images)[unit.start : unit.stop]
    tables = []
    for trial, steps in unit.work:
        for t in steps:
            rank = np.where(correct[trial][plan.time_steps.index(t), unit.start : unit.stop], 0, 3)
            columns = {"trial_id": [trial] * len(images), "image_id": images, "label": np.zeros_like(images)}
            columns |= {"time_steps": np.full_like(images, t), "prediction": rank, "label_rank": rank}
            tables.append(pa.table(columns).cast(UNIT_SCHEMA))
    return UnitResult(unit, plan.context, {}, pa.concat_tables(tables).combine_chunks(), ())


def all_units(plan, correct, num_images):
    unit = Unit(0, num_images, tuple((trial, plan.time_steps) for trial in correct))
    return [unit_result(unit, plan, correct)]


def run(sweep, plan, correct):
    """As launch does: evaluate what is wanted, conclude, and again; every standing and unit on the way."""
    results, standings, units = [], [replay(sweep, plan, [])], []
    while True:
        now = standings[-1]
        done = [result.unit for result in results]
        todo = [unit for unit in pending(now.plan, done, within=now.within) if unit.work[-1][0] != "ann"]
        todo = [Unit(u.start, u.stop, tuple(item for item in u.work if item[0] != "ann")) for u in todo]
        if not todo:
            return standings, results, units
        results += [unit_result(unit, plan, correct) for unit in todo]
        units.append(todo)
        standings.append(replay(sweep, plan, results))


def random_correct(plan, accuracies, num_images, seed=0, shared=0.9):
    """accuracies: per trial, or per trial and T. Images are hard or easy for all trials alike."""
    generator = np.random.default_rng(seed)
    easy = generator.random(num_images)
    return {
        trial.trial_id: np.stack(
            [
                shared * easy + (1 - shared) * generator.random(num_images) < each
                for each in np.broadcast_to(accuracy, len(TIME_STEPS))
            ]
        )
        for trial, accuracy in zip(plan.trials, accuracies, strict=True)
    }


@pytest.mark.slow
def test_the_best_trial_is_stopped_in_at_most_the_stated_share_of_image_orders():
    error, num_images, repeats = 0.2, 240, 400
    sweep = sweep_of([0.5, 0.6, 0.7, 0.8], error=error, first_images=10, time_steps=[8])
    plan = plan_of(sweep, num_images)
    generator = np.random.default_rng(3)
    # four trials, each right on the same number of images, but the second on one image more: nothing to find
    rows = [generator.permutation(num_images) < 150 + (k == 1) for k in range(4)]
    dropped = stopped = 0
    for _ in range(repeats):
        order = generator.permutation(num_images)
        correct = {trial.trial_id: np.stack([row[order]] * 2) for trial, row in zip(plan.trials, rows, strict=True)}
        standing = replay(sweep, plan, all_units(plan, correct, num_images))
        dropped += plan.trials[1].trial_id in standing.defeats
        stopped += len(standing.defeats) > 0
    assert dropped / repeats <= error + 3 * math.sqrt(error * (1 - error) / repeats)
    assert stopped > repeats / 4, "hardly anything was ever tested"


def test_bad_trials_stop_early_and_equal_ones_go_on_to_all_images():
    sweep = sweep_of([0.5, 0.6, 0.7, 0.8], first_images=40)
    plan = plan_of(sweep, 1000)
    correct = random_correct(plan, [0.9, 0.9, 0.8, 0.3], 1000)
    same = correct[plan.trials[0].trial_id]
    correct[plan.trials[1].trial_id] = same.copy()
    standings, _, _ = run(sweep, plan, correct)
    end = standings[-1]
    ids = [trial.trial_id for trial in plan.trials]
    assert end.within is None
    assert set(end.defeats) == {ids[2], ids[3]}
    assert end.plan.stopped[ids[3]] < end.plan.stopped[ids[2]] < 1000
    assert end.plan.stopped[ids[3]] <= math.ceil(40 * GROWTH**3)
    found = search_file(sweep, end)
    steps = [end.plan.extent(trial) * 8 for trial in ids]
    assert (found.image_steps, found.image_steps_of_grid) == (sum(steps), 4 * 1000 * 8)
    assert found.over


def test_a_trial_is_stopped_by_the_previous_leader_at_the_stated_odds():
    accuracies = [0.9, 0.899, 0.898, 0.897, 0.87, 0.86, 0.85, 0.84, 0.83, 0.8, 0.75, 0.7]
    sweep = sweep_of([0.1 * (k + 1) for k in range(len(accuracies))], first_images=15)
    plan = plan_of(sweep, 1500)
    correct = random_correct(plan, accuracies, 1500, seed=2, shared=0.6)
    end = run(sweep, plan, correct)[0][-1]
    ends = [0, *(each.images for each in end.rounds)]
    leaders = set()
    for defeats in end.defeats.values():
        for defeat in defeats:
            row, before = TIME_STEPS.index(defeat.time_steps), ends[ends.index(defeat.images) - 1]
            ran = [trial for trial in correct if end.plan.extent(trial) > before]
            leader = max(ran, key=lambda trial: correct[trial][row, :before].sum())
            assert defeat.rival == leader
            assert defeat.odds is None or defeat.odds >= len(TIME_STEPS) / sweep.search.error
            leaders.add(leader)
    assert len(leaders) > 1, "the leader never changed"


def test_a_trial_seen_on_all_images_has_not_stopped():
    sweep = sweep_of([0.5, 0.6], first_images=90)
    plan = plan_of(sweep, 100)
    better, worse = (trial.trial_id for trial in plan.trials)
    row = np.arange(100) % 2 == 0
    correct = {better: np.stack([row] * 2), worse: np.stack([row & (np.arange(100) > 20)] * 2)}
    end = run(sweep, plan, correct)[0][-1]
    assert (end.within, end.defeats) == (None, {})


def test_a_trial_that_is_best_at_one_time_step_of_interest_goes_on():
    sweep = sweep_of([0.5, 0.6], first_images=40)
    plan = plan_of(sweep, 800)
    correct = random_correct(plan, [(0.9, 0.3), (0.3, 0.9)], 800)
    assert run(sweep, plan, correct)[0][-1].defeats == {}
    only_last = sweep_of([0.5, 0.6], first_images=40, time_steps=[8])
    (defeats,) = run(only_last, plan, correct)[0][-1].defeats.values()
    assert [defeat.time_steps for defeat in defeats] == [8]
    assert defeats[0].rival == plan.trials[1].trial_id
    assert defeats[0].difference_points == pytest.approx(60, abs=15)


def test_conclusions_depend_on_the_cells_alone():
    """Not on how they were cut, in how many steps they came, or what else has been computed."""
    sweep = sweep_of([0.5, 0.6, 0.7, 0.8, 0.9], first_images=30)
    plan = plan_of(sweep, 500)
    correct = random_correct(plan, [0.9, 0.88, 0.8, 0.5, 0.3], 500)
    standings, results, _ = run(sweep, plan, correct)
    end = standings[-1]
    assert replay(sweep, end.plan, results) == end
    assert replay(sweep, plan, results[::-1]) == end
    assert replay(sweep, plan, all_units(plan, correct, 500)) == end, "the full grid was there already"
    for before, after in itertools.pairwise(standings):
        assert after.rounds[: len(before.rounds)] == before.rounds
        assert before.defeats.items() <= after.defeats.items()


def test_no_cell_is_asked_for_twice_and_none_of_a_stopped_trial():
    sweep = sweep_of([0.5, 0.6, 0.7, 0.8, 0.9], first_images=30)
    plan = plan_of(sweep, 500)
    correct = random_correct(plan, [0.9, 0.88, 0.8, 0.5, 0.3], 500)
    standings, _, rounds = run(sweep, plan, correct)
    cells = [
        (trial, position, t)
        for units in rounds
        for unit in units
        for trial, steps in unit.work
        for t in steps
        for position in range(unit.start, unit.stop)
    ]
    end = standings[-1].plan
    wanted = {(t.trial_id, p, s) for t in end.trials for p in range(end.extent(t.trial_id)) for s in TIME_STEPS}
    assert len(cells) == len(set(cells))
    assert set(cells) == wanted
    assert len(cells) == end.num_cells - 500, "num_cells counts the ANN's too"


def test_refinement_adds_trials_between_survivors_only_with_the_identity_of_a_grid():
    sweep = sweep_of([0.4, 0.5, 0.6, 1.0], first_images=30, refine=2)
    plan = plan_of(sweep, 400)
    finer = plan_of(sweep_of([0.4, 0.45, 0.475, 0.5, 0.525, 0.55, 0.575, 0.6, 1.0]), 400)
    accuracy = dict.fromkeys((0.475, 0.45, 0.4, 0.5, 0.525, 0.55, 0.6), 0.9) | {0.575: 0.9, 1.0: 0.3, 0.425: 0.9}
    everything = plan_of(sweep_of(accuracy), 400)
    correct = random_correct(everything, accuracy.values(), 400)
    same = next(iter(correct.values()))
    bad = next(t.trial_id for t in everything.trials if t.setting.alpha == 1.0)
    correct = {trial: rows if trial == bad else same for trial, rows in correct.items()}
    end = run(sweep, plan, correct)[0][-1]
    alphas = {trial.trial_id: trial.setting.alpha for trial in end.plan.trials}
    assert [alphas[trial] for trial in end.added] == [0.45, 0.55, 0.425, 0.475, 0.525, 0.575]
    assert set(end.defeats) == {bad}
    shared = {trial.setting.alpha: trial for trial in finer.trials}
    assert all(trial == shared[trial.setting.alpha] for trial in end.plan.trials if trial.setting.alpha in shared)
    assert replay(sweep, end.plan, []).plan.trials == plan.trials, "a search begins with its grid"


def test_images_that_are_missing_in_a_round_are_waited_for():
    sweep = sweep_of([0.5, 0.6], first_images=30)
    plan = plan_of(sweep, 200)
    correct = random_correct(plan, [0.9, 0.2], 200)
    part = Unit(0, 29, tuple((trial, TIME_STEPS) for trial in correct))
    standing = replay(sweep, plan, [unit_result(part, plan, correct)])
    assert (standing.within, standing.rounds) == ((0, 30), ())


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"time_steps": [4, 5]}, "search.time_steps: got [5], expected some of time_steps [4, 8]"),
        ({"error": 0}, "greater than 0"),
        ({"error": 1.0}, "less than 1"),
        ({"time_steps": []}, "at least 1"),
        ({"rounds": 3}, "rounds"),
    ],
)
def test_bad_searches_are_refused(search, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        sweep_of([0.5], **search)
