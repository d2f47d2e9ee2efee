"""The result of comparing a claim with measurements, and the titles and notes that the claims share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmpsweep.stats import BestTrial
from rmpsweep.terms import RESETS, SETTINGS

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownTable:
    """A small table, shown to people."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A claim and what our own measurements say about it."""

    subject: str
    statement: str
    """What is claimed, and where the claim is made."""
    tables: Sequence[ShownTable]
    findings: Sequence[str]
    """What the measurements say, one text for each finding."""
    statistics: Row
    """The numbers behind the findings."""
    rows: Sequence[Row]
    """Every point of the figure; all rows have the same keys."""
    chart: Row
    """Vega-Lite specification of the figure."""

    def document(self) -> Row:
        """The claim as plain values, for JSON, without tables and chart."""
        return {name: getattr(self, name) for name in ("subject", "statement", "findings", "statistics", "rows")}


def panel(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """Title of the panel of a chart to which a row of the summary belongs, e.g. "Soft reset · vin_max · v_init 0.5".

    Args:
        names: settings that the title shows besides the reset; a setting that is a number is shown with its name.
    """
    told = [row[name] if isinstance(row[name], str) else f"{name} {row[name]:g}" for name in names]
    return " · ".join([f"{row['reset'].capitalize()} reset", *told])


def panel_order(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """The titles of all panels in the order in which they are drawn, soft reset first."""
    in_order = sorted(rows, key=lambda row: (RESETS.index(row["reset"]), *(row[name] for name in names)))
    return list(dict.fromkeys(panel(row, names) for row in in_order))


def rows_beside(rows: Sequence[Row], best: BestTrial) -> list[Row]:
    """The rows of the trials that differ from the best trial in at most α, in ascending α."""
    fixed = [name for name in SETTINGS if name != "alpha"]
    beside = [row for row in rows if all(row[name] == getattr(best.setting, name) for name in fixed)]
    return sorted(beside, key=lambda row: row["alpha"])


def partial_note(summary: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence if some trials do not cover all planned images; empty if all do."""
    fewest = min(row["images"] for row in summary)
    planned = summary[0]["images_planned"]
    return [] if fewest == planned else [f"Partial results: the least covered trial has {fewest} of {planned} images."]
