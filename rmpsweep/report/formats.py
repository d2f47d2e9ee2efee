"""How the page writes numbers."""

from collections.abc import Callable
from typing import Any

NO_BREAK = "\N{NO-BREAK SPACE}"
_LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_SMALL = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"))


def quantity(number: float) -> str:
    """Three significant digits with an SI suffix: 1234567 -> "1.23 M"."""
    for power, suffix in _LARGE:
        if number >= 0.9995 * power:
            return _three_digits(number / power) + NO_BREAK + suffix
    return f"{number:.3g}"


def joule(number: float) -> str:
    """Three significant digits with an SI unit: 0.00123 -> "1.23 mJ"."""
    for power, prefix in _SMALL:
        if number >= 0.9995 * power:
            return f"{_three_digits(number / power)}{NO_BREAK}{prefix}J"
    return f"{number:.3g}{NO_BREAK}J"


def _three_digits(number: float) -> str:
    return f"{number:#.3g}".removesuffix(".")


def _signed(points: float) -> str:
    return "0.00" if abs(points) < 0.005 else f"{points:+.2f}".replace("-", "−")


FILTERS: dict[str, Callable[..., Any]] = {
    "percent": lambda fraction: f"{100 * fraction:.2f}{NO_BREAK}%",
    "interval": lambda bounds: f"{100 * bounds[0]:.2f}–{100 * bounds[1]:.2f}{NO_BREAK}%",
    "points": _signed,
    "points_interval": lambda bounds: f"{_signed(bounds[0])} to {_signed(bounds[1])}",
    "quantity": quantity,
    "joule": joule,
    "p_value": lambda p: "< 0.001" if p < 0.001 else f"{p:.3f}",
    "thousands": lambda number: f"{number:,}",
}
