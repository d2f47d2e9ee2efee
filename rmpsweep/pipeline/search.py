"""Adaptive search: a trial that is shown to be worse than the best is not evaluated on the images that are left.

Images are evaluated in rounds. After a round every trial that still runs is tested, at each T of interest, against the
most accurate trial before that round (`stats.sequential`); one that is beaten at every T of interest stops, the rest
go on to all images. The best trial at a T of interest (of equals the first in the grid) is stopped with probability at
most `error` over them all: to stop it, it would have to be beaten at that T too, whoever its rivals are. Trials that
refinement adds are tested alike, without that promise: which they are follows from the images they are tested on.

Nothing of this is kept: the state is replayed from the cells on disk, so a search resumes like any sweep, and the same
cells give the same decisions.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmpsweep.data import image_order
from rmpsweep.results import UnitResult
from rmpsweep.stats.sequential import bet_against
from rmpsweep.sweep.plan import Plan, Trial, make_trial
from rmpsweep.sweep.schema import Search, Sweep
from rmpsweep.terms import Setting

GROWTH = 1.25
"""Each round ends at so many times the images of the one before."""

Correct = Mapping[str, NDArray[np.int8]]
"""trial_id -> [T of interest, N]: 1 correct, 0 not, -1 not evaluated yet."""


@dataclass(frozen=True)
class Defeat:
    """A trial was beaten at one T by a rival; difference: accuracy of the rival minus its own over `images`, points.

    odds: what a bet of 1 on the rival had come to at its best, None where the trial could not catch up any more.
    """

    time_steps: int
    rival: str
    images: int
    difference_points: float
    odds: float | None


@dataclass(frozen=True)
class Round:
    """All of `running` trials were evaluated up to `images`; then `stopped` did not go on."""

    images: int
    running: int
    stopped: tuple[str, ...]


@dataclass(frozen=True)
class Standing:
    """Where a search stands. plan: with the trials that were added, and those that stopped.

    within: positions that trials which run are evaluated at next; None: it is over. defeats: of the trials stopped;
    added: trials that refinement has made.
    """

    plan: Plan
    within: tuple[int, int] | None
    rounds: tuple[Round, ...]
    defeats: Mapping[str, tuple[Defeat, ...]]
    added: tuple[str, ...]


def replay(sweep: Sweep, plan: Plan, results: Sequence[UnitResult]) -> Standing:
    """Where the search of a sweep stands, from the units on disk.

    Args:
        plan: of the sweep; trials beyond those of its grid, and stops, are found anew.
    """
    assert sweep.search is not None
    trials = newcomers = plan.trials[: len(sweep.settings())]
    plan = replace(plan, trials=trials, stopped={})
    interest = sweep.search.time_steps or plan.time_steps
    contest = Contest(interest, sweep.search, plan.limit, _correct(plan, interest, results))
    within = None
    for generation in range(sweep.search.refine + 1):
        if generation:
            newcomers = _between(sweep, plan)
            plan = replace(plan, trials=(*plan.trials, *newcomers))
        within = contest.run([trial.trial_id for trial in newcomers])
        plan = replace(plan, stopped={trial: max(d.images for d in its) for trial, its in contest.defeats.items()})
        if within is not None:
            break
    added = tuple(trial.trial_id for trial in plan.trials[len(trials) :])
    return Standing(plan, within, tuple(contest.rounds), contest.defeats, added)


def _correct(plan: Plan, interest: Sequence[int], results: Sequence[UnitResult]) -> dict[str, NDArray[np.int8]]:
    position = np.argsort(image_order(plan.facts.num_images))
    row = {t: i for i, t in enumerate(interest)}
    correct: dict[str, NDArray[np.int8]] = {}
    for result in results:
        for trial, t, image_ids, right in result.outcomes():
            if t in row:
                if trial not in correct:
                    correct[trial] = np.full((len(row), plan.facts.num_images), -1, np.int8)
                correct[trial][row[t], position[image_ids]] = right
    return correct


def _between(sweep: Sweep, plan: Plan) -> tuple[Trial, ...]:
    """Trials halfway between neighbours in α, otherwise alike, neither of which was stopped."""
    alike: dict[Setting, list[Trial]] = {}
    for trial in plan.trials:
        alike.setdefault(replace(trial.setting, alpha=1.0), []).append(trial)
    found = []
    for trials in alike.values():
        trials.sort(key=lambda trial: trial.setting.alpha)
        for low, high in itertools.pairwise(trials):
            if low.trial_id not in plan.stopped and high.trial_id not in plan.stopped:
                alpha = float(f"{(low.setting.alpha + high.setting.alpha) / 2:.12g}")
                setting = replace(low.setting, alpha=alpha)
                found.append(make_trial(sweep, setting, plan.facts, plan.context))
    return tuple(found)


class Contest:
    """Trials against one another, generation after generation, over the first `num_images` positions.

    rounds, defeats (of trials stopped): so far; standing: trials that have been evaluated on all images.
    """

    def __init__(self, interest: Sequence[int], search: Search, num_images: int, correct: Correct) -> None:
        self.interest, self.correct, self.num_images = interest, correct, num_images
        self.first_images, self.bar = search.first_images, math.log(len(interest) / search.error)
        self.rounds: list[Round] = []
        self.defeats: dict[str, tuple[Defeat, ...]] = {}
        self.standing: list[str] = []

    def run(self, newcomers: Sequence[str]) -> tuple[int, int] | None:
        """Let newcomers compete with one another and with who stands from before; the positions that are missing for
        the next round, None where all rounds are over."""
        running = list(newcomers)
        wealth = {trial: np.zeros(len(self.interest)) for trial in running}
        beaten: dict[str, dict[int, Defeat]] = {trial: {} for trial in running}
        start = 0
        for stop in self._ends():
            if not all(self._is_known(trial, start, stop) for trial in running):
                return start, stop
            if start > 0 and stop < self.num_images:
                for row in range(len(self.interest)):
                    self._bet(row, running, start, stop, wealth, beaten)
            stopped = [trial for trial in running if len(beaten[trial]) == len(self.interest)]
            for trial in stopped:
                self.defeats[trial] = tuple(beaten[trial][row] for row in range(len(self.interest)))
            if running:
                self.rounds.append(Round(stop, len(running), tuple(stopped)))
            running = [trial for trial in running if trial not in stopped]
            start = stop
        self.standing += running
        return None

    def _ends(self) -> list[int]:
        ends, images = [], float(self.first_images)
        while images < self.num_images:
            ends.append(math.ceil(images))
            images *= GROWTH
        return [*ends, self.num_images]

    def _is_known(self, trial: str, start: int, stop: int) -> bool:
        return trial in self.correct and bool((self.correct[trial][:, start:stop] >= 0).all())

    def _bet(
        self,
        row: int,
        running: Sequence[str],
        start: int,
        stop: int,
        wealth: Mapping[str, NDArray[np.float64]],
        beaten: Mapping[str, dict[int, Defeat]],
    ) -> None:
        """Bet on the most accurate trial so far at one T against those that it has not beaten there."""
        rival = max([*self.standing, *running], key=lambda trial: int(self.correct[trial][row, :start].sum()))
        others = [trial for trial in running if trial != rival and row not in beaten[trial]]
        if not others:
            return
        right = np.stack([self.correct[trial][row, :stop] for trial in others]).astype(bool)
        of_rival = self.correct[rival][row, :stop].astype(bool)
        before = np.array([wealth[trial][row] for trial in others])
        after, highest = bet_against(of_rival, right, start, self.num_images, before)
        for trial, now, most, its in zip(others, after, highest, right, strict=True):
            wealth[trial][row] = now
            if most >= self.bar:
                points = 100 * (int(of_rival.sum()) - int(its.sum())) / stop
                odds = None if math.isinf(most) else math.exp(min(most, 700.0))
                beaten[trial][row] = Defeat(self.interest[row], rival, stop, points, odds)


def document(sweep: Sweep, standing: Standing) -> dict[str, Any]:
    """What search.json holds: the rule, its rounds, who was stopped when and why, and what it saved."""
    assert sweep.search is not None
    plan = standing.plan
    steps = plan.time_steps[-1]
    evaluated = sum(plan.extent(trial.trial_id) for trial in plan.trials) * steps
    return {
        "error": sweep.search.error,
        "time_steps": list(sweep.search.time_steps or plan.time_steps),
        "images": plan.limit,
        "over": standing.within is None,
        "rounds": [asdict(each) for each in standing.rounds],
        "stopped": {trial: [asdict(each) for each in defeats] for trial, defeats in standing.defeats.items()},
        "added": list(standing.added),
        "image_steps": evaluated,
        "image_steps_of_grid": len(sweep.settings()) * plan.limit * steps,
    }
