"""Trials x images -> units of work, and which of them are still missing. Pure: no file is read or written here.

Images are numbered by position in a fixed permutation, so that any limit is a fair sample and limits nest. Work is
counted in cells (trial, position, time step): another grouping, a longer grid, one more T or a larger limit leaves
finished cells finished.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rmpsweep.sweep.schema import Sweep
from rmpsweep.terms import ANN, ENGINE_VERSION, Setting

ANN_TIME_STEPS = (0,)
TRIALS_PER_UNIT = 8
UNIT_IMAGE_STEPS = 2**18
"""A unit is not larger than that, as far as single images allow: what is lost with a worker."""
UNITS_PER_WORKER = 8
TAIL = ((0.75, 2), (0.93, 4), (0.975, 8))
"""From so far on, shards are so many times smaller: workers end together."""
SMALLEST_SHARD = 8
"""Images; several workers never get less because of the rules above."""


@dataclass(frozen=True)
class Facts:
    """What the results depend on besides the sweep's settings.

    weights: SHA-256 of the weights file, or the recipe's digest while untrained; data, calibration_data: fingerprints;
    num_images, num_calibration_images: of the two splits; threshold_files: path of a file -> SHA-256 of its thresholds,
    and package.module:function of a rule from outside -> SHA-256 of its module's source;
    num_skipped: images beside num_images that cannot be decoded and are left out.
    """

    weights: str
    data: str
    calibration_data: str
    num_images: int
    num_calibration_images: int
    threshold_files: Mapping[str, str] = field(default_factory=dict)
    num_skipped: int = 0


@dataclass(frozen=True)
class Trial:
    """One setting with its identity; calibration_id names the thresholds it uses."""

    trial_id: str
    calibration_id: str
    setting: Setting


@dataclass(frozen=True)
class Unit:
    """Positions [start, stop) of the permutation under some trials, each at its time steps; ANN at time step 0."""

    start: int
    stop: int
    work: tuple[tuple[str, tuple[int, ...]], ...]

    def unit_id(self, context: str) -> str:
        """The unit's name: 16 hex digits of what it computes."""
        return _digest({"context": context, **asdict(self)})

    @property
    def cells(self) -> dict[str, int]:
        """How many (image, time step) combinations there are of each trial."""
        return {trial: (self.stop - self.start) * len(steps) for trial, steps in self.work}

    @property
    def num_cells(self) -> int:
        """(trial, image, time step) combinations."""
        return (self.stop - self.start) * sum(len(steps) for _, steps in self.work)

    @property
    def image_steps(self) -> int:
        """Simulated images x time steps: what the unit costs."""
        return (self.stop - self.start) * sum(max(steps) for _, steps in self.work)


