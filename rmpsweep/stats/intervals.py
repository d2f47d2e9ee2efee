"""Confidence intervals of accuracies and of differences between accuracies."""

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray


def wilson_interval(
    correct: ArrayLike, images: ArrayLike, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The Wilson score interval of an accuracy, elementwise.

    Args:
        correct: the number of images classified correctly, [*], 0 <= correct <= images.
        images: the number of images, [*], at least 1.
        confidence: the intended coverage, in (0, 1).
    Returns:
        The lower and the upper bound as fractions, [*]; 0-d for scalars. The observed accuracy is always between them.
    Source: Wilson 1927; Brown, Cai and DasGupta 2001.
    """
    n = np.asarray(images, dtype=np.float64)
    p = np.asarray(correct, dtype=np.float64) / n
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half_width = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return np.clip(centre - half_width, 0, p), np.clip(centre + half_width, p, 1)


def paired_interval(
    a_only: ArrayLike, b_only: ArrayLike, images: ArrayLike, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The interval of the accuracy of a minus the accuracy of b over the same images, elementwise.

    This is the Wald interval with one more image counted in each discordant cell, so that it has width even if a and b
    agree on every image.

    Args:
        a_only: the number of images that only a classifies correctly, [*].
        b_only: the number of images that only b classifies correctly, [*].
        images: the number of images, [*], at least a_only + b_only and 1.
        confidence: the intended coverage, in (0, 1).
    Returns:
        The lower and the upper bound as fractions in [-1, 1], [*]; 0-d for scalars.
    Source: Bonett and Price 2012; recommended by Fagerland, Lydersen and Laake 2014.
    """
    n = np.asarray(images, dtype=np.float64) + 2
    a, b = ((np.asarray(only, dtype=np.float64) + 1) / n for only in (a_only, b_only))
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    half_width = z * np.sqrt((a + b - (a - b) ** 2) / n)
    return np.clip(a - b - half_width, -1, 1), np.clip(a - b + half_width, -1, 1)
