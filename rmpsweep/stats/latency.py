"""Time steps that an accuracy takes."""

from collections.abc import Mapping


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
    """Compare counts; one millionth of an image of slack keeps rounding of the fractions from deciding."""
    return correct + points / 100 * images >= ann_accuracy * images - 1e-6
