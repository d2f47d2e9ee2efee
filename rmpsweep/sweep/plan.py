"""The plan of a sweep: trials times images, cut into units of work, and which of them are missing.

No file is read or written here. Images are numbered by their position in a fixed permutation, so that any limit is a
fair sample, and a smaller limit takes a part of a larger one's images. Work is counted in cells (trial, position, time
step), so finished cells stay finished under another grouping, a longer grid, one more T or a larger limit.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rmpsweep.sweep.schema import Sweep
from rmpsweep.terms import ANN, ENGINE_VERSION, GRID_VERSION, Setting, on_grid

ANN_TIME_STEPS = (0,)
TRIALS_PER_UNIT = 8
"""The largest number of trials in a unit; the ANN is not counted."""
UNIT_IMAGE_STEPS = 2**18
"""The largest number of image-steps in a unit, and so what is lost with a worker. A single image may take more."""
UNITS_PER_WORKER = 8
"""With several workers, shards are small enough for at least this many units per worker, down to SMALLEST_SHARD."""
TAIL = ((0.75, 2), (0.93, 4), (0.975, 8))
"""From each of these fractions of the images on, shards are smaller by this divisor, so that workers end together."""
SMALLEST_SHARD = 8
"""The number of images below which neither UNITS_PER_WORKER nor TAIL makes shards smaller."""


@dataclass(frozen=True)
class Facts:
    """What the results depend on besides the settings in the sweep file."""

    weights: str
    """SHA-256 (hex) of the weights file; the digest of the recipe while the weights are untrained."""
    data_fingerprint: str
    """The fingerprint of the evaluated split."""
    calibration_fingerprint: str
    """The fingerprint of the calibration split."""
    num_images: int
    """The number of images in the evaluated split."""
    num_calibration_images: int
    """The number of images in the calibration split."""
    threshold_files: Mapping[str, str] = field(default_factory=dict)
    """Path of a threshold file -> SHA-256 of its thresholds; "package.module:function" of a rule from outside the
    package -> SHA-256 of the source of its module."""
    num_skipped: int = 0
    """The number of images, not counted in num_images, that are left out because they cannot be decoded."""


@dataclass(frozen=True)
class Trial:
    """One setting with its identity."""

    trial_id: str
    """A digest of the setting and of everything that its results depend on (16 hex digits)."""
    calibration_id: str
    """A digest of everything that its thresholds depend on (16 hex digits)."""
    setting: Setting


@dataclass(frozen=True)
class Unit:
    """A unit of work: the images at positions [start, stop) under some trials."""

    start: int
    stop: int
    work: tuple[tuple[str, tuple[int, ...]], ...]
    """(trial_id, time steps) for each trial; for the ANN, the time step is 0."""

    def unit_id(self, context: str) -> str:
        """Return the name of the unit, a digest of what it computes (16 hex digits)."""
        return _digest({"context": context, **asdict(self)})

    @property
    def cells(self) -> dict[str, int]:
        """trial_id -> the number of its cells, (image, time step) combinations."""
        return {trial: (self.stop - self.start) * len(steps) for trial, steps in self.work}

    @property
    def num_cells(self) -> int:
        """The number of cells, (trial, image, time step) combinations."""
        return (self.stop - self.start) * sum(len(steps) for _, steps in self.work)

    @property
    def image_steps(self) -> int:
        """The cost of the unit: for each trial, its images times its largest T, added up. The ANN costs nothing."""
        return (self.stop - self.start) * sum(max(steps) for _, steps in self.work)


@dataclass(frozen=True)
class Plan:
    """Everything that is to be computed."""

    context: str
    """A digest that identifies network, weights, data and engine (16 hex digits)."""
    facts: Facts
    trials: tuple[Trial, ...]
    time_steps: tuple[int, ...]
    """The T at which every trial is read out, ascending."""
    limit: int
    """The number of images evaluated: those at positions [0, limit)."""
    shard_size: int
    """The largest number of images in a shard."""
    stopped: Mapping[str, int] = field(default_factory=dict)
    """trial_id -> the number of images evaluated, for trials that a search has stopped (`pipeline.search`)."""

    @property
    def work(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """(trial_id, time steps) of the ANN, which comes first, and of every trial."""
        return ((ANN, ANN_TIME_STEPS), *((trial.trial_id, self.time_steps) for trial in self.trials))

    def extent(self, trial_id: str) -> int:
        """Return how many images a trial, or the ANN, is evaluated on: those at positions [0, extent)."""
        return self.stopped.get(trial_id, self.limit)

    def images_planned(self, trial_id: str) -> int:
        """Return the images planned for a trial. On a whole split, they include the images that cannot be decoded."""
        extent = self.extent(trial_id)
        return extent + (self.facts.num_skipped if extent == self.facts.num_images else 0)

    @property
    def num_cells(self) -> int:
        """The number of cells, (trial, image, time step) combinations, of the whole plan with the ANN."""
        return sum(self.extent(trial) * len(steps) for trial, steps in self.work)


def calibration_ids(num_images: int, images: int, seed: int) -> np.ndarray:
    """Return the ids of the images to calibrate on, in order, int64 [min(images, num_images)]."""
    return np.random.RandomState(seed).permutation(num_images)[:images].astype(np.int64)


def make_plan(sweep: Sweep, facts: Facts, limit: int | None = None) -> Plan:
    """Make the plan of a sweep; `limit` is the largest number of images to evaluate, None for all."""
    identity: dict[str, Any] = {
        "network": sweep.network.label,
        "weights": facts.weights,
        "data": facts.data_fingerprint,
    }
    context = _digest({**identity, "engine": ENGINE_VERSION})
    trials = tuple(make_trial(sweep, setting, facts, context) for setting in sweep.settings())
    num_images = facts.num_images if limit is None else min(limit, facts.num_images)
    return Plan(context, facts, trials, sweep.time_steps, num_images, sweep.data.shard_size)


def make_trial(sweep: Sweep, setting: Setting, facts: Facts, context: str) -> Trial:
    """Make the trial of a setting in the context of a plan."""
    calibration_id = _digest(calibration_recipe(sweep, setting, facts))
    identity = {**setting.identity(), "calibration": calibration_id, "context": context}
    if sweep.network.module is not None and on_grid(setting.numerics):
        identity["grid"] = GRID_VERSION
    if setting.threshold_file:
        del identity["threshold"]  # the calibration_id covers the contents of the file
    return Trial(_digest(identity), calibration_id, setting)


def calibration_recipe(sweep: Sweep, setting: Setting, facts: Facts) -> dict[str, Any]:
    """Return everything that the thresholds of a setting depend on, and nothing else."""
    if setting.threshold_file:
        given = facts.threshold_files[str(setting.threshold_file)]
        return {"weights": facts.weights, "file": given, "input_scale": setting.input_scale}
    recipe: dict[str, Any] = {
        "weights": facts.weights,
        "data": facts.calibration_fingerprint,
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
    """Cut the missing cells into units, in order of position.

    Each missing cell is in exactly one unit, and no finished cell is in any. Finished cells of trials or
    time steps that are not planned are ignored. How units are cut changes no result.

    Args:
        done: the units that are finished.
        workers: how many workers share the work. For several workers units are made small, so that as many workers as
            possible are busy; in the last quarter of the positions that are cut (those of `within`, or all of them)
            units become smaller still. For these two reasons, no shard is made smaller than SMALLEST_SHARD images.
        within: restricts the units to the cells at positions [start, stop), stop <= plan.limit; None takes all cells.
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
    """Return the positions at which the shards of [first, end) begin."""
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
    """Return for each unit whether to count it, so that no cell counts twice.

    Larger units are taken first. A unit is left out if a unit taken before it has any of its cells.
    """
    cells = _Cells(units)
    taken = cells.none()
    keep = [False] * len(units)
    for i in sorted(range(len(units)), key=lambda i: (-units[i].num_cells, units[i].start, units[i].work)):
        index = cells.index(units[i])
        if not taken[index].any():
            keep[i] = taken[index] = True
    return keep


class _Cells:
    """The cells of units as a matrix: rows are (trial, time step), columns the positions between two edges of units."""

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
