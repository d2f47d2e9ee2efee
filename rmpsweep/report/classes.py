"""What the page says about classes and images: where the best trials lose accuracy, and what most trials get wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rmpsweep.report.differences import Cells, overall_best
from rmpsweep.stats import BestTrial
from rmpsweep.terms import ANN

HARDEST = 24


@dataclass(frozen=True, slots=True)
class ClassAccuracy:
    """Accuracies on the images of one class that the ANN and all best trials have evaluated, fractions in [0, 1]."""

    label: int
    images: int
    """Number of these images."""
    ann: float
    """The ANN's accuracy."""
    trials: Mapping[str, float]
    """Reset -> the accuracy of its best trial."""

    def loss_points(self, reset: str) -> float:
        """The ANN's accuracy minus that of the reset's best trial, in percentage points."""
        return 100 * (self.ann - self.trials[reset])


@dataclass(frozen=True, slots=True)
class HardImage:
    """An image that the ANN classifies correctly and some trials do not."""

    image_id: int
    label: int
    wrong: int
    """How many of `trials` classify the image wrongly at their largest T."""
    trials: int
    """Number of trials that have evaluated the image."""
    predictions: Mapping[str, int]
    """Reset -> the prediction of its best trial at its largest T."""


@dataclass(frozen=True, slots=True)
class _Said:
    """What one trial at one T has predicted: image ids in ascending order, labels and predictions, each [N]."""

    ids: NDArray[Any]
    label: NDArray[Any]
    prediction: NDArray[Any]


def class_accuracies(best: Mapping[str, BestTrial], predictions: pa.Table) -> list[ClassAccuracy]:
    """The accuracies by class, over the images that the ANN and the best trials share, at the trials' largest T.

    The classes in which the best trial overall (`overall_best`) loses most come first.

    Args:
        predictions: must hold the rows of the ANN and of the best trials; other rows are not used.
    """
    said = _said(best, predictions)
    common = said[ANN].ids
    for each in said.values():
        common = np.intersect1d(common, each.ids, assume_unique=True)
    chosen = overall_best(best)
    if chosen is None or not len(common):
        return []
    right = {}
    for name, each in said.items():
        here = np.isin(each.ids, common)
        label = each.label[here]
        right[name] = np.bincount(label, weights=each.prediction[here] == label)
    images = np.bincount(label, minlength=len(right[ANN]))
    found = [
        ClassAccuracy(
            label=int(c),
            images=int(images[c]),
            ann=float(right[ANN][c] / images[c]),
            trials={reset: float(right[reset][c] / images[c]) for reset in best},
        )
        for c in np.flatnonzero(images)
    ]
    reset = chosen.setting.reset
    return sorted(found, key=lambda each: (-each.loss_points(reset), each.label))


def hardest_images(
    best: Mapping[str, BestTrial], largest: Mapping[str, int], predictions: pa.Table, cells: Cells, limit: int = HARDEST
) -> list[HardImage]:
    """The images that the ANN classifies correctly and that the largest share of trials classifies wrongly.

    In partial results, an image counts only if at least half as many trials have evaluated it as any other image.

    Args:
        best: the best trials, whose predictions are returned.
        largest: trial_id -> the T at which the trial counts.
        predictions: must hold the rows of the ANN and of the best trials; other rows are not used.
        cells: from `stats.correct_by_cell`, with the cells of `largest`.
        limit: the largest number of images to return.
    """
    said = _said(best, predictions)
    ids = said[ANN].ids
    wrong, seen = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
    for cell in largest.items():
        if cell in cells:
            images, correct = cells[cell]
            known = np.isin(images, ids)
            at = np.searchsorted(ids, images[known])
            seen[at] += 1
            wrong[at] += ~correct[known]
    wrong[(said[ANN].prediction != said[ANN].label) | (2 * seen < seen.max(initial=0))] = 0
    order = np.lexsort((ids, -wrong, -wrong / np.maximum(seen, 1)))[:limit]
    return [
        HardImage(
            image_id=int(ids[i]),
            label=int(said[ANN].label[i]),
            wrong=int(wrong[i]),
            trials=int(seen[i]),
            predictions={reset: p for reset in best if (p := _prediction(said[reset], ids[i])) is not None},
        )
        for i in order
        if wrong[i]
    ]


def _prediction(said: _Said, image_id: int) -> int | None:
    at = int(np.searchsorted(said.ids, image_id))
    return int(said.prediction[at]) if at < len(said.ids) and said.ids[at] == image_id else None


def _said(best: Mapping[str, BestTrial], predictions: pa.Table) -> dict[str, _Said]:
    """Look up the predictions of the ANN, and of each reset's best trial at its largest T."""
    named: Sequence[tuple[str, str, int]] = [
        (ANN, ANN, 0),
        *((reset, trial.trial_id, trial.time_steps) for reset, trial in best.items()),
    ]
    said = {}
    for name, trial_id, time_steps in named:
        rows = predictions.filter((pc.field("trial_id") == trial_id) & (pc.field("time_steps") == time_steps))
        said[name] = _Said(*(rows[column].to_numpy() for column in ("image_id", "label", "prediction")))
    return said
