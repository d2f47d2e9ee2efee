from math import comb

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from rmpsweep.stats import (
    best_trials,
    compare_paired,
    holm,
    mcnemar,
    paired_interval,
    pareto_front,
    time_steps_within,
    wilson_interval,
)
from rmpsweep.terms import Setting
from tests.helpers.summary_rows import summary_row

COUNTS = [(0, 1), (1, 1), (0, 500), (3, 500), (250, 500), (499, 500), (500, 500), (36_815, 50_000)]


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_interval_agrees_with_scipy(confidence):
    correct, images = np.transpose(COUNTS)
    low, high = wilson_interval(correct, images, confidence)
    for i, (k, n) in enumerate(COUNTS):
        expected = binomtest(k, n).proportion_ci(confidence, method="wilson")
        assert (low[i], high[i]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_interval_of_nothing_and_of_everything_has_its_closed_form():
    z2 = 1.959963984540054**2
    assert wilson_interval(0, 10) == (0, pytest.approx(z2 / (10 + z2)))
    assert wilson_interval(10, 10) == (pytest.approx(10 / (10 + z2)), 1)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_accuracy_and_mirrors(counts):
    correct, images = counts
    low, high = wilson_interval(correct, images)
    assert 0 <= low <= correct / images <= high <= 1
    mirrored_low, mirrored_high = wilson_interval(images - correct, images)
    assert (1 - mirrored_high, 1 - mirrored_low) == pytest.approx((low, high))


def test_wilson_interval_covers_the_true_accuracy_as_often_as_it_says():
    rng = np.random.default_rng(0)
    accuracy = rng.uniform(size=20_000)
    low, high = wilson_interval(rng.binomial(200, accuracy), 200)
    covered = np.mean((low <= accuracy) & (accuracy <= high))
    assert covered == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 20_000))


