"""Trials of one sweep or several side by side, compared image by image wherever they saw the same images.

The functions take tables and return values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rmpsweep.errors import ResultsError
from rmpsweep.formats import joule
from rmpsweep.stats import (
    CONVENTIONS,
    Energy,
    TimeStepsToReach,
    energies,
    fisher,
    holm,
    mcnemar,
    newcombe_interval,
    on_common_images,
    paired_interval,
    time_steps_to_reach,
)
from rmpsweep.stats.common import Cell, correct_by_cell
from rmpsweep.terms import ANN, SETTINGS

PAIRED = "paired by image: exact McNemar test, Bonett-Price interval"
UNPAIRED = "compared as independent samples: exact Fisher test, Newcombe interval"
CHOSEN = "the best trial of each reset was chosen on the images it is compared on, which favours it"


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """The trials of one results directory that take part in a comparison.

    The tables hold at least the rows of these trials. Predictions and activity also hold those of the ANN, if there are
    any.
    """

    data_fingerprint: str
    """The fingerprint of the images."""
    trials: Mapping[str, str]
    """Name of a trial in the comparison -> trial_id."""
    predictions: pa.Table
    summary: pa.Table
    activity: pa.Table
    chosen: bool = False
    """Whether these trials were chosen because they are the best by the results compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """The accuracy of a trial at one T, over all of its images, as a fraction with its 95 % Wilson interval."""

    time_steps: int
    images: int
    accuracy: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedTrial:
    """A trial by itself, over all of its images."""

    name: str
    trial_id: str
    network: str
    dataset: str
    settings: Mapping[str, Any]
    ann_accuracy: float | None
    accuracies: tuple[Accuracy, ...]
    largest_time_steps: int
    """The largest T that the trial reports."""
    reach: TimeStepsToReach | None
    """The T at which the trial has 99 % of the ANN's accuracy; None without predictions of the ANN on its images."""
    synops_per_image: float | None
    """Synops per image up to that T; None if it is not reached."""
    energy_estimates: Mapping[str, Energy]
    """Name of a convention -> the energy up to that T; empty if it is not reached."""

    @property
    def reach_text(self) -> str | None:
        """The T at which the trial has 99 % of the ANN's accuracy, with its 95 % interval, as in "32 (16 to 64)"."""
        if self.reach is None:
            return None
        ends = (self.reach.time_steps, self.reach.low, self.reach.high)
        point, low, high = (f"> {self.largest_time_steps}" if t is None else str(t) for t in ends)
        return f"{point} ({low} to {high})" if low != high else point


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A trial against its baseline at one T."""

    name: str
    baseline: str
    time_steps: int
    paired: bool
    """Whether both accuracies are over the images that both have evaluated; if not, each is over its own images."""
    images: int
    images_baseline: int
    accuracy: float
    accuracy_baseline: float
    difference_points: float
    """Accuracy of the trial minus accuracy of the baseline, in percentage points."""
    ci_low_points: float
    ci_high_points: float
    """The 95 % interval of the difference, in percentage points, for this difference alone."""
    p_value: float
    p_holm: float
    """`p_value`, Holm-adjusted over all differences of the comparison."""

    @property
    def images_text(self) -> str:
        """The number of images, or both numbers if the two are not paired."""
        return f"{self.images:,}" if self.paired else f"{self.images:,} / {self.images_baseline:,}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The result of `compare`."""

    trials: tuple[ComparedTrial, ...]
    """Every trial by itself; those of the first side, which serve as baselines, come first."""
    differences: tuple[Difference, ...]
    """Every trial of the other sides against its baseline, in ascending T."""
    notes: tuple[str, ...]
    """What a reader should know about the comparison."""


@dataclass(frozen=True, slots=True)
class _Contender:
    name: str
    data_fingerprint: str
    reset: str
    cells: Mapping[int, Cell]


def compare(sides: Sequence[Side], at: Sequence[int] = ()) -> Comparison:
    """Compare trials with those of the first side.

    The baseline of a trial is the first side's trial of the same reset, or the first side's first trial if it has none
    of that reset. Two trials are paired if their data are the same and they share images.

    Args:
        sides: the trials to compare, by results directory; at least two.
        at: the T to compare at; by default, all T that a trial and its baseline share.
    Raises:
        ResultsError: a trial and its baseline share no T, or do not share a T in `at`.
    """
    trials, contenders = [], []
    notes = [CHOSEN] if any(side.chosen for side in sides) else []
    for side in sides:
        cells = correct_by_cell(side.predictions)
        for name, trial_id in side.trials.items():
            own = {t: cell for (trial, t), cell in cells.items() if trial == trial_id}
            trial = _trial(name, trial_id, side, own, cells.get((ANN, 0)), at)
            trials.append(trial)
            contenders.append(_Contender(name, side.data_fingerprint, trial.settings["reset"], own))
    first = len(sides[0].trials)
    differences = []
    for contender in contenders[first:]:
        same_reset = [each for each in contenders[:first] if each.reset == contender.reset]
        baseline = (same_reset or contenders)[0]
        found = [_difference(contender, baseline, t) for t in _shared(contender, baseline, at)]
        differences += found
        if not found[0].paired:
            why = "other data" if contender.data_fingerprint != baseline.data_fingerprint else "no image in common"
            notes.append(f"{contender.name} and {baseline.name} have {why}; {UNPAIRED}")
    adjusted = holm([each.p_value for each in differences])
    return Comparison(
        trials=tuple(trials),
        differences=tuple(replace(each, p_holm=float(p)) for each, p in zip(differences, adjusted, strict=True)),
        notes=tuple(notes),
    )


