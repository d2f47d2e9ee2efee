"""The settings in which trials differ."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rmpsweep.terms import SETTINGS


def varying_settings(rows: Iterable[Mapping[str, Any]], apart_from: Sequence[str] = ()) -> list[str]:
    """The settings that take more than one value in rows of the summary, without those in `apart_from`."""
    rows = list(rows)
    return [name for name in SETTINGS if name not in apart_from and len({row[name] for row in rows}) > 1]
