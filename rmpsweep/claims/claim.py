"""What holding a claim against measured figures yields, and the words its tables and charts share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmpsweep.stats import BestTrial
from rmpsweep.terms import RESETS, SETTINGS

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownTable:
    """A small table for people."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A claim and what our own figures say of it."""

    subject: str
    statement: str
    """What is claimed, and where that is from."""
    tables: Sequence[ShownTable]
    findings: Sequence[str]
    """What the figures say, one sentence each."""
    statistics: Row
    """The numbers of the findings."""
    rows: Sequence[Row]
    """Every point of the figure, with equal keys."""
    chart: Row
    """Vega-Lite specification of the figure."""

    def document(self) -> Row:
        """What a program needs of it."""
        return {name: getattr(self, name) for name in ("subject", "statement", "findings", "statistics", "rows")}


def panel(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """Title of the panel a row of the summary belongs to, e.g. "Soft reset · vin_max"; a number is named."""
    told = [row[name] if isinstance(row[name], str) else f"{name} {row[name]:g}" for name in names]
    return " · ".join([f"{row['reset'].capitalize()} reset", *told])


def panel_order(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Titles of all panels, soft reset first."""
    in_order = sorted(rows, key=lambda row: (RESETS.index(row["reset"]), *(row[name] for name in names)))
    return list(dict.fromkeys(panel(row, names) for row in in_order))


def rows_beside(rows: Sequence[Row], best: BestTrial) -> list[Row]:
    """Rows of the trials that differ from the best one in nothing but α, in ascending α."""
    fixed = [name for name in SETTINGS if name != "alpha"]
    beside = [row for row in rows if all(row[name] == getattr(best.setting, name) for name in fixed)]
    return sorted(beside, key=lambda row: row["alpha"])


def partial_note(summary: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence where trials do not cover all planned images; empty where they do."""
    fewest = min(row["images"] for row in summary)
    planned = summary[0]["images_planned"]
    return [] if fewest == planned else [f"Partial results: the least covered trial has {fewest} of {planned} images."]
