"""Bets on the more accurate of two trials, held to exact enumeration: every order of a small set of images."""

import itertools
import math

import numpy as np
import pytest

from rmpsweep.stats.sequential import bet_against

NONE = np.zeros(1)


def orders(wins: int, losses: int, ties: int) -> list[tuple[int, ...]]:
    """Every order of the images that the rival alone (1), the trial alone (-1), or both (0) classify correctly."""
    return sorted(set(itertools.permutations([1] * wins + [-1] * losses + [0] * ties)))


def both(order) -> tuple[np.ndarray, np.ndarray]:
    """Correctness of rival [N] and trial [1, N]."""
    difference = np.array(order)
    return difference >= 0, (difference <= 0)[None]


def final_and_highest(order, starts=(1,)):
    rival, trial = both(order)
    wealth, highest = NONE, -np.inf
    for start, stop in itertools.pairwise([*starts, len(order)]):
        wealth, top = bet_against(rival[:stop], trial[:, :stop], start, len(order), wealth)
        highest = max(highest, top[0])
    return math.exp(wealth[0]), math.exp(highest)


@pytest.mark.parametrize(("wins", "losses", "ties"), [(2, 2, 2), (3, 3, 1), (1, 1, 5)])
def test_between_equals_the_mean_wealth_over_every_order_is_exactly_one(wins, losses, ties):
    found = [final_and_highest(order, starts)[0] for order in orders(wins, losses, ties) for starts in ((1,), (2, 4))]
    assert np.mean(found) == pytest.approx(1, abs=1e-12)
    assert max(found) > 1.2, "no order in which anything was staked"


@pytest.mark.parametrize(("wins", "losses", "ties"), [(2, 3, 1), (1, 4, 2), (0, 3, 2)])
def test_against_a_better_trial_the_mean_wealth_is_at_most_one(wins, losses, ties):
    assert np.mean([final_and_highest(order)[0] for order in orders(wins, losses, ties)]) <= 1


@pytest.mark.parametrize("bar", [1.25, 1.5, 2.0, 3.0])
def test_wealth_ever_reaches_a_bar_in_at_most_one_over_bar_of_the_orders(bar):
    reached = np.mean([final_and_highest(order)[1] >= bar for order in orders(3, 3, 1)])
    assert reached <= 1 / bar
    assert reached > 0 or bar > 2


def test_a_rival_that_is_always_right_wins_soon_and_a_lead_larger_than_what_is_left_is_certain():
    rival, trial = both([1] * 100)
    wealth, _ = bet_against(rival[:20], trial[:, :20], 1, 100, NONE)
    assert math.log(20) < wealth[0] < math.inf
    assert bet_against(rival[:50], trial[:, :50], 1, 100, NONE)[0][0] < math.inf
    assert bet_against(rival[:51], trial[:, :51], 1, 100, NONE)[0][0] == math.inf


def test_bets_can_be_continued_and_do_not_depend_on_other_trials():
    generator = np.random.default_rng(0)
    rival, trials = generator.random(300) < 0.8, generator.random((5, 300)) < 0.7
    at_once, highest = bet_against(rival, trials, 10, 400, np.zeros(5))
    first, top = bet_against(rival[:77], trials[:, :77], 10, 400, np.zeros(5))
    second, later = bet_against(rival, trials, 77, 400, first)
    np.testing.assert_allclose(second, at_once, rtol=1e-12)
    np.testing.assert_allclose(np.maximum(top, later), highest, rtol=1e-12)
    for k in range(5):
        alone, _ = bet_against(rival, trials[k : k + 1], 10, 400, np.zeros(1))
        assert alone[0] == at_once[k]
