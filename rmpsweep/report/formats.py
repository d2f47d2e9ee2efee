"""How the page writes numbers: as `rmpsweep.formats` does, but without line breaks before units."""

from collections.abc import Callable
from typing import Any

from rmpsweep import formats

NO_BREAK = "\N{NO-BREAK SPACE}"


def _unbroken(write: Callable[[float], str]) -> Callable[[float], str]:
    return lambda number: write(number).replace(" ", NO_BREAK)


def _signed(points: float) -> str:
    return "0.00" if abs(points) < 0.005 else f"{points:+.2f}".replace("-", "−")


FILTERS: dict[str, Callable[..., Any]] = {
    "percent": lambda fraction: f"{100 * fraction:.2f}{NO_BREAK}%",
    "interval": lambda bounds: f"{100 * bounds[0]:.2f}–{100 * bounds[1]:.2f}{NO_BREAK}%",
    "points": _signed,
    "points_interval": lambda bounds: f"{_signed(bounds[0])} to {_signed(bounds[1])}",
    "quantity": _unbroken(formats.quantity),
    "joule": _unbroken(formats.joule),
    "p_value": formats.p_value,
    "thousands": lambda number: f"{number:,}",
}
