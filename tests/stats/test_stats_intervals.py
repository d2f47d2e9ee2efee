"""Intervals and tests of accuracies: against SciPy and statsmodels, exact laws, and the coverage they promise."""

import numpy as np
import pytest
from scipy.stats import binom, norm
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from rmpsweep.stats import compare_with_best, holm, mcnemar, paired_interval, time_steps_to_reach, wilson_interval


def tables(seed: int, count: int, most: int = 3_000) -> np.ndarray:
    """Random tables: both right, only a, only b, neither; at least one image. [count, 4]."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.multinomial(rng.integers(1, most), rng.dirichlet([1, 0.3, 0.3, 1])) for _ in range(count)])


def answers(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correctness of a and b whose counts are those of the table."""
    return np.repeat([True, True, False, False], table), np.repeat([True, False, True, False], table)


def test_wilson_interval_equals_statsmodels():
    rng = np.random.default_rng(0)
    images = rng.integers(1, 60_000, size=300)
    correct = rng.binomial(images, rng.uniform(size=300))
    for confidence in (0.8, 0.95, 0.999):
        expected = proportion_confint(correct, images, alpha=1 - confidence, method="wilson")
        assert np.allclose(wilson_interval(correct, images, confidence), expected, rtol=0, atol=1e-9)


def test_mcnemar_equals_statsmodels():
    for table in tables(1, 200):
        expected = statsmodels_mcnemar(table.reshape(2, 2), exact=True).pvalue
        assert mcnemar(*answers(table)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.slow
def test_holm_equals_statsmodels():
    rng = np.random.default_rng(2)
    for size in (1, 2, 7, 200):
        p_values = rng.beta(0.2, 1, size=size).round(3)  # rounded: some are equal
        assert np.allclose(holm(p_values), multipletests(p_values, method="holm")[1], rtol=0, atol=1e-9)


def test_paired_interval_is_that_of_the_mean_difference_with_two_more_images():
    for table in tables(3, 100):
        a, b = answers(table)
        differences = np.concatenate([a.astype(float) - b, [1, -1]])
        half_width = norm.ppf(0.95) * differences.std() / np.sqrt(len(differences))
        expected = np.clip([differences.mean() - half_width, differences.mean() + half_width], -1, 1)
        assert np.allclose(paired_interval(table[1], table[2], table.sum(), 0.9), expected, rtol=0, atol=1e-9)


def binomial_error(runs: int) -> float:
    """4 standard errors of a share of 95 %."""
    return 4 * np.sqrt(0.95 * 0.05 / runs)


def test_paired_interval_covers_the_true_difference_as_often_as_it_says():
    rng = np.random.default_rng(7)
    shares = rng.dirichlet([1, 1, 8], size=20_000)
    drawn = rng.multinomial(400, shares)
    low, high = paired_interval(drawn[:, 0], drawn[:, 1], 400)
    difference = shares[:, 0] - shares[:, 1]
    assert np.mean((low <= difference) & (difference <= high)) == pytest.approx(0.95, abs=binomial_error(20_000))


@pytest.mark.slow
def test_time_steps_to_reach_covers_the_true_one_as_often_as_it_says():
    """T of a fine grid, so that bounds are hardly rounded outwards; accuracy rises and crosses 0.9 x 0.8 at T = 31."""
    rng, time_steps, covered = np.random.default_rng(9), range(1, 61), []
    accuracy = 0.5703 + 0.005 * np.arange(60)
    true = 1 + int(np.argmax(accuracy >= 0.9 * 0.8))
    assert true == 31
    for run in range(400):
        ann, hardness = rng.random(400) < 0.8, rng.random(400)
        found = time_steps_to_reach(hardness < accuracy[:, None], ann, time_steps, 0.9, resamples=200, seed=run)
        covered.append((found.low or 61) <= true <= (found.high or 61))
    assert np.mean(covered) == pytest.approx(0.95, abs=binomial_error(400))


def test_time_steps_to_reach_is_the_first_t_and_says_where_it_is_open():
    ann = np.repeat([True, False], [90, 10])
    right = [np.arange(100) < n for n in (60, 81, 70, 90)]
    found = time_steps_to_reach(np.array(right), ann, (4, 8, 16, 32), fraction=0.9)
    assert (found.fraction, found.time_steps, found.low, found.high) == (0.9, 8, 8, 32)
    assert time_steps_to_reach(np.array(right), ann, (4, 8, 16, 32), fraction=0.91).time_steps == 32
    never = time_steps_to_reach(np.array(right[:1]), ann, (4,))
    assert (never.time_steps, never.low, never.high) == (None, None, None)
    perhaps = time_steps_to_reach(np.array(right[:2]), ann, (4, 8), fraction=0.9)
    assert (perhaps.time_steps, perhaps.low, perhaps.high) == (8, 8, None)
    assert time_steps_to_reach(np.array([ann]), ann, (4,), fraction=1.01).time_steps is None
    assert time_steps_to_reach(np.array(right), ann, (4, 8, 16, 32), fraction=0.9) == found


def test_time_steps_to_reach_has_quantiles_of_the_exact_law_of_resamples():
    """An ANN that is always right, images that stay right: resamples reach by T where a binomial count is enough."""
    images, resamples, tail, time_steps = 60, 2_000, 0.05, np.arange(1, 31)
    by = binom.sf(47, images, (30 + time_steps) / images)
    error = 5 * np.sqrt(tail * (1 - tail) / resamples)
    right = np.arange(images) < (30 + time_steps)[:, None]
    found = time_steps_to_reach(right, np.ones(images, dtype=bool), time_steps.tolist(), 0.8, 1 - 2 * tail, resamples)
    assert found.time_steps == 18
    for bound, share in ((found.low, tail), (found.high, 1 - tail)):
        assert bound is not None
        assert by[bound - 1] >= share - error
        assert by[bound - 2] <= share + error


def test_time_steps_to_reach_draws_each_image_with_all_it_says():
    """The trial is right exactly where the ANN is: whichever images are drawn, it has all of the ANN's accuracy."""
    ann = np.random.default_rng(10).random(300) < 0.6
    found = time_steps_to_reach(np.stack([ann & False, ann]), ann, (8, 16), fraction=1.0)
    assert (found.time_steps, found.low, found.high) == (16, 16, 16)


def test_compare_with_best_tests_every_trial_against_it():
    rng = np.random.default_rng(11)
    correct = rng.random((6, 500)) < np.array([0.6, 0.8, 0.83, 0.9, 0.7, 0.9])[:, None]
    correct[5] = correct[3]
    names = list("abcdef")
    found = compare_with_best(correct, names)
    assert [each.name for each in found] == list("abcef")
    assert {each.best for each in found} == {"d"}
    for each, row in zip(found, correct[[0, 1, 2, 4, 5]], strict=True):
        assert each.accuracy == row.mean()
        assert each.difference_points == pytest.approx(100 * (row.mean() - correct[3].mean()))
        assert each.p_value == pytest.approx(mcnemar(row, correct[3]), rel=1e-9)
        a_only, b_only = np.sum(row & ~correct[3]), np.sum(correct[3] & ~row)
        low, high = paired_interval(a_only, b_only, 500)
        assert (each.ci_low_points, each.ci_high_points) == pytest.approx((100 * low, 100 * high))
    adjusted = multipletests([each.p_value for each in found], method="holm")[1]
    assert [each.p_holm for each in found] == pytest.approx(adjusted.tolist(), rel=1e-9)
    assert found[-1].p_value == 1
    assert compare_with_best(correct[:1], names[:1]) == []
