"""Numbers as people read them, on the terminal and on the page."""

_LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_SMALL = ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"))
_ROUNDS_UP = 0.9995
"""With three significant digits, a number of at least this share of a power of 1000 rounds up to that power: 999,700 is
"1.00 M"."""


def quantity(number: float) -> str:
    """Format a number with three significant digits and an SI suffix: 1234567 -> "1.23 M"."""
    for power, suffix in _LARGE:
        if number >= _ROUNDS_UP * power:
            return f"{_three_digits(number / power)} {suffix}"
    return f"{number:.3g}"


def joule(number: float) -> str:
    """Format joules with three significant digits and an SI prefix: 0.00123 -> "1.23 mJ"."""
    for power, prefix in _SMALL:
        if number >= _ROUNDS_UP * power:
            return f"{_three_digits(number / power)} {prefix}J"
    return f"{number:.3g} J"


def duration(seconds: float) -> str:
    """Format a duration in its two largest units of hours, minutes and seconds: 3725 -> "1 h 2 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def p_value(p: float) -> str:
    """Format a p value with three decimals, or as "< 0.001" if it is smaller than that."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _three_digits(number: float) -> str:
    return f"{number:#.3g}".removesuffix(".")
