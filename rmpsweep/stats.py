"""Statistics over results: intervals, paired tests, time steps to accuracy, best trials, Pareto front.

Knows tables and arrays only. Accuracies are fractions in [0, 1]; differences are in percentage points and say so.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

RESETS = ("soft", "hard")
SETTINGS = (
    "threshold",
    "granularity",
    "alpha",
    "alpha_scope",
    "reset",
    "encoding",
    "input_scale",
    "v_init",
    "max_pool",
    "seed",
    "numerics",
)


def varying_settings(rows: Iterable[Mapping[str, Any]], apart_from: Sequence[str] = ()) -> list[str]:
    """The settings that take more than one value in rows of the summary."""
    rows = list(rows)
    return [name for name in SETTINGS if name not in apart_from and len({row[name] for row in rows}) > 1]


def wilson_interval(
    correct: ArrayLike, images: ArrayLike, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson score interval of an accuracy, elementwise.

    Args:
        correct: number of images classified correctly, [*], 0 <= correct <= images.
        images: number of images, [*], at least 1.
        confidence: coverage aimed at, in (0, 1).
    Returns:
        Lower and upper bound as fractions, [*]; 0-d for scalars. The observed accuracy always lies between them.
    Source: Wilson 1927; Brown, Cai and DasGupta 2001.
    """
    n = np.asarray(images, dtype=np.float64)
    p = np.asarray(correct, dtype=np.float64) / n
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half_width = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return np.clip(centre - half_width, 0, p), np.clip(centre + half_width, p, 1)


def mcnemar(correct_a: NDArray[np.bool_], correct_b: NDArray[np.bool_]) -> float:
    """Exact two-sided McNemar test that a and b are equally accurate.

    Only images that exactly one of them classifies correctly carry information; under equality each of these falls to
    either side with probability 1/2, so p is that of a binomial test. 1.0 when there are none.

    Args:
        correct_a: [N], whether a classified image i correctly.
        correct_b: [N], the same images in the same order.
    Source: McNemar 1947; exact form as in Fagerland, Lydersen and Laake 2013.
    """
    from scipy.stats import binomtest

    a_only = int(np.sum(correct_a & ~correct_b))
    b_only = int(np.sum(correct_b & ~correct_a))
    return float(binomtest(a_only, a_only + b_only).pvalue) if a_only + b_only else 1.0


