"""Comparisons of trials on the same images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from rmpsweep.stats.intervals import paired_interval


def mcnemar(correct_a: NDArray[np.bool_], correct_b: NDArray[np.bool_]) -> float:
    """The p value of the exact two-sided McNemar test that a and b are equally accurate.

    Only images that exactly one of the two classifies correctly carry information. If a and b are equally accurate,
    each of these falls to either side with probability 1/2, so p is that of a binomial test; it is 1.0 if there are no
    such images.

    Args:
        correct_a: [N], whether a classified image i correctly.
        correct_b: [N], the same images in the same order.
    Source: McNemar 1947; exact form as in Fagerland, Lydersen and Laake 2013.
    """
    return float(_mcnemar(*_discordant(correct_a, correct_b)))


def _discordant(correct_a: NDArray[np.bool_], correct_b: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The numbers of images that only a and that only b classifies correctly, counted along the last axis."""
    return np.sum(correct_a & ~correct_b, axis=-1), np.sum(correct_b & ~correct_a, axis=-1)


def _mcnemar(a_only: ArrayLike, b_only: ArrayLike) -> NDArray[np.float64]:
    """The p value of `mcnemar`, elementwise: both tails of a binomial distribution with probability 1/2."""
    from scipy.special import bdtr

    fewer, both = np.minimum(a_only, b_only), np.add(a_only, b_only)
    tail: NDArray[np.float64] = bdtr(fewer, both, 0.5)
    return np.minimum(1.0, 2 * tail)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Adjust p values by Holm's method, [K] in the order given, to hold the family-wise error rate over the K tests.

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
    """Trial a against trial b at one T, over the images that both have evaluated."""

    time_steps: int
    images: int
    accuracy_a: float
    accuracy_b: float
    difference_points: float
    """Accuracy of a minus accuracy of b, in percentage points."""
    ci_low_points: float
    ci_high_points: float
    """The 95 % interval of the difference (`paired_interval`), in percentage points, at this T alone."""
    p_value: float
    """From the exact two-sided McNemar test."""
    p_holm: float
    """`p_value`, Holm-adjusted over all T compared."""


def compare_paired(a: pa.Table, b: pa.Table) -> list[PairedComparison]:
    """Compare two trials image by image at every T that both report, in ascending T.

    Args:
        a: the rows of one trial in the predictions table (image_id, time_steps, correct).
        b: the rows of the other trial.
    Returns:
        One comparison for each T at which the two share images; empty if they share none.
    """
    correct_a, correct_b = _correct_by_time_steps(a), _correct_by_time_steps(b)
    pairs = {}
    for time_steps in sorted(correct_a.keys() & correct_b.keys()):
        (ids_a, all_a), (ids_b, all_b) = correct_a[time_steps], correct_b[time_steps]
        common, at_a, at_b = np.intersect1d(ids_a, ids_b, assume_unique=True, return_indices=True)
        if len(common):
            pairs[time_steps] = (all_a[at_a], all_b[at_b])
    counts = np.array([_discordant(*pair) for pair in pairs.values()]).reshape(-1, 2)
    images = np.array([len(in_a) for in_a, _ in pairs.values()])
    compared = _compared(counts[:, 0], counts[:, 1], images)
    return [
        PairedComparison(
            time_steps=time_steps,
            images=len(in_a),
            accuracy_a=float(in_a.mean()),
            accuracy_b=float(in_b.mean()),
            **values,
        )
        for (time_steps, (in_a, in_b)), values in zip(pairs.items(), compared, strict=True)
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonWithBest:
    """A trial against the most accurate trial at one T, over the same images."""

    name: str
    best: str
    accuracy: float
    difference_points: float
    """Accuracy of the trial minus accuracy of the best, in percentage points: never above 0."""
    ci_low_points: float
    ci_high_points: float
    """The 95 % interval of the difference (`paired_interval`), in percentage points, for this trial alone."""
    p_value: float
    """From the exact two-sided McNemar test."""
    p_holm: float
    """`p_value`, Holm-adjusted over all trials compared."""


def compare_with_best(correct: NDArray[np.bool_], names: Sequence[str]) -> list[ComparisonWithBest]:
    """Compare every trial with the most accurate one on the same images.

    The best trial is chosen on the same images on which it is then compared, which favours it. Its accuracy and its
    lead are optimistic, the more so the more trials there are and the closer they lie, and the p values are too small.
    They tell which trials these images cannot distinguish from the best; estimating the lead itself takes images that
    had no part in the choice.

    Args:
        correct: [K, N], whether each trial classified image i correctly, with N at least 1; see `on_common_images`.
        names: the names of the trials, [K].
    Returns:
        One comparison for each trial but the best, in the order given; of equally accurate trials the first is best.
    """
    accuracy = correct.mean(axis=1)
    best = int(accuracy.argmax())
    others = [k for k in range(len(names)) if k != best]
    compared = _compared(*_discordant(correct[others], correct[best]), correct.shape[1])
    return [
        ComparisonWithBest(name=names[k], best=names[best], accuracy=float(accuracy[k]), **values)
        for k, values in zip(others, compared, strict=True)
    ]


def _compared(a_only: NDArray[Any], b_only: NDArray[Any], images: ArrayLike) -> list[dict[str, float]]:
    """The differences, intervals and p values of K comparisons, from their numbers of discordant images, [K]."""
    low, high = paired_interval(a_only, b_only, images)
    p_values = _mcnemar(a_only, b_only)
    columns = {
        "difference_points": 100 * (a_only - b_only) / np.asarray(images),
        "ci_low_points": 100 * low,
        "ci_high_points": 100 * high,
        "p_value": p_values,
        "p_holm": holm(p_values),
    }
    return [dict(zip(columns, row, strict=True)) for row in np.transpose(list(columns.values())).tolist()]


def _correct_by_time_steps(rows: pa.Table) -> dict[int, tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """T -> image ids [N] and whether each was classified correctly [N]."""
    image_id, time_steps, correct = (rows[name].to_numpy() for name in ("image_id", "time_steps", "correct"))
    return {int(t): (image_id[time_steps == t], correct[time_steps == t]) for t in np.unique(time_steps)}
