"""Which of two trials classifies more of a finite set of images correctly, decided while the images come in.

The images come in a random order, and only that is random. Were a trial at least as accurate as its rival over all N
images, the rival could not be expected to win money betting that the next image is one that only it classifies
correctly: the wealth of such bets is a supermartingale, and exceeds 1 / δ at any time with probability at most δ (Ville
1939). What is left to draw is known to the last image, so the bets gain on it as the images run out.

Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (2024), section 5, sampling
without replacement.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHRINKAGE = 4.0
"""Images that speak for neither side, added to those seen when a stake is chosen."""
LARGEST_STAKE = 0.9
"""Of the wealth, in the worst case of the next image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Defeat:
    """A trial was shown to be worse than a rival at one T."""

    time_steps: int
    rival: str
    """trial_id."""
    images: int
    """How many images it took to show that."""
    difference_points: float
    """Accuracy of the rival minus the trial's own over these images, in percentage points."""
    odds: float | None
    """What a bet of 1 on the rival had come to at its best; None where the trial could not catch up any more."""


def bet_against(
    rival: NDArray[np.bool_], trials: NDArray[np.bool_], start: int, num_images: int, log_wealth: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bet, image by image, that the rival is more accurate over all images than each trial.

    Stakes follow from the images before, so the rival may be chosen anew at each `start` by what came before it.

    Args:
        rival: [M], whether the rival classified the first M images correctly, M <= num_images.
        trials: [K, M], the same of each trial.
        start: bets begin at this image; those before it inform the stakes alone.
        num_images: N, of the finite set.
        log_wealth: [K], natural logarithm of the wealth before `start`.
    Returns:
        Log-wealth after M images and its maximum over images `start` to M, both [K]. Infinite where the trial could no
        longer catch up with the rival if it alone were right on every image left.
    """
    difference = rival.astype(np.int8) - trials.astype(np.int8)
    wins, losses = ((difference == sign).cumsum(1) for sign in (1, -1))
    wins, losses = (np.pad(counts, ((0, 0), (1, 0))) for counts in (wins, losses))
    seen = np.arange(start, len(rival))
    lead = (wins - losses)[:, start:-1]
    expected = -lead / (num_images - seen)
    stakes = (lead - seen * expected) / ((wins + losses)[:, start:-1] + SHRINKAGE)
    stakes = np.clip(stakes, 0.0, LARGEST_STAKE / np.maximum(1 + expected, LARGEST_STAKE / 1e6))
    gains = np.log1p(stakes * (difference[:, start:] - expected))
    path = log_wealth[:, None] + gains.cumsum(1)
    decided = wins[:, -1] - losses[:, -1] > num_images - len(rival)
    last = np.where(decided, np.inf, path[:, -1])
    return last, np.where(decided, np.inf, path.max(1))
