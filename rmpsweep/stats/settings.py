"""Names of the columns that make a trial."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SETTINGS = (
    "threshold",
    "granularity",
    "alpha",
    "alpha_scope",
    "reset",
    "encoding",
    "input_scale",
    "v_init",
    "max_pool",
    "seed",
    "numerics",
)


def varying_settings(rows: Iterable[Mapping[str, Any]], apart_from: Sequence[str] = ()) -> list[str]:
    """The settings that take more than one value in rows of the summary."""
    rows = list(rows)
    return [name for name in SETTINGS if name not in apart_from and len({row[name] for row in rows}) > 1]
