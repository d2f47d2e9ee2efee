"""Numbers as people read them: what rounds up to the next unit is written in that unit."""

import pytest

from rmpsweep.formats import duration, joule, p_value, quantity
from rmpsweep.report.formats import FILTERS, NO_BREAK


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (12, "12"),
        (999.4, "999"),
        (999.7, "1.00 k"),
        (1_234, "1.23 k"),
        (12_345, "12.3 k"),
        (999_400, "999 k"),
        (999_700, "1.00 M"),
        (1_234_567, "1.23 M"),
        (999.6e9, "1.00 T"),
        (25e15, "2.50e+04 T"),
    ],
)
def test_a_quantity_has_three_digits_and_a_suffix(number, text):
    assert quantity(number) == text
    assert FILTERS["quantity"](number) == text.replace(" ", NO_BREAK)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 J"),
        (1.5, "1.50 J"),
        (0.9997, "1.00 J"),
        (0.00123, "1.23 mJ"),
        (999.7e-6, "1.00 mJ"),
        (999.4e-6, "999 µJ"),
        (4.2e-11, "42.0 pJ"),
        (2e-14, "2e-14 J"),
    ],
)
def test_an_energy_has_three_digits_and_a_unit(number, text):
    assert joule(number) == text
    assert FILTERS["joule"](number) == text.replace(" ", NO_BREAK)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3_599.6, "1 h 0 min"),
        (3_725, "1 h 2 min"),
        (90_000, "25 h 0 min"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("p", "text"), [(0.0009999, "< 0.001"), (0.001, "0.001"), (0.0421, "0.042"), (1.0, "1.000")])
def test_a_p_value_has_three_decimals(p, text):
    assert p_value(p) == FILTERS["p_value"](p) == text
