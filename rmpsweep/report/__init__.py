"""The report: makes one HTML page, which needs nothing but a browser, from the tables of a sweep.

The page contains its style, data and drawing library and makes no request; a content security policy in the page
enforces that.

Reading order: ``render`` below. ``trials``, ``differences``, ``layers`` and ``classes`` compute what the page says.
``charts/`` has the Vega-Lite specifications of the charts. ``page/`` has the layout: ``page.html.j2``, a file for each
section, ``style.css``, and ``page.js``, which draws the charts and filters the trials. ``info`` is what a report is
given besides the tables, ``templates`` and ``formats`` serve the layout, and ``thumbnails`` makes small images.
``compare_page`` makes the page of `rmpsweep compare` in the same look.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rmpsweep.report import charts
from rmpsweep.report.charts import classes as class_charts
from rmpsweep.report.charts import differences as difference_charts
from rmpsweep.report.charts import layers as layer_charts
from rmpsweep.report.charts import search as search_charts
from rmpsweep.report.charts import trials as trial_charts
from rmpsweep.report.classes import ClassAccuracy, class_accuracies, hardest_images
from rmpsweep.report.differences import (
    ResetComparison,
    Rivals,
    compare_resets,
    decisive_time_steps,
    overall_best,
    reach_ann,
    rivals,
)
from rmpsweep.report.info import Fetch, Pictures, ReportInfo, no_pictures
from rmpsweep.report.layers import layer_rows, threshold_rows
from rmpsweep.report.templates import environment, library
from rmpsweep.report.thumbnails import thumbnails
from rmpsweep.report.trials import LABELS, TrialData, by_trial, coverage, estimated_energies, trial_data
from rmpsweep.stats import CONVENTIONS, BestTrial, best_trials, correct_by_cell, varying_settings, wilson_interval
from rmpsweep.stats.firing import flag_layers
from rmpsweep.terms import ANN, INPUT, SETTINGS

__all__ = ["Fetch", "Pictures", "ReportInfo", "get_ready", "needed_predictions", "no_pictures", "render", "thumbnails"]

Row = dict[str, Any]
CLASSES_SHOWN = 30
PAGE = "page.html.j2"


def needed_predictions(summary: pa.Table) -> pc.Expression:
    """The filter for the rows of the predictions that `render` reads.

    These are all rows of the ANN and of the best trials, and of every trial the rows at the largest T and at the
    `decisive_time_steps` of the best trial overall.
    """
    best = best_trials(summary)
    chosen = overall_best(best)
    steps = {*_largest(by_trial(summary.to_pylist())).values(), *([decisive_time_steps(chosen)] if chosen else [])}
    trials = [ANN, *(trial.trial_id for trial in best.values())]
    return pc.field("trial_id").isin(trials) | pc.field("time_steps").isin(pa.array(sorted(steps), pa.int32()))


def get_ready() -> None:
    """Load what `render` needs, which takes seconds: Altair, Pillow, SciPy, the templates and the drawing library."""
    import altair  # noqa: F401
    import PIL.Image
    import scipy.special  # noqa: F401

    PIL.Image.init()
    environment().get_template(PAGE)
    library()


def render(
    summary: pa.Table, activity: pa.Table, predictions: pa.Table, info: ReportInfo, fetch: Fetch = no_pictures
) -> str:
    """Render the report of a sweep as one self-contained HTML page.

    Args:
        summary: one row per (trial, T); may be empty or cover fewer images than planned, and the page then says so.
        activity: one row per (trial, layer, T), layers in forward order; for the layer "input" no firing rate is shown.
        predictions: one row per (trial, T, image), sorted by these; only `needed_predictions` are read.
        info: name, ANN, provenance and failures.
        fetch: called once, to get the images shown and the names of the classes.
    """
    predictions = predictions.filter(needed_predictions(summary))
    rows = summary.to_pylist()
    best, trials = best_trials(summary), by_trial(rows)
    cells = correct_by_cell(predictions)
    energy = estimated_energies(summary, activity)
    data = trial_data(trials, best, energy)
    chosen = overall_best(best)
    ended = info.search.stopped if info.search else {}
    whole = {reset: trial for reset, trial in best.items() if trial.trial_id not in ended} or best
    went_on = {trial_id: trial for trial_id, trial in trials.items() if trial_id not in ended} or trials
    hardest = hardest_images(whole, _largest(went_on), predictions, cells)
    pictures = fetch([image.image_id for image in hardest])
    classes = class_accuracies(whole, predictions)
    layers = layer_rows(best, activity)
    thresholds = threshold_rows(info.calibration)
    paired = compare_resets(best, predictions)
    found = rivals(chosen, rows, cells) if chosen else None
    ann_joules = {
        name: joule
        for name, of in energy.items()
        if (joule := next((e.ann_joule for e in of.values()), None)) is not None
    }

    def class_name(label: int) -> str:
        return str(pictures.class_names[label]) if label < len(pictures.class_names) else str(label)

    with charts.unchecked():
        drawn = {
            **_trial_charts(data, info, ann_joules),
            **_best_charts(best, rows, info, paired, found),
            **_layer_charts(best, layers, thresholds),
            **_class_charts(classes[:CLASSES_SHOWN], class_name),
        }
    templates = environment()
    templates.filters["class_name"] = class_name
    varying = varying_settings(rows)
    ann_interval = wilson_interval(info.ann_correct, info.ann_images) if info.ann_images else None
    return templates.get_template(PAGE).render(
        info=info,
        ann_interval=ann_interval,
        best=best,
        whole=whole,
        chosen=chosen,
        decisive=decisive_time_steps(chosen) if chosen else None,
        reached={reset: reach_ann(trial, cells) for reset, trial in best.items()},
        energy=energy,
        ann_joules=ann_joules,
        conventions=CONVENTIONS,
        coverage=coverage(rows, info),
        fixed={name: rows[0][name] for name in SETTINGS if name not in varying} if rows else {},
        labels=LABELS,
        columns=[name for name in varying if name not in ("alpha", "reset")],
        time_steps=sorted({row["time_steps"] for row in rows}),
        trials=trials,
        data=data,
        paired=paired,
        rivals=found,
        flagged=flag_layers(summary, activity),
        stopped=search_charts.stopped_rows(info.search, trials) if info.search else [],
        classes=classes[:CLASSES_SHOWN],
        num_classes=len(classes),
        hardest=hardest,
        pictures=pictures,
        thresholds=thresholds,
        charts=drawn,
        config=charts.CONFIG,
        themes=charts.THEMES,
        library=library(),
    )


def _largest(trials: Mapping[str, Mapping[int, Row]]) -> dict[str, int]:
    return {trial_id: max(trial) for trial_id, trial in trials.items()}


def _trial_charts(data: TrialData, info: ReportInfo, ann_joules: Mapping[str, float]) -> dict[str, Row]:
    """Element id -> Vega-Lite specification, here and in the functions below; charts without data are left out."""
    if not data.points["T"]:
        return {}
    ann = 100 * info.ann_accuracy
    search = {"search-chart": search_charts.extent_chart(info.search, data)} if info.search else {}
    costs = trial_charts.cost_charts(data, ann, ann_joules)
    return {
        "accuracy-chart": trial_charts.accuracy_chart(data, ann),
        "heat-map": trial_charts.heat_map(data),
        **search,
        **{f"cost-{name}": chart for name, chart in costs.items() if any(value > 0 for value in data.points[name])},
    }


def _best_charts(
    best: Mapping[str, BestTrial],
    rows: list[Row],
    info: ReportInfo,
    paired: list[ResetComparison],
    found: Rivals | None,
) -> dict[str, Row]:
    drawn = {}
    if best and info.ann_images:
        low, high = wilson_interval(info.ann_correct, info.ann_images)
        interval = 100 * float(low), 100 * float(high)
        drawn["best-chart"] = difference_charts.best_chart(best, rows, 100 * info.ann_accuracy, interval)
    for number, compared in enumerate(paired):
        drawn[f"paired-chart-{number}" if number else "paired-chart"] = difference_charts.paired_chart(compared)
    if found:
        drawn["rivals-chart"] = difference_charts.rivals_chart(found)
    return drawn


def _layer_charts(best: Mapping[str, BestTrial], layers: list[Row], thresholds: list[Row]) -> dict[str, Row]:
    drawn = {}
    final = {reset: trial.time_steps for reset, trial in best.items()}
    last = [row for row in layers if row["time_steps"] == final[row["reset"]]]
    spiking = [row for row in layers if row["layer"] != INPUT]
    if spiking:
        drawn["rate-chart"] = layer_charts.rate_chart(spiking)
        drawn["profile-chart"] = layer_charts.profile_chart([row for row in last if row["layer"] != INPUT])
        drawn["synops-chart"] = layer_charts.synops_chart(last)
    if thresholds:
        drawn["threshold-chart"] = layer_charts.threshold_chart(thresholds)
    return drawn


def _class_charts(classes: list[ClassAccuracy], class_name: Any) -> dict[str, Row]:
    names = [class_name(each.label) for each in classes]
    if len(set(names)) < len(names):  # in ImageNet, for example, two classes are called "crane"
        names = [f"{name} ({each.label})" for name, each in zip(names, classes, strict=True)]
    return {"class-chart": class_charts.class_chart(classes, names)} if classes else {}
