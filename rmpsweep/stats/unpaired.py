"""Two trials on different images."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmpsweep.stats.intervals import wilson_interval


def newcombe_interval(
    correct_a: ArrayLike, images_a: ArrayLike, correct_b: ArrayLike, images_b: ArrayLike, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interval of the accuracy of a minus that of b over independent images, elementwise.

    Args:
        correct_a, correct_b: images classified correctly, [*]; images_a, images_b: of so many, [*], at least 1.
        confidence: coverage aimed at, in (0, 1).
    Returns:
        Lower and upper bound as fractions in [-1, 1], [*]; 0-d for scalars.
    Source: Newcombe 1998, method 10: the Wilson intervals of both, joined as squares.
    """
    a, b = (np.asarray(c, np.float64) / np.asarray(n) for c, n in ((correct_a, images_a), (correct_b, images_b)))
    low_a, high_a = wilson_interval(correct_a, images_a, confidence)
    low_b, high_b = wilson_interval(correct_b, images_b, confidence)
    low, high = np.hypot(a - low_a, high_b - b), np.hypot(high_a - a, b - low_b)
    return a - b - low, a - b + high


def fisher(correct_a: int, images_a: int, correct_b: int, images_b: int) -> float:
    """Exact two-sided Fisher test that a and b are equally accurate on independent images. Source: Fisher 1935."""
    from scipy.stats import fisher_exact

    return float(fisher_exact([[correct_a, images_a - correct_a], [correct_b, images_b - correct_b]]).pvalue)
