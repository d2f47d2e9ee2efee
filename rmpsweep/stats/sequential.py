"""Evidence, gathered as images come in, that a rival classifies more of all images correctly than a trial does.

The images come in a random order, and nothing else is random. Somebody who begins with a wealth of 1 bets on every
image that, over the images that are left, the rival does better than it would if both trials were equally accurate over
all N images. If the trial is at least as accurate as the rival, such bets are not expected to win. Their wealth is then
a supermartingale, which ever exceeds 1 / δ with probability at most δ (Ville 1939); whoever uses this chooses δ. If the
trial is not worse, it must catch up with a lead of the rival on the images that are left. The fewer are left, the less
likely that is, and the more a bet wins.

Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (2024), section 5, sampling
without replacement.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHRINKAGE = 4.0
"""When a stake is chosen, this is added to the number of images that exactly one of the two classified correctly, which
keeps early stakes small."""
LARGEST_STAKE = 0.9
"""The largest share of the wealth that a bet can lose on the next image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Defeat:
    """A trial was shown to be worse than a rival at one T."""

    time_steps: int
    rival: str
    """The trial_id of the rival."""
    images: int
    """The number of images it took to show this."""
    difference_points: float
    """Accuracy of the rival minus accuracy of the trial over these images, in percentage points."""
    odds: float | None
    """The largest wealth that an initial 1 bet on the rival grew to; None if the trial could no longer catch up."""


def bet_against(
    rival: NDArray[np.bool_], trials: NDArray[np.bool_], start: int, num_images: int, log_wealth: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bet, image by image, that the rival is more accurate over all images than each trial.

    A stake depends only on earlier images. The rival may therefore be another trial in the next call, provided that the
    choice uses only the results on images before `start`; the wealth of a trial then counts against the claim that it
    is at least as accurate as every one of these rivals.

    Args:
        rival: [M], whether the rival classified each of the first M images correctly, M <= num_images.
        trials: [K, M], the same for each trial.
        start: the image at which bets begin, start < M; the images before it inform the stakes and what is expected.
        num_images: N, the size of the finite set.
        log_wealth: [K], the natural logarithm of the wealth before `start`.
    Returns:
        The log-wealth after M images, and its maximum over the images from `start` to M, both [K]. Both are infinite if
        the trial could not catch up with the rival even by being the only one right on every image left.
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
