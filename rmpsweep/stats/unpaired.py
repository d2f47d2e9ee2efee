"""Comparisons of two trials on different images."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rmpsweep.stats.intervals import wilson_interval


def newcombe_interval(
    correct_a: ArrayLike, images_a: ArrayLike, correct_b: ArrayLike, images_b: ArrayLike, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The interval of the accuracy of a minus the accuracy of b over independent images, elementwise.

    Args:
        correct_a, correct_b: the number of images that a and b classify correctly, [*].
        images_a, images_b: the number of images that a and b were evaluated on, [*], at least 1.
        confidence: the intended coverage, in (0, 1).
    Returns:
        The lower and the upper bound as fractions in [-1, 1], [*]; 0-d for scalars.
    Source: Newcombe 1998, method 10: the distances to the bounds of both Wilson intervals, added as squares.
    """
    a, b = (np.asarray(c, np.float64) / np.asarray(n) for c, n in ((correct_a, images_a), (correct_b, images_b)))
    low_a, high_a = wilson_interval(correct_a, images_a, confidence)
    low_b, high_b = wilson_interval(correct_b, images_b, confidence)
    low, high = np.hypot(a - low_a, high_b - b), np.hypot(high_a - a, b - low_b)
    return a - b - low, a - b + high


def fisher(correct_a: int, images_a: int, correct_b: int, images_b: int) -> float:
    """The p value of the exact two-sided Fisher test that a and b are equally accurate on independent images.

    Source: Fisher 1935.
    """
    from scipy.stats import fisher_exact

    return float(fisher_exact([[correct_a, images_a - correct_a], [correct_b, images_b - correct_b]]).pvalue)
