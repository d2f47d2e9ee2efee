"""Two trials on the same images."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray


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