@dataclass(frozen=True)
class Plan:
    """Everything to be computed. context: identity of network, data and engine; limit: positions evaluated.

    stopped: trials that are evaluated at fewer positions, and at how many (see `search`).
    """

    context: str
    facts: Facts
    trials: tuple[Trial, ...]
    time_steps: tuple[int, ...]
    limit: int
    shard_size: int
    stopped: Mapping[str, int] = field(default_factory=dict)

    @property
    def work(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Every trial, and the ANN first, with its time steps."""
        return ((ANN, ANN_TIME_STEPS), *((trial.trial_id, self.time_steps) for trial in self.trials))

    def extent(self, trial_id: str) -> int:
        """Positions at which a trial, or the ANN, is evaluated: the first so many."""
        return self.stopped.get(trial_id, self.limit)

    def images_planned(self, trial_id: str) -> int:
        """Images at which a trial is evaluated, and of a whole split those that are left out too."""
        extent = self.extent(trial_id)
        return extent + (self.facts.num_skipped if extent == self.facts.num_images else 0)

    @property
    def num_cells(self) -> int:
        """(trial, image, time step) combinations of the whole plan, the ANN's included."""
        return sum(self.extent(trial) * len(steps) for trial, steps in self.work)


def calibration_ids(num_images: int, images: int, seed: int) -> np.ndarray:
    """The image_ids that calibrate, in order, int64 [min(images, num_images)]."""
    return np.random.RandomState(seed).permutation(num_images)[:images].astype(np.int64)


def make_plan(sweep: Sweep, facts: Facts, limit: int | None = None) -> Plan:
    """The plan of a sweep; limit: at most so many images."""
    identity: dict[str, Any] = {"network": sweep.network.label, "weights": facts.weights, "data": facts.data}
    context = _digest({**identity, "engine": ENGINE_VERSION})
    trials = tuple(make_trial(sweep, setting, facts, context) for setting in sweep.settings())
    num_images = facts.num_images if limit is None else min(limit, facts.num_images)
    return Plan(context, facts, trials, sweep.time_steps, num_images, sweep.data.shard_size)


def make_trial(sweep: Sweep, setting: Setting, facts: Facts, context: str) -> Trial:
    """The trial of a setting in the context of a plan."""
    calibration_id = _digest(calibration_recipe(sweep, setting, facts))
    identity = {**setting.identity(), "calibration": calibration_id, "context": context}
    if setting.threshold_file:
        del identity["threshold"]  # the calibration knows what is in it
    return Trial(_digest(identity), calibration_id, setting)


def calibration_recipe(sweep: Sweep, setting: Setting, facts: Facts) -> dict[str, Any]:
    """Everything the thresholds of a setting depend on, and nothing else."""
    if setting.threshold_file:
        given = facts.threshold_files[str(setting.threshold_file)]
        return {"weights": facts.weights, "file": given, "input_scale": setting.input_scale}
    recipe: dict[str, Any] = {
        "weights": facts.weights,
        "data": facts.calibration_data,
        "engine": ENGINE_VERSION,
        "method": setting.threshold,
        "granularity": setting.granularity,
        "input_scale": setting.input_scale,
        "images": sweep.calibration.images,
        "seed": sweep.calibration.seed,
    }
    if setting.rule.kind == "own":
        recipe["source"] = facts.threshold_files[setting.threshold]
    if setting.rule.simulates:
        recipe["encoding"] = sweep.calibration.encoding or setting.encoding
        recipe["time_steps"] = sweep.calibration.time_steps
        recipe["max_pool"] = setting.max_pool
    return recipe


def pending(plan: Plan, done: Iterable[Unit], workers: int = 1, within: tuple[int, int] | None = None) -> list[Unit]:
    """The units that hold every missing cell once and no finished one, in order of position.

    Cells of trials or time steps that are no longer planned do not matter. How units are cut changes no result.

    Args:
        workers: how many share the work; for several of them units are small enough, and get smaller towards the end.
        within: only the cells at positions [start, stop); None: all.
    """
    first, end = within or (0, plan.limit)
    planned = Unit(0, plan.limit, plan.work)
    done = [unit for unit in done if unit.start < plan.limit]
    cells = _Cells([planned, *done], [*_shards(plan, first, end, workers), end, *plan.stopped.values()])
    finished = cells.none()
    for unit in done:
        finished[cells.index(unit)] = True
    for trial, extent in plan.stopped.items():
        for t in plan.time_steps:
            finished[cells.row[trial, t], cells.column[extent] :] = True
    units = []
    for start, stop in itertools.pairwise(cells.bounds[cells.column[first] : cells.column[end] + 1]):
        column = cells.column[start]
        missing = []
        for trial, steps in plan.work:
            if left := tuple(t for t in steps if not finished[cells.row[trial, t], column]):
                missing.append((trial, left))
        trials = [item for item in missing if item[0] != ANN]
        groups = [trials[low : low + TRIALS_PER_UNIT] for low in range(0, len(trials), TRIALS_PER_UNIT)]
        if len(trials) < len(missing):
            groups = [[missing[0], *groups[0]], *groups[1:]] if groups else [missing]
        units += [Unit(start, stop, tuple(group)) for group in groups]
    return units


def _shards(plan: Plan, first: int, end: int, workers: int) -> list[int]:
    """Where the shards of positions [first, end) begin."""
    size = min(plan.shard_size, max(1, UNIT_IMAGE_STEPS // (TRIALS_PER_UNIT * plan.time_steps[-1])))
    if workers > 1:
        trials = sum(plan.extent(trial.trial_id) > first for trial in plan.trials)
        groups = -(-trials // TRIALS_PER_UNIT)
        enough = (end - first) * groups // (workers * UNITS_PER_WORKER)
        size = min(size, max(SMALLEST_SHARD, enough))
    edges, start, tail = [], first, list(TAIL) if workers > 1 else []
    length = size
    while start < end:
        edges.append(start)
        while tail and start - first >= tail[0][0] * (end - first):
            length = min(size, max(SMALLEST_SHARD, size // tail.pop(0)[1]))
        start += length
    return edges


def disjoint(units: Sequence[Unit]) -> list[bool]:
    """Which units to count so that no cell counts twice: larger ones first, a unit with any cell seen before is out."""
    cells = _Cells(units)
    taken = cells.none()
    keep = [False] * len(units)
    for i in sorted(range(len(units)), key=lambda i: (-units[i].num_cells, units[i].start, units[i].work)):
        index = cells.index(units[i])
        if not taken[index].any():
            keep[i] = taken[index] = True
    return keep


class _Cells:
    """(trial, time step) rows x segments of positions between the units' edges."""

    def __init__(self, units: Sequence[Unit], edges: Iterable[int] = ()) -> None:
        self.bounds = sorted({*edges, *(edge for unit in units for edge in (unit.start, unit.stop))})
        self.column = {edge: i for i, edge in enumerate(self.bounds)}
        labels = dict.fromkeys((trial, t) for unit in units for trial, steps in unit.work for t in steps)
        self.row = {label: i for i, label in enumerate(labels)}

    def none(self) -> np.ndarray:
        return np.zeros((len(self.row), len(self.bounds)), dtype=bool)

    def index(self, unit: Unit) -> tuple[np.ndarray, np.ndarray]:
        rows = [self.row[trial, t] for trial, steps in unit.work for t in steps]
        return np.array(rows)[:, None], np.arange(self.column[unit.start], self.column[unit.stop])[None]


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