def paired_interval(
    a_only: ArrayLike, b_only: ArrayLike, images: ArrayLike, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interval of the accuracy of a minus that of b over the same images, elementwise.

    Wald interval with one image more counted in each discordant cell: it has width even where a and b agree on every
    image.

    Args:
        a_only: images that only a classifies correctly, [*]; b_only: those that only b does, [*].
        images: number of images, [*], at least a_only + b_only and 1.
        confidence: coverage aimed at, in (0, 1).
    Returns:
        Lower and upper bound as fractions in [-1, 1], [*]; 0-d for scalars.
    Source: Bonett and Price 2012; recommended by Fagerland, Lydersen and Laake 2014.
    """
    n = np.asarray(images, dtype=np.float64) + 2
    a, b = ((np.asarray(only, dtype=np.float64) + 1) / n for only in (a_only, b_only))
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    half_width = z * np.sqrt((a + b - (a - b) ** 2) / n)
    return np.clip(a - b - half_width, -1, 1), np.clip(a - b + half_width, -1, 1)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm-adjusted p values, [K] in the order given: the family-wise error rate is held over the K tests.

    The i-th smallest (i = 0, 1, ...) is multiplied by K - i, then raised to the largest before it and capped at 1.
    Source: Holm 1979.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedComparison:
    """Trial a against trial b at one T, over the images both have evaluated."""

    time_steps: int
    images: int
    accuracy_a: float
    accuracy_b: float
    difference_points: float
    """Accuracy of a minus accuracy of b, in percentage points."""
    p_value: float
    """Exact McNemar, two-sided."""
    p_holm: float
    """The same, Holm-adjusted over all compared T."""


def compare_paired(a: pa.Table, b: pa.Table) -> list[PairedComparison]:
    """Compare two trials image by image, at every T both report, in ascending T.

    Args:
        a: rows of the predictions table of one trial (image_id, time_steps, correct).
        b: rows of the other trial.
    Returns:
        One comparison per T for which the two share images; empty when they share none.
    """
    correct_a, correct_b = _correct_by_time_steps(a), _correct_by_time_steps(b)
    pairs = {}
    for time_steps in sorted(correct_a.keys() & correct_b.keys()):
        (ids_a, all_a), (ids_b, all_b) = correct_a[time_steps], correct_b[time_steps]
        common, at_a, at_b = np.intersect1d(ids_a, ids_b, assume_unique=True, return_indices=True)
        if len(common):
            pairs[time_steps] = (all_a[at_a], all_b[at_b])
    p_values = [mcnemar(*pair) for pair in pairs.values()]
    return [
        PairedComparison(
            time_steps=time_steps,
            images=len(in_a),
            accuracy_a=float(in_a.mean()),
            accuracy_b=float(in_b.mean()),
            difference_points=100 * (int(in_a.sum()) - int(in_b.sum())) / len(in_a),
            p_value=p_value,
            p_holm=float(p_holm),
        )
        for (time_steps, (in_a, in_b)), p_value, p_holm in zip(pairs.items(), p_values, holm(p_values), strict=True)
    ]


def _correct_by_time_steps(rows: pa.Table) -> dict[int, tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """T -> image ids [N] and whether each was classified correctly [N]."""
    image_id, time_steps, correct = (rows[name].to_numpy() for name in ("image_id", "time_steps", "correct"))
    return {int(t): (image_id[time_steps == t], correct[time_steps == t]) for t in np.unique(time_steps)}


def time_steps_within(counts: Mapping[int, tuple[int, int]], ann_accuracy: float, points: float = 1.0) -> int | None:
    """Smallest reported T at which accuracy >= ann_accuracy - points / 100; None when there is none.

    Accuracy may drop below again at a larger T; the first T still counts.

    Args:
        counts: T -> (correct, images).
        ann_accuracy: fraction in [0, 1].
        points: distance allowed, in percentage points.
    """
    return min(
        (t for t, (correct, images) in counts.items() if _within(correct, images, ann_accuracy, points)), default=None
    )


def _within(correct: int, images: int, ann_accuracy: float, points: float) -> bool:
    """Compare counts; one millionth of an image of slack keeps rounding of the fractions from deciding."""
    return correct + points / 100 * images >= ann_accuracy * images - 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class BestTrial:
    """The best trial of one reset: its settings and its results at the largest T."""

    trial_id: str
    threshold: str
    granularity: str
    alpha: float
    alpha_scope: str
    reset: str
    encoding: str
    input_scale: float
    v_init: float
    max_pool: str
    seed: int
    numerics: str
    time_steps: int
    """The largest T reported."""
    images: int
    time_steps_within_1pt: int | None
    """Smallest reported T at most 1 percentage point below the ANN; None when there is none."""
    final_accuracy: float
    ci_low: float
    ci_high: float
    ann_accuracy: float
    firing_rate: float
    synops_per_image: float
    synops_within_1pt: float | None
    """Synops per image up to `time_steps_within_1pt`."""


def best_trials(summary: pa.Table) -> dict[str, BestTrial]:
    """The best trial of each reset, by reset, "soft" first; a reset without rows is left out.

    Only trials that report the largest T of their reset take part.

    1. Trials that end (at the largest T) at most 1 percentage point below the ANN come before those that do not.
    2. Of these, the one that came within 1 point at the smallest T; ties by higher mean accuracy over the reported T,
       then by trial_id.
    3. If none ends within 1 point: the highest accuracy at the largest T, ties likewise.

    Args:
        summary: one row per (trial, T).
    """
    best = {}
    for reset in RESETS:
        rows = [row for row in summary.to_pylist() if row["reset"] == reset]
        trials: dict[str, list[dict[str, Any]]] = {}
        for row in sorted(rows, key=lambda row: row["time_steps"]):
            trials.setdefault(row["trial_id"], []).append(row)
        largest = max((row["time_steps"] for row in rows), default=0)
        ranked = [trial for trial in trials.values() if trial[-1]["time_steps"] == largest]
        if ranked:
            best[reset] = _best_trial(min(ranked, key=_rank))
    return best


def _rank(trial: Sequence[Mapping[str, Any]]) -> tuple[bool, float, float, str]:
    """Sort key of a trial (its rows in ascending T), best first."""
    last, first = trial[-1], _first_within(trial)
    ties = (-fmean(row["accuracy"] for row in trial), last["trial_id"])
    if first is not None and _within(last["correct"], last["images"], last["ann_accuracy"], points=1.0):
        return False, first, *ties
    return True, -last["accuracy"], *ties


def _first_within(trial: Sequence[Mapping[str, Any]]) -> int | None:
    counts = {row["time_steps"]: (row["correct"], row["images"]) for row in trial}
    return time_steps_within(counts, trial[-1]["ann_accuracy"])


def _best_trial(trial: Sequence[Mapping[str, Any]]) -> BestTrial:
    last = trial[-1]
    within = _first_within(trial)
    synops = {row["time_steps"]: row["synops_per_image"] for row in trial}
    return BestTrial(
        trial_id=last["trial_id"],
        **{name: last[name] for name in SETTINGS},
        time_steps=last["time_steps"],
        images=last["images"],
        time_steps_within_1pt=within,
        final_accuracy=last["accuracy"],
        ci_low=last["ci_low"],
        ci_high=last["ci_high"],
        ann_accuracy=last["ann_accuracy"],
        firing_rate=last["firing_rate"],
        synops_per_image=last["synops_per_image"],
        synops_within_1pt=None if within is None else synops[within],
    )


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (accuracy, cost) that no other point beats, in ascending cost.

    A point is beaten by one that is at least as accurate and at most as costly, and strictly better in one of the two;
    equal points stand together.
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][1], -points[i][0])):
        if not front or points[index][0] > points[front[-1]][0] or points[index] == points[front[-1]]:
            front.append(index)
    return front
