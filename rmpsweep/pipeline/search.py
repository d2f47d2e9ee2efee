"""Adaptive search: a trial that is shown to be worse than the best one is not evaluated on the images that are left.

Images are evaluated in rounds. After a round, every trial that still runs is tested at each T of interest against the
trial that was most accurate before that round (`stats.sequential`). A trial that has been beaten at every T of interest
is stopped; the others go on, in the end to all images. Call a trial best at a T of interest if it would classify most
of the planned images correctly; among equals, it is the first in the grid. The probability that, for any T of interest,
the best trial of the grid is stopped is at most `error`: to be stopped, it would have to be beaten at that T too,
whichever rivals it meets. Trials added by refinement are tested the same way but carry no guarantee, because they were
chosen using the very images they are tested on.

No state of the search is stored. It is replayed from the cells on disk, so a search resumes like any other sweep, and
the same cells give the same decisions.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rmpsweep.data import positions
from rmpsweep.results import SearchFile, UnitResult
from rmpsweep.results.records import Round
from rmpsweep.stats.sequential import Defeat, bet_against
from rmpsweep.sweep.plan import Plan, Trial, make_trial
from rmpsweep.sweep.schema import Search, Sweep
from rmpsweep.terms import Setting

GROWTH = 1.25
"""The factor by which the number of images grows from the end of one round to the end of the next."""

Correct = Mapping[str, NDArray[np.int8]]
"""trial_id -> [T of interest, N] by position: 1 for correct, 0 for wrong, -1 for not evaluated yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchState:
    """The state of a search."""

    plan: Plan
    """The plan, with the trials that refinement has added and the extents of those that were stopped."""
    within: tuple[int, int] | None
    """The positions [start, stop) at which running trials are evaluated next; None if the search is over."""
    rounds: tuple[Round, ...]
    """The rounds that are over."""
    defeats: Mapping[str, tuple[Defeat, ...]]
    """trial_id -> its defeats, one for each T of interest, for the trials that were stopped."""
    added: tuple[str, ...]
    """The ids of the trials that refinement has added."""

    def __str__(self) -> str:
        """Describe the outcome of the last round in a sentence."""
        stopped, running = len(self.defeats), len(self.plan.trials) - len(self.defeats)
        last = self.rounds[-1].images if self.rounds else 0
        goes_on = "all images seen" if self.within is None else f"next up to image {self.within[1]:,}"
        return f"search: {last:,} images, {stopped} trials stopped, {running} left; {goes_on}"


def replay(sweep: Sweep, plan: Plan, results: Sequence[UnitResult]) -> SearchState:
    """Derive the state of a sweep's search from the units on disk.

    Args:
        plan: the plan of the sweep. Only the trials of its grid are used: added and stopped trials are derived anew.
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
    return SearchState(plan=plan, within=within, rounds=tuple(contest.rounds), defeats=contest.defeats, added=added)


def _correct(plan: Plan, interest: Sequence[int], results: Sequence[UnitResult]) -> dict[str, NDArray[np.int8]]:
    position = positions(plan.facts.num_images)
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
    """Make a trial halfway between each two running neighbours in α that are equal in everything else."""
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
    """Let trials compete over the first `num_images` positions, one generation of refinement after the other.

    Each call of `run` adds its rounds to `rounds` and the defeats of the trials it stops to `defeats`. `survivors` are
    the trials that have been evaluated on all images.
    """

    def __init__(self, interest: Sequence[int], search: Search, num_images: int, correct: Correct) -> None:
        self.interest, self.correct, self.num_images = interest, correct, num_images
        self.first_images, self.bar = search.first_images, math.log(len(interest) / search.error)
        self.rounds: list[Round] = []
        self.defeats: dict[str, tuple[Defeat, ...]] = {}
        self.survivors: list[str] = []

    def run(self, newcomers: Sequence[str]) -> tuple[int, int] | None:
        """Let newcomers compete with one another and with the survivors of earlier generations.

        Returns:
            The positions [start, stop) that must be evaluated before the next round; None if all rounds are over.
        """
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
                self.rounds.append(Round(images=stop, running=len(running), stopped=tuple(stopped)))
            running = [trial for trial in running if trial not in stopped]
            start = stop
        self.survivors += running
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
        """Bet at one T that the trial that was most accurate up to `start` is better than each other running trial.

        Trials that have been beaten at this T already are left out.
        """
        rival = max([*self.survivors, *running], key=lambda trial: int(self.correct[trial][row, :start].sum()))
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
                beaten[trial][row] = Defeat(
                    time_steps=self.interest[row], rival=rival, images=stop, difference_points=points, odds=odds
                )


def search_file(sweep: Sweep, state: SearchState) -> SearchFile:
    """Make the contents of search.json: the rule, the rounds, the stopped trials with their defeats, the savings."""
    assert sweep.search is not None
    plan = state.plan
    steps = plan.time_steps[-1]
    return SearchFile(
        error=sweep.search.error,
        time_steps=sweep.search.time_steps or plan.time_steps,
        images=plan.limit,
        over=state.within is None,
        rounds=state.rounds,
        stopped=state.defeats,
        added=state.added,
        image_steps=sum(plan.extent(trial.trial_id) for trial in plan.trials) * steps,
        image_steps_of_grid=len(sweep.settings()) * plan.limit * steps,
    )
