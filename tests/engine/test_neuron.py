"""The neuron laws of the design, in exact rational arithmetic where they are exact."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmpsweep.engine.neuron import step, step_
from rmpsweep.terms import RESETS

BITS = 6
dyadic = st.integers(-(2**BITS), 2**BITS).map(lambda k: Fraction(k, 2**BITS))
unit = st.integers(0, 2**BITS).map(lambda k: Fraction(k, 2**BITS))
power = st.sampled_from([Fraction(1, 2), Fraction(1), Fraction(3, 2)])


def run(currents, threshold, v, reset):
    """float64 trace of one neuron: spikes, potential at the end; exact because everything is dyadic."""
    v = torch.tensor([float(v)], dtype=torch.float64)
    spikes = []
    for z in currents:
        s, v = step(torch.tensor([float(z)], dtype=torch.float64), v, float(threshold), reset)
        spikes.append(int(s.item()))
    return spikes, Fraction(v.item())


@given(st.lists(dyadic, min_size=1, max_size=40), power, unit)
@settings(max_examples=200, deadline=None)
def test_law_1_charge_is_conserved_under_soft_reset(currents, threshold, v_init):
    spikes, v = run(currents, threshold, v_init, "soft")
    assert sum(currents) == threshold * sum(spikes) + v - v_init


@given(unit, unit, st.integers(1, 60))
@settings(max_examples=200, deadline=None)
def test_law_2_closed_form_for_constant_input(z, v_init, steps):
    threshold = Fraction(1)
    if v_init == 1:
        v_init = Fraction(0)
    spikes, _ = run([z] * steps, threshold, v_init, "soft")
    assert sum(spikes) == math.floor((steps * z + v_init) / threshold)


def test_law_3_rate_error_is_below_threshold_over_T_and_falls_with_slope_minus_one():
    rng = np.random.default_rng(0)
    threshold = 0.7
    z = torch.tensor(rng.uniform(0, threshold, 2000))
    v, count, errors = torch.zeros_like(z), torch.zeros_like(z), {}
    for t in range(1, 1025):
        s, v = step(z, v, threshold, "soft")
        count += s
        if t >= 4 and t & (t - 1) == 0:
            error = (count / t * threshold - z).abs()
            # θ/T plus the rounding of t additions in float64
            assert bool((error < threshold / t + t * 2**-52).all()), t
            errors[t] = float(error.mean())
    slope = np.polyfit(np.log(list(errors)), np.log(list(errors.values())), 1)[0]
    assert slope == pytest.approx(-1, abs=0.02)


@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_law_4_fires_at_exactly_the_threshold(reset):
    spikes, v = run([Fraction(1, 2), Fraction(1, 2)], 1, 0, reset)
    assert (spikes, v) == ([0, 1], 0)


@given(st.integers(1, 2**BITS), st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_law_5_hard_reset_is_the_staircase(k, periods):
    z = Fraction(k, 2**BITS)
    period = math.ceil(1 / z)
    spikes, _ = run([z] * (period * periods), 1, 0, "hard")
    assert spikes == ([0] * (period - 1) + [1]) * periods


def test_five_steps_by_hand():
    currents = [Fraction(3, 4), Fraction(3, 4), Fraction(-1, 2), Fraction(5, 4), Fraction(9, 4)]
    # soft: u = 3/4, 3/2*, 0, 5/4*, 5/2*  -> v = 3/4, 1/2, 0, 1/4, 3/2;  hard: v = 3/4, 0, -1/2, 3/4, 0
    assert run(currents, 1, 0, "soft") == ([0, 1, 0, 1, 1], Fraction(3, 2))
    assert run(currents, 1, 0, "hard") == ([0, 1, 0, 0, 1], Fraction(0))


def test_unknown_reset_names_the_allowed_ones():
    with pytest.raises(ValueError, match="'softt', expected one of 'soft', 'hard'"):
        step(torch.zeros(1), torch.zeros(1), 1.0, "softt")  # type: ignore[arg-type]


def test_in_place_step_refuses_an_unknown_reset():
    with pytest.raises(AssertionError, match="softt"):
        step_(torch.zeros(1), torch.zeros(1), 1.0, "softt")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reset", RESETS)
def test_in_place_step_equals_the_reference_bit_for_bit(reset, dtype):
    generator = torch.Generator().manual_seed(0)
    threshold = torch.rand(1, 50, 1, generator=generator, dtype=dtype) + 0.1
    v = torch.randn(20, 50, 30, generator=generator, dtype=dtype)
    v[0, 0, 0] = float("inf")
    in_place = v.clone()
    for _ in range(10):
        z = torch.randn(v.shape, generator=generator, dtype=dtype)
        before = z.clone()
        spikes, v = step(z, v, threshold, reset)
        assert torch.equal(step_(z, in_place, threshold, reset), spikes)
        torch.testing.assert_close(in_place, v, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(z, before)
