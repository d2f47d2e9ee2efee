"""What the page says about differences: is the best trial's lead real, and from which T is it as good as the ANN?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rmpsweep.stats import (
    BestTrial,
    Cell,
    ComparisonWithBest,
    PairedComparison,
    TimeStepsToReach,
    compare_paired,
    compare_with_best,
    on_common_images,
    time_steps_to_reach,
)
from rmpsweep.terms import ANN, SETTINGS

Row = dict[str, Any]
Cells = Mapping[tuple[str, int], Cell]
LEVEL = 0.05
"""A Holm-adjusted p below this level counts as a difference."""


@dataclass(frozen=True, slots=True)
class Rivals:
    """Trials that differ in α alone, compared with the most accurate of them at one T, over the same images."""

    time_steps: int
    images: int
    alphas: Mapping[str, float]
    """trial_id -> α, for all these trials."""
    best: str
    """trial_id of the most accurate one."""
    accuracy: float
    """The accuracy of the most accurate one, a fraction."""
    compared: tuple[ComparisonWithBest, ...]
    """The comparison of every other trial with the most accurate one."""

    @property
    def indistinct(self) -> list[float]:
        """The α that these images cannot tell from the best one, in ascending order."""
        return sorted(self.alphas[each.name] for each in self.compared if each.p_holm >= LEVEL)


def overall_best(best: Mapping[str, BestTrial]) -> BestTrial | None:
    """Choose one of the best trials of the resets; None if there is none.

    The chosen trial comes within 1 percentage point of the ANN at the smallest T. If several do, or none does, it is
    the one of them with the highest accuracy at its largest T.
    """
    return min(
        best.values(),
        key=lambda trial: (trial.time_steps_within_1pt or float("inf"), -trial.final_accuracy),
        default=None,
    )


def decisive_time_steps(trial: BestTrial) -> int:
    """The T that decides how good a trial is: the first T within 1 point of the ANN, or else its largest T."""
    return trial.time_steps_within_1pt or trial.time_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class ResetComparison:
    """The comparison of the best trials of two resets on the same images."""

    first: str
    """A reset."""
    other: str
    """Another reset."""
    at: Sequence[PairedComparison]
    """First minus other at every T that both report; there is at least one."""


def compare_resets(best: Mapping[str, BestTrial], predictions: pa.Table) -> list[ResetComparison]:
    """Compare the best trial of the first reset with that of every other reset, if they have images in common.

    The first reset is the first one of `best`, which is soft if there are trials with soft reset.
    """
    rows = {reset: predictions.filter(pc.field("trial_id") == trial.trial_id) for reset, trial in best.items()}
    first, *others = rows or [""]
    compared = [(other, compare_paired(rows[first], rows[other])) for other in others]
    return [ResetComparison(first=first, other=other, at=at) for other, at in compared if at]


def reach_ann(trial: BestTrial, cells: Cells) -> TimeStepsToReach | None:
    """The T at which a trial reaches 99 % of the ANN's accuracy; None if the two share no image.

    Args:
        cells: from `stats.correct_by_cell`, with (ANN, 0) and every T of the trial.
    """
    steps = sorted(t for trial_id, t in cells if trial_id == trial.trial_id)
    if not steps or (ANN, 0) not in cells:
        return None
    ids, correct = on_common_images([*(cells[trial.trial_id, t] for t in steps), cells[ANN, 0]])
    return time_steps_to_reach(correct[:-1], correct[-1], steps) if len(ids) else None


def rivals(trial: BestTrial, rows: Sequence[Row], cells: Cells) -> Rivals | None:
    """Compare the trials that differ from this one in at most α, at the `decisive_time_steps` of this trial.

    Of these trials, only those with the most images take part. The result is None if they are fewer than two, or if
    they share no image.

    Args:
        rows: the rows of the summary.
        cells: from `stats.correct_by_cell`.
    """
    time_steps = decisive_time_steps(trial)
    alike = {
        row["trial_id"]: row["alpha"]
        for row in rows
        if row["time_steps"] == time_steps
        and (row["trial_id"], time_steps) in cells
        and all(row[name] == getattr(trial.setting, name) for name in SETTINGS if name != "alpha")
    }
    images = {trial_id: len(cells[trial_id, time_steps][0]) for trial_id in alike}
    alike = {trial_id: a for trial_id, a in alike.items() if images[trial_id] == max(images.values())}
    if len(alike) < 2:
        return None
    ids, correct = on_common_images([cells[trial_id, time_steps] for trial_id in alike])
    if not len(ids):
        return None
    compared = compare_with_best(correct, [*alike])
    accuracy = float(np.max(correct.mean(axis=1)))
    return Rivals(time_steps, len(ids), alike, compared[0].best, accuracy, tuple(compared))