def correct_on(both: int, a_only: int, b_only: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = [True] * (both + a_only) + [False] * (b_only + neither)
    b = [True] * both + [False] * a_only + [True] * b_only + [False] * neither
    return np.array(a, dtype=bool), np.array(b, dtype=bool)


@pytest.mark.parametrize(
    ("a_only", "b_only", "expected"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (0, 5, 2 / 2**5),
        (6, 0, 2 / 2**6),
        (1, 7, 2 * (1 + 8) / 2**8),
        (3, 3, 1.0),
        (2, 8, 2 * (1 + 10 + 45) / 2**10),
    ],
)
def test_mcnemar_equals_the_binomial_tail_and_ignores_concordant_images(a_only, b_only, expected):
    assert mcnemar(*correct_on(0, a_only, b_only, 0)) == pytest.approx(expected)
    assert mcnemar(*correct_on(40, a_only, b_only, 11)) == pytest.approx(expected)
    assert mcnemar(*correct_on(40, b_only, a_only, 11)) == pytest.approx(expected)


def test_mcnemar_rejects_equal_trials_no_more_often_than_its_level():
    rng = np.random.default_rng(1)
    p_values = [mcnemar(*(rng.random((2, 60)) < 0.7)) for _ in range(1_000)]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.05


def test_holm_equals_an_example_worked_by_hand():
    # Sorted: 0.005·4 = 0.02, 0.01·3 = 0.03, 0.03·2 = 0.06, 0.04·1 = 0.04 raised to 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p_values):
    adjusted = holm(p_values)
    assert np.all(adjusted >= p_values)
    assert np.all(adjusted <= 1)
    assert adjusted.min() == min(1, len(p_values) * min(p_values))
    in_order = adjusted[np.argsort(p_values, kind="stable")]
    assert np.all(np.diff(in_order) >= 0)


def predictions(correct: dict[int, dict[int, bool]]) -> pa.Table:
    """Rows of one trial from T -> image_id -> correct."""
    rows = [(t, image, ok) for t, images in correct.items() for image, ok in images.items()]
    time_steps, image_id, ok = zip(*rows, strict=True)
    return pa.table({"time_steps": pa.array(time_steps, pa.int32()), "image_id": image_id, "correct": ok})


def test_compare_paired_pairs_by_image_whatever_the_order_and_adjusts_over_time_steps():
    a = predictions({8: dict.fromkeys(range(10), True), 16: dict.fromkeys(range(6), True), 32: {0: True}})
    b = predictions({16: {i: i > 4 for i in reversed(range(8))}, 8: {i: i < 4 for i in range(10)}})
    at_8, at_16 = compare_paired(a, b)
    assert (at_8.time_steps, at_8.images, at_8.accuracy_a, at_8.accuracy_b) == (8, 10, 1.0, 0.4)
    assert at_8.difference_points == pytest.approx(60)
    low, high = paired_interval(6, 0, 10)
    assert (at_8.ci_low_points, at_8.ci_high_points) == pytest.approx((100 * low, 100 * high))
    assert (at_8.p_value, at_8.p_holm) == pytest.approx((2 / 2**6, 4 / 2**6))
    assert (at_16.time_steps, at_16.images, at_16.accuracy_b) == (16, 6, pytest.approx(1 / 6))
    assert (at_16.p_value, at_16.p_holm) == pytest.approx((2 / 2**5, 2 / 2**5))


def test_compare_paired_without_a_common_image_is_empty():
    assert compare_paired(predictions({8: {0: True}}), predictions({8: {1: True}, 16: {0: True}})) == []


@pytest.mark.parametrize(
    ("counts", "ann_correct", "images", "points", "expected"),
    [
        ({8: 300, 16: 374, 32: 376}, 380, 500, 1.0, 32),
        ({8: 300, 16: 375, 32: 376}, 380, 500, 1.0, 16),
        ({32: 376, 16: 375, 8: 300}, 380, 500, 1.0, 16),
        ({8: 374, 16: 374}, 380, 500, 1.0, None),
        ({8: 380, 16: 100}, 380, 500, 1.0, 8),
        ({8: 379}, 380, 500, 0.0, None),
        ({8: 380}, 380, 500, 0.0, 8),
        ({8: 99}, 100, 128, 1.0, 8),
        ({8: 98}, 100, 128, 1.0, None),
        ({}, 100, 128, 1.0, None),
    ],
)
def test_time_steps_within_is_the_smallest_t_that_reaches(counts, ann_correct, images, points, expected):
    counts = {t: (correct, images) for t, correct in counts.items()}
    assert time_steps_within(counts, ann_correct / images, points) == expected


def test_time_steps_within_is_not_decided_by_rounding():
    for images in (100, 300, 500, 10_000, 50_000):
        for ann_correct in range(images // 100, images + 1, max(1, images // 500)):
            exactly_1_point = ann_correct - images // 100
            assert time_steps_within({8: (exactly_1_point, images)}, ann_correct / images) == 8
            assert time_steps_within({8: (exactly_1_point - 1, images)}, ann_correct / images) is None


def summary(trials: dict[str, tuple[str, dict[int, int]]]) -> pa.Table:
    """Rows from trial_id -> (reset, T -> correct), of 1,000 images; the ANN has 900."""
    return pa.Table.from_pylist(
        [
            summary_row(trial_id, t, correct, 1_000, reset=reset, alpha=0.8, synops_per_image=5.0 * t)
            for trial_id, (reset, counts) in trials.items()
            for t, correct in counts.items()
        ]
    )


@pytest.mark.parametrize(
    ("trials", "best", "time_steps"),
    [
        ({"a": {8: 500, 16: 899}, "b": {8: 890, 16: 890}}, "b", 8),
        ({"a": {8: 895, 16: 889}, "b": {8: 100, 16: 890}}, "b", 16),
        ({"a": {8: 890, 16: 890}, "b": {8: 890, 16: 891}}, "b", 8),
        ({"b": {8: 890, 16: 895}, "a": {8: 890, 16: 895}}, "a", 8),
        ({"a": {8: 895, 16: 800}, "b": {8: 100, 16: 801}}, "b", None),
        ({"a": {8: 200, 16: 800}, "b": {8: 300, 16: 800}}, "b", None),
        ({"a": {8: 895}, "b": {8: 100, 16: 100}}, "b", None),
    ],
    ids=[
        "earliest within 1 point",
        "must end within 1 point",
        "tie: higher mean accuracy",
        "tie: trial_id",
        "none ends within: highest at the largest T",
        "none ends within, tie: higher mean accuracy",
        "must report the largest T",
    ],
)
def test_best_trials_follows_its_rule(trials, best, time_steps):
    found = best_trials(summary({trial_id: ("hard", counts) for trial_id, counts in trials.items()}))
    assert list(found) == ["hard"]
    assert found["hard"].trial_id == best
    assert found["hard"].time_steps_within_1pt == time_steps


def test_best_trials_reports_settings_and_results_of_each_reset():
    table = summary({"h": ("hard", {8: 100, 16: 300}), "s": ("soft", {8: 890, 16: 900})})
    found = best_trials(table)
    assert list(found) == ["soft", "hard"]
    assert (found["soft"].setting, found["soft"].time_steps) == (Setting(alpha=0.8), 16)
    assert (found["soft"].final_accuracy, found["soft"].synops_per_image, found["soft"].synops_within_1pt) == (
        0.9,
        80,
        40,
    )
    assert (found["hard"].final_accuracy, found["hard"].synops_within_1pt) == (0.3, None)
    assert best_trials(table.slice(0, 0)) == {}


def test_best_trials_passes_over_trials_with_fewer_images():
    rows = summary({"few": ("soft", {8: 900, 16: 900}), "all": ("soft", {8: 700, 16: 880})}).to_pylist()
    for row in rows:
        row["images"] = 1_000 if row["trial_id"] == "all" else 999
    assert best_trials(pa.Table.from_pylist(rows))["soft"].trial_id == "all"


def test_pareto_front_of_a_hand_worked_example():
    points = [(0.5, 1.0), (0.4, 2.0), (0.9, 4.0), (0.7, 2.0), (0.7, 3.0), (0.7, 2.0), (0.6, 1.0)]
    assert pareto_front(points) == [6, 3, 5, 2]
    assert pareto_front([]) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_pareto_front_keeps_exactly_the_points_that_no_other_beats(points):
    def beats(p, q):
        return p != q and p[0] >= q[0] and p[1] <= q[1]

    expected = {i for i, q in enumerate(points) if not any(beats(p, q) for p in points)}
    assert set(pareto_front(points)) == expected
    costs = [points[i][1] for i in pareto_front(points)]
    assert costs == sorted(costs)


def test_mcnemar_tail_equals_the_sum_of_binomial_coefficients():
    for n in range(1, 30):
        for k in range(n // 2 + 1):
            tail = sum(comb(n, i) for i in range(k + 1)) / 2**n
            assert mcnemar(*correct_on(0, k, n - k, 0)) == pytest.approx(min(1, 2 * tail))
