"""The number of time steps that a trial takes to reach an accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SLACK = 1e-6
"""A tolerance in images, which keeps the rounding of fractions from deciding a comparison of counts."""


def time_steps_within(counts: Mapping[int, tuple[int, int]], ann_accuracy: float, points: float = 1.0) -> int | None:
    """The smallest reported T at which accuracy >= ann_accuracy - points / 100; None if there is no such T.

    The accuracy may fall below that again at a larger T; the first T still counts.

    Args:
        counts: T -> (correct, images).
        ann_accuracy: the accuracy of the ANN, a fraction in [0, 1].
        points: the distance allowed, in percentage points.
    """
    return min(
        (t for t, (correct, images) in counts.items() if is_within(correct, images, ann_accuracy, points)), default=None
    )


def is_within(correct: int, images: int, ann_accuracy: float, points: float) -> bool:
    """Whether an accuracy is at most `points` percentage points below the ANN's, with `SLACK`."""
    return correct + points / 100 * images >= ann_accuracy * images - SLACK


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeStepsToReach:
    """The smallest reported T at which a trial has a fraction of the ANN's accuracy, with the interval of that T.

    None stands for a T beyond the largest reported one.
    """

    fraction: float
    """The fraction of the ANN's accuracy to reach."""
    time_steps: int | None
    """None if the fraction was not reached."""
    low: int | None
    """None if fewer of the resamples than the lower tail (2.5 % for 95 % confidence) reach the fraction."""
    high: int | None
    """None if the interval is open above."""


def time_steps_to_reach(
    correct: NDArray[np.bool_],
    ann_correct: NDArray[np.bool_],
    time_steps: Sequence[int],
    fraction: float = 0.99,
    confidence: float = 0.95,
    resamples: int = 1_000,
    seed: int = 0,
) -> TimeStepsToReach:
    """The smallest reported T with accuracy >= fraction x the ANN's accuracy on the same images, with its interval.

    The accuracy may fall below that again at a larger T; the first T still counts. The interval is a bootstrap: images
    are drawn with replacement, each with its correctness at every T and for the ANN. The bounds are percentiles of the
    T found in the resamples, and are reported T themselves.

    Args:
        correct: [T, N], whether image i is classified correctly at each reported T, with N at least 1.
        ann_correct: [N], whether the ANN classifies it correctly, for the same images in the same order.
        time_steps: the reported T, ascending.
        confidence: the intended coverage, in (0, 1).
    Source: percentile bootstrap, Efron and Tibshirani 1993, chapter 13.
    """
    images = len(ann_correct)
    together = np.packbits(np.vstack([correct, ann_correct]), axis=0)
    packed, counts = np.unique(together, axis=1, return_counts=True)
    patterns = np.unpackbits(packed, axis=0, count=len(time_steps) + 1).T.astype(np.float64)
    rng = np.random.default_rng(seed)
    resampled = np.stack([rng.multinomial(images, counts / images) @ patterns for _ in range(resamples)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(_first_reached(resampled, fraction), (tail, 1 - tail), method="inverted_cdf")
    found = _first_reached(counts @ patterns, fraction)
    ends = [*map(int, time_steps), None]
    return TimeStepsToReach(fraction=fraction, time_steps=ends[int(found)], low=ends[int(low)], high=ends[int(high)])


def _first_reached(counts: NDArray[np.float64], fraction: float) -> NDArray[np.int64]:
    """The index of the first T that reaches the fraction, or else the number of T, [*].

    Args:
        counts: [*, T + 1], the numbers of correct images at each T and, last, of the ANN.
    """
    reached = counts >= fraction * counts[..., -1:] - SLACK
    reached[..., -1] = True
    first: NDArray[np.int64] = np.argmax(reached, axis=-1)
    return first
