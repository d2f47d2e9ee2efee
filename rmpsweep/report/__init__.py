"""The report: tables of a sweep -> one HTML page that needs nothing but a browser.

The page carries its style, data and drawing library with it and makes no request; a content security policy in the
page holds it to that. Reading order: this file (what the page says), charts.py and layer_charts.py (what it draws),
page.html.j2 (layout).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rmpsweep.firing import firing_rate, flag_layers
from rmpsweep.report import charts, layer_charts
from rmpsweep.stats import (
    RESETS,
    SETTINGS,
    BestTrial,
    PairedComparison,
    best_trials,
    compare_paired,
    varying_settings,
    wilson_interval,
)

Row = dict[str, Any]
NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportInfo:
    """What the page says beyond the tables."""

    name: str
    """Name of the sweep."""
    network: str
    dataset: str
    ann_correct: int
    """Images the ANN classifies correctly, of `ann_images`."""
    ann_images: int
    images_planned: int
    images_skipped: int
    """Of the split; they cannot be decoded, and are in no other number."""
    versions: Mapping[str, str]
    """Package or program -> version."""
    hardware: str
    sweep_yaml: str
    """Text of the resolved sweep."""
    quarantined: Sequence[tuple[str, str]] = ()
    """(unit, message) of each unit that failed for good."""
    warnings: Sequence[str] = ()
    calibration: Sequence[Mapping[str, Any]] = ()
    """Rows with rule, layer, channel and threshold."""
    input: str = ""
    """How images came in, where any did."""

    @property
    def ann_accuracy(self) -> float:
        """Fraction in [0, 1]; 0 while the ANN has no images."""
        return self.ann_correct / self.ann_images if self.ann_images else 0.0


def render(summary: pa.Table, activity: pa.Table, predictions: pa.Table, info: ReportInfo) -> str:
    """The report of a sweep as one self-contained HTML page.

    Args:
        summary: one row per (trial, T); may be empty or cover fewer images than planned, which the page then says.
        activity: one row per (trial, layer, T), layers in forward order; the row of layer "input" has no firing rate.
        predictions: one row per (trial, T, image); used for the two best trials only.
        info: name, ANN, provenance and failures.
    """
    import vl_convert
    from jinja2 import Environment, StrictUndefined

    rows = summary.to_pylist()
    best = best_trials(summary)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {
        "percent": lambda fraction: f"{100 * fraction:.2f}{NO_BREAK}%",
        "interval": lambda bounds: f"{100 * bounds[0]:.2f}–{100 * bounds[1]:.2f}{NO_BREAK}%",
        "points": lambda points: f"{points:+.2f}".replace("-", "−"),
        "quantity": _quantity,
        "p_value": lambda p: "< 0.001" if p < 0.001 else f"{p:.3f}",
    }
    varying = varying_settings(rows)
    template = environment.from_string(resources.files(__package__).joinpath("page.html.j2").read_text("utf-8"))
    return template.render(
        info=info,
        ann_interval=wilson_interval(info.ann_correct, info.ann_images) if info.ann_images else None,
        best=best,
        coverage=_coverage(rows, info),
        fixed={name: rows[0][name] for name in SETTINGS if name not in varying} if rows else {},
        columns=[name for name in varying if name not in ("alpha", "reset")],
        time_steps=sorted({row["time_steps"] for row in rows}),
        trials=_trials(rows),
        paired=_soft_against_hard(best, predictions),
        flagged=flag_layers(summary, activity),
        charts=_charts(rows, best, activity, info),
        config=charts.CONFIG,
        themes=charts.THEMES,
        library=vl_convert.javascript_bundle(),  # type: ignore[call-arg]  # its stub lacks the default
    )


@dataclass(frozen=True, slots=True)
class _Coverage:
    """How many of the planned images the trials have evaluated."""

    complete: bool
    trials: int
    trials_complete: int
    fewest_images: int


def _coverage(rows: Sequence[Row], info: ReportInfo) -> _Coverage:
    fewest: dict[str, int] = {}
    for row in rows:
        fewest[row["trial_id"]] = min(row["images"], fewest.get(row["trial_id"], row["images"]))
    complete = sum(images >= info.images_planned for images in fewest.values())
    return _Coverage(
        complete=bool(rows) and complete == len(fewest) and not info.quarantined,
        trials=len(fewest),
        trials_complete=complete,
        fewest_images=min(fewest.values(), default=0),
    )


def _trials(rows: Sequence[Row]) -> list[Row]:
    """Per trial: its row at its largest T as `last`, and its accuracy by T; best at the end first, by reset."""
    by_trial: dict[str, dict[int, Row]] = {}
    for row in rows:
        by_trial.setdefault(row["trial_id"], {})[row["time_steps"]] = row
    trials = [
        {"last": trial[max(trial)], "accuracy": {t: row["accuracy"] for t, row in trial.items()}}
        for trial in by_trial.values()
    ]
    return sorted(trials, key=lambda trial: (RESETS.index(trial["last"]["reset"]), -trial["last"]["accuracy"]))


def _soft_against_hard(best: Mapping[str, BestTrial], predictions: pa.Table) -> list[PairedComparison]:
    """Best soft trial (a) against best hard trial (b); empty without both."""
    if len(best) < 2:
        return []
    soft, hard = (predictions.filter(pc.field("trial_id") == best[reset].trial_id) for reset in RESETS)
    return compare_paired(soft, hard)


def _charts(rows: Sequence[Row], best: Mapping[str, BestTrial], activity: pa.Table, info: ReportInfo) -> Row:
    """Element id -> Vega-Lite specification; charts without data are left out."""
    drawn = {}
    if rows:
        drawn["accuracy-chart"] = charts.accuracy_chart(rows, info.ann_accuracy)
    if any(row["synops_per_image"] > 0 for row in rows):
        drawn["cost-chart"] = charts.cost_chart(rows, info.ann_accuracy)
    layers = _layer_rows(best, activity)
    spiking = [row for row in layers if row["layer"] != "input"]
    if spiking:
        drawn["rate-chart"] = layer_charts.rate_chart(spiking)
        final = {reset: trial.time_steps for reset, trial in best.items()}
        drawn["synops-chart"] = layer_charts.synops_chart(
            [row for row in layers if row["time_steps"] == final[row["reset"]]]
        )
    thresholds = [row for row in info.calibration if row["layer"] != "input"]
    if thresholds:
        drawn["threshold-chart"] = layer_charts.threshold_chart(thresholds)
    return drawn


def _layer_rows(best: Mapping[str, BestTrial], activity: pa.Table) -> list[Row]:
    """Rows of `activity` of the best trials, divided by neurons, images and steps."""
    return [
        {
            "panel": f"{reset.capitalize()} reset · α = {trial.alpha:g} · {trial.threshold}",
            "reset": reset,
            "layer": row["layer"],
            "time_steps": row["time_steps"],
            "firing_rate": firing_rate(row),
            "synops_per_image": row["synops"] / row["images"],
        }
        for reset, trial in best.items()
        for row in activity.filter(pc.field("trial_id") == trial.trial_id).to_pylist()
    ]


def _quantity(number: float) -> str:
    """Three significant digits with an SI suffix: 1234567 -> "1.23 M"."""
    for power, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * power:
            return f"{number / power:#.3g}".removesuffix(".") + NO_BREAK + suffix
    return f"{number:.3g}"
