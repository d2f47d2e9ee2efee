"""What the page says about trials: the rows of its table, and the points that its charts share and filter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rmpsweep.report.info import ReportInfo
from rmpsweep.stats import CONVENTIONS, BestTrial, Energy, energies, varying_settings
from rmpsweep.terms import RESETS

Row = dict[str, Any]
Columns = dict[str, list[Any]]
LABELS = {"reset": "Reset", "threshold": "Rule", "alpha": "Scale α"}
"""Setting -> its label on the page; other settings are shown by their names."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many of the planned images the trials have evaluated."""

    complete: bool
    trials: int
    trials_complete: int
    fewest_images: int


@dataclass(frozen=True, slots=True)
class Filter:
    """A group of checkboxes that filters trials by one setting."""

    setting: str
    """Column of the summary."""
    label: str
    values: tuple[str, ...]
    """The values of the setting, as text."""


@dataclass(frozen=True, slots=True)
class TrialData:
    """The data of the charts of trials, which the page holds once for all of them, as columns."""

    trials: Columns
    """trial, panel, reset, alpha, best and the settings that vary; one entry for each trial."""
    panels: tuple[str, ...]
    """The titles of the panels in the order in which they are drawn, with the resets of a rule side by side."""
    points: Columns
    """number (position in `trials`), T, images, accuracy, low and high (in percent), synops and estimated joules per
    image by convention; one entry for each trial and T."""
    filters: tuple[Filter, ...]
    keys: Columns
    """Setting of a filter -> for each trial, the position of its value in `Filter.values`."""


def coverage(rows: Sequence[Row], info: ReportInfo) -> Coverage:
    """Count how much of the plan the rows of the summary cover."""
    fewest: dict[str, tuple[int, int]] = {}
    for row in rows:
        planned = min(row["images_planned"], info.images_planned)
        before = fewest.get(row["trial_id"], (row["images"], planned))
        fewest[row["trial_id"]] = min(before, (row["images"], planned))
    complete = sum(images >= planned for images, planned in fewest.values())
    return Coverage(
        complete=bool(rows) and complete == len(fewest) and not info.quarantined,
        trials=len(fewest),
        trials_complete=complete,
        fewest_images=min((images for images, _ in fewest.values()), default=0),
    )


def by_trial(rows: Sequence[Row]) -> dict[str, dict[int, Row]]:
    """trial_id -> T -> row of the summary. Trials are sorted by reset, then from best to worst at their largest T."""
    trials: dict[str, dict[int, Row]] = {}
    for row in sorted(rows, key=lambda row: row["time_steps"]):
        trials.setdefault(row["trial_id"], {})[row["time_steps"]] = row

    def rank(trial: Mapping[int, Row]) -> tuple[int, float, str]:
        last = trial[max(trial)]
        return RESETS.index(last["reset"]), -last["accuracy"], last["trial_id"]

    return dict(sorted(trials.items(), key=lambda item: rank(item[1])))


def estimated_energies(summary: pa.Table, activity: pa.Table) -> dict[str, dict[tuple[str, int], Energy]]:
    """Convention -> (trial_id, T) -> estimated energy per image."""
    return {name: energies(summary, activity, convention) for name, convention in CONVENTIONS.items()}


def trial_data(
    trials: Mapping[str, Mapping[int, Row]],
    best: Mapping[str, BestTrial],
    energy: Mapping[str, Mapping[tuple[str, int], Energy]],
) -> TrialData:
    """Collect what the charts of trials draw.

    Args:
        trials: from `by_trial`, in the order of the page's table.
        best: the best trial of each reset, which the charts mark.
        energy: from `estimated_energies`.
    """
    firsts = [next(iter(trial.values())) for trial in trials.values()]
    varying = varying_settings(firsts)
    of_panel = [name for name in varying if name not in ("alpha", "reset", "seed")]
    chosen = {trial.trial_id for trial in best.values()}
    panels = [(tuple(_text(row[name]) for name in of_panel), RESETS.index(row["reset"])) for row in firsts]

    def panel(settings: tuple[str, ...], reset: int) -> str:
        return " · ".join([f"{RESETS[reset].capitalize()} reset", *settings])

    columns: Columns = {
        "trial": list(trials),
        "panel": [panel(*each) for each in panels],
        "best": [trial in chosen for trial in trials],
        **{name: [row[name] for row in firsts] for name in dict.fromkeys(["reset", "alpha", *varying])},
    }
    filters = tuple(_filter(name, columns[name]) for name in sorted(varying, key=_order))
    keys = {each.setting: _places(each.setting, columns[each.setting]) for each in filters}
    rows = [(number, row) for number, trial in enumerate(trials.values()) for row in trial.values()]
    points: Columns = {
        "number": [number for number, _ in rows],
        "T": [row["time_steps"] for _, row in rows],
        "images": [row["images"] for _, row in rows],
        "accuracy": [_percent(row["accuracy"]) for _, row in rows],
        "low": [_percent(row["ci_low"]) for _, row in rows],
        "high": [_percent(row["ci_high"]) for _, row in rows],
        "synops": [_rounded(row["synops_per_image"]) for _, row in rows],
    }
    for name, of in energy.items():
        points[name] = [_rounded(of[row["trial_id"], row["time_steps"]].snn_joule) for _, row in rows]
    return TrialData(columns, tuple(panel(*each) for each in sorted(set(panels))), points, filters, keys)


def _filter(setting: str, values: Sequence[Any]) -> Filter:
    return Filter(setting, LABELS.get(setting, setting), tuple(map(_text, _ordered(setting, values))))


def _places(setting: str, values: Sequence[Any]) -> list[int]:
    ordered = _ordered(setting, values)
    return [ordered.index(value) for value in values]


def _ordered(setting: str, values: Sequence[Any]) -> list[Any]:
    return [v for v in RESETS if v in values] if setting == "reset" else sorted(set(values))


def _order(setting: str) -> tuple[int, str]:
    known = [*LABELS]
    return (known.index(setting), "") if setting in known else (len(known), setting)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _percent(fraction: float) -> float:
    return round(100 * fraction, 3)


def _rounded(number: float) -> float:
    """Round to four significant digits, which is what a chart can show."""
    return float(f"{number:.4g}")
