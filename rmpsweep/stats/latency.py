"""Time steps that an accuracy takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SLACK = 1e-6
"""Images; keeps rounding of fractions from deciding a comparison of counts."""


def time_steps_within(counts: Mapping[int, tuple[int, int]], ann_accuracy: float, points: float = 1.0) -> int | None:
    """Smallest reported T at which accuracy >= ann_accuracy - points / 100; None when there is none.

    Accuracy may drop below again at a larger T; the first T still counts.

    Args:
        counts: T -> (correct, images).
        ann_accuracy: fraction in [0, 1].
        points: distance allowed, in percentage points.
    """
    return min(
        (t for t, (correct, images) in counts.items() if is_within(correct, images, ann_accuracy, points)), default=None
    )


def is_within(correct: int, images: int, ann_accuracy: float, points: float) -> bool:
    """Compare counts, with `SLACK`."""
    return correct + points / 100 * images >= ann_accuracy * images - SLACK


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeStepsToReach:
    """The smallest reported T at which a trial has `fraction` of the ANN's accuracy, with its interval.

    None stands for beyond the largest reported T: `time_steps` None was not reached, `high` None is open above, `low`
    None says that it is not reached in all but a tail of the resamples.
    """

    fraction: float
    time_steps: int | None
    low: int | None
    high: int | None


def time_steps_to_reach(
    correct: NDArray[np.bool_],
    ann_correct: NDArray[np.bool_],
    time_steps: Sequence[int],
    fraction: float = 0.99,
    confidence: float = 0.95,
    resamples: int = 1_000,
    seed: int = 0,
) -> TimeStepsToReach:
    """Smallest reported T with accuracy >= fraction x that of the ANN on the same images, with a bootstrap interval.

    Accuracy may drop below again at a larger T; the first T still counts. Images are drawn with replacement, each with
    all it says at every T and of the ANN; the bounds are percentiles of the T so found, and are reported T themselves.

    Args:
        correct: [T, N], whether image i is classified correctly at each reported T, N at least 1.
        ann_correct: [N], whether the ANN does, the same images in the same order.
        time_steps: the reported T, ascending.
        confidence: coverage aimed at, in (0, 1).
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
    """Correct images at each T and of the ANN, [*, T + 1] -> index of the first T that reaches, or T, [*]."""
    reached = counts >= fraction * counts[..., -1:] - SLACK
    reached[..., -1] = True
    first: NDArray[np.int64] = np.argmax(reached, axis=-1)
    return first