def _shared(contender: _Contender, baseline: _Contender, at: Sequence[int]) -> list[int]:
    shared = sorted(contender.cells.keys() & baseline.cells.keys())
    both = f"{contender.name} and {baseline.name}"
    if not shared:
        theirs = "; ".join(f"{each.name}: {_listed(each.cells)}" for each in (contender, baseline))
        raise ResultsError(f"{both} share no time steps ({theirs}); launch one of them with time steps of the other")
    for t in at:
        if t not in shared:
            raise ResultsError(f"--at: got {t}, expected one of {_listed(shared)}, which {both} share")
    return [t for t in shared if not at or t in at]


def _listed(time_steps: Any) -> str:
    return ", ".join(map(str, sorted(time_steps))) or "none"


def _difference(contender: _Contender, baseline: _Contender, t: int) -> Difference:
    """Compare a trial with its baseline at T; `p_holm` is not adjusted yet, but equal to `p_value`."""
    own, theirs = contender.cells[t], baseline.cells[t]
    paired = False
    if contender.data_fingerprint == baseline.data_fingerprint:
        shared, (right, right_baseline) = on_common_images([own, theirs])
        paired = len(shared) > 0
    if paired:
        only = np.count_nonzero(right & ~right_baseline), np.count_nonzero(right_baseline & ~right)
        low, high = paired_interval(*only, len(shared))
        p_value = mcnemar(right, right_baseline)
    else:
        right, right_baseline = own[1], theirs[1]
        counts = [int(number) for each in (right, right_baseline) for number in (each.sum(), len(each))]
        low, high = newcombe_interval(*counts)
        p_value = fisher(*counts)
    accuracy, accuracy_baseline = float(right.mean()), float(right_baseline.mean())
    return Difference(
        name=contender.name,
        baseline=baseline.name,
        time_steps=t,
        paired=paired,
        images=len(right),
        images_baseline=len(right_baseline),
        accuracy=accuracy,
        accuracy_baseline=accuracy_baseline,
        difference_points=100 * (accuracy - accuracy_baseline),
        ci_low_points=100 * float(low),
        ci_high_points=100 * float(high),
        p_value=p_value,
        p_holm=p_value,
    )


def _trial(
    name: str, trial_id: str, side: Side, cells: Mapping[int, Cell], ann: Cell | None, at: Sequence[int]
) -> ComparedTrial:
    of_trial = side.summary.filter(pc.field("trial_id") == trial_id).sort_by("time_steps")
    rows = of_trial.to_pylist()
    reach = None
    if ann is not None:
        images, correct = on_common_images([*(cells[t] for t in sorted(cells)), ann])
        if len(images):
            reach = time_steps_to_reach(correct[:-1], correct[-1], sorted(cells))
    reached = [row for row in rows if reach is not None and row["time_steps"] == reach.time_steps]
    estimates = {}
    if reached:
        activity = side.activity.filter(pc.is_in(side.activity["trial_id"], pa.array([trial_id, ANN])))
        for key, convention in CONVENTIONS.items():
            estimates[key] = energies(of_trial, activity, convention)[trial_id, reached[0]["time_steps"]]
    return ComparedTrial(
        name=name,
        trial_id=trial_id,
        network=rows[0]["network"],
        dataset=rows[0]["dataset"],
        settings={setting: rows[0][setting] for setting in SETTINGS},
        ann_accuracy=None if ann is None else float(ann[1].mean()),
        accuracies=tuple(
            Accuracy(**{key: row[key] for key in ("time_steps", "images", "accuracy", "ci_low", "ci_high")})
            for row in rows
            if not at or row["time_steps"] in at
        ),
        largest_time_steps=rows[-1]["time_steps"],
        reach=reach,
        synops_per_image=reached[0]["synops_per_image"] if reached else None,
        energy_estimates=estimates,
    )


def energy_text(estimate: Energy | None) -> str | None:
    """The joules of an estimate as text, and those of the ANN if they are known; None without an estimate."""
    if estimate is None:
        return None
    ann = "" if estimate.ann_joule is None else f", ANN {joule(estimate.ann_joule)}"
    return joule(estimate.snn_joule) + ann
