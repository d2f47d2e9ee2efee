"""What the runs of a sweep hold, from its summary table: names, tags, params, metrics. Pure: knows no mlflow.

MLflow shows, of the values of a metric at one step, the one with the largest time stamp. Time stamps are therefore
counts, in ms after the sweep was first launched: of the images behind a value, summed where it is drawn from several
(trial, T), so that more images or more T give a later one. Durations of runs mean nothing.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rmpsweep.terms import SETTINGS

if TYPE_CHECKING:
    import pyarrow as pa

SWEEP_ID, TRIAL_ID, PARENT_ID = "rmpsweep.sweep_id", "rmpsweep.trial_id", "mlflow.parentRunId"
STOPPED = "rmpsweep.stopped_after_images"
PARETO = {"time_steps": "rmpsweep.pareto_T", "synops_per_image": "rmpsweep.pareto_synops"}
WITHIN_1PT, AT_99PCT = "time_steps_within_1pt", "_at_99pct"
STEP_METRICS = ("accuracy", "top5", "firing_rate", "spikes_per_image", "synops_per_image")


@dataclass(frozen=True)
class SweepRecord:
    """What MLflow is told of a sweep besides its summary table.

    `created_ms`: when the sweep was first launched, ms since the epoch; like `params`, never another for this sweep_id
    (MLflow keeps the first value of a param). `tags`: what may change, such as versions, devices, coverage.
    `artifacts`: files with different names, kept on the sweep's run; `artifact_store`: URI of the folder a database
    server has them put in, default beside them.
    """

    sweep_id: str
    name: str
    experiment: str
    network: str
    dataset: str
    data_fingerprint: str
    created_ms: int
    params: dict[str, str]
    tags: dict[str, str]
    artifacts: tuple[Path, ...]
    artifact_store: str | None = None
    images_skipped: int = 0
    """Of the planned images those that cannot be decoded."""
    stopped: Mapping[str, int] = field(default_factory=dict)
    """Trial id -> images, for the trials that an adaptive search stopped early."""


class Point(NamedTuple):
    """A value of a metric, fields in the order of mlflow.entities.Metric."""

    key: str
    value: float
    timestamp_ms: int
    step: int = 0


class Content(NamedTuple):
    """All that one run should hold; it ends at its last time stamp."""

    name: str
    tags: dict[str, str]
    params: dict[str, str]
    points: list[Point]
    end_ms: int

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self, sort_keys=True).encode()).hexdigest()


def sweep_content(record: SweepRecord, summary: "pa.Table") -> Content:
    """What the run of the sweep holds."""
    from rmpsweep.stats import best_trials

    rows = summary.to_pylist()
    end_ms, points = _totals(record, rows)
    points.append(Point("trials", len({row["trial_id"] for row in rows}), end_ms))
    for reset, best in best_trials(summary).items():
        values = {"accuracy": best.final_accuracy, WITHIN_1PT: best.time_steps_within_1pt}
        points += [Point(f"best_{reset}_{key}", value, end_ms) for key, value in values.items() if value is not None]
    params = {"network": record.network, "dataset": record.dataset, **record.params}
    return Content(record.name, {SWEEP_ID: record.sweep_id, **record.tags}, params, points, end_ms)


def trial_contents(record: SweepRecord, parent_run_id: str, summary: "pa.Table") -> dict[str, Content]:
    """Trial id -> what its run holds."""
    from rmpsweep.stats import varying_settings

    rows = sorted(summary.to_pylist(), key=lambda row: (row["trial_id"], row["time_steps"]))
    fronts = {tag: _pareto(rows, cost) for cost, tag in PARETO.items()}
    varying = varying_settings(rows, apart_from=("reset", "alpha"))
    contents = {}
    for trial_id, trial_rows in groupby(rows, key=lambda row: str(row["trial_id"])):
        tags = {SWEEP_ID: record.sweep_id, TRIAL_ID: trial_id, PARENT_ID: parent_run_id}
        tags |= {tag: "true" if trial_id in front else "false" for tag, front in fronts.items()}
        if trial_id in record.stopped:
            tags[STOPPED] = str(record.stopped[trial_id])
        of_trial = list(trial_rows)
        contents[trial_id] = _trial_content(record, _trial_name(of_trial[0], varying), tags, of_trial)
    return contents


def _trial_content(record: SweepRecord, name: str, tags: dict[str, str], rows: Sequence[dict[str, Any]]) -> Content:
    """What the run of a trial holds, from its rows of the summary in ascending T."""
    from rmpsweep.stats import time_steps_within

    points = []  # accuracy first: MLflow's parallel coordinates begin with the first
    for row in rows:
        timestamp_ms, step = record.created_ms + row["images"], row["time_steps"]
        points += [Point(key, row[key], timestamp_ms, step) for key in STEP_METRICS]
        points.append(Point(f"accuracy_T{step}", row["accuracy"], timestamp_ms))
    counts = {row["time_steps"]: (row["correct"], row["images"]) for row in rows}
    ann_accuracy, last = rows[-1]["ann_accuracy"], rows[-1]["accuracy"]
    reached = time_steps_within(counts, 0.99 * ann_accuracy, points=0.0)
    synops = {row["time_steps"]: row["synops_per_image"] for row in rows}
    singles = {
        "points_below_ann": 100 * (ann_accuracy - last),
        WITHIN_1PT: time_steps_within(counts, ann_accuracy),
        f"T{AT_99PCT}": reached,
        f"synops_per_image{AT_99PCT}": None if reached is None else synops[reached],
    }
    end_ms, totals = _totals(record, rows)
    points += [Point(key, value, end_ms) for key, value in singles.items() if value is not None] + totals
    params = {key: str(rows[0][key]) for key in (*SETTINGS, "network", "dataset")}
    return Content(name, tags, params, points, end_ms)


def _trial_name(setting: dict[str, Any], varying: Sequence[str]) -> str:
    """ "soft α=0.8", then whatever else varies in the sweep: short enough for the legends of charts."""
    others = [str(setting[key]) if key == "threshold" else f"{key}={setting[key]}" for key in varying]
    return " ".join([f"{setting['reset']} α={setting['alpha']:g}", *others])


def _pareto(rows: Sequence[dict[str, Any]], cost: str) -> set[str]:
    """Trials with a (accuracy, cost) that no other beats, of the rows over the most images."""
    from rmpsweep.stats import pareto_rows

    most = max((row["images"] for row in rows), default=0)
    compared = [row for row in rows if row["images"] == most]
    return {row["trial_id"] for row in pareto_rows(compared, itemgetter(cost))}


def _totals(record: SweepRecord, rows: Sequence[dict[str, Any]]) -> tuple[int, list[Point]]:
    """The time stamp of what all these rows decide, and what the row with most images says of images and the ANN."""
    end_ms = record.created_ms + sum(row["images"] for row in rows)
    widest = max(rows, key=lambda row: (row["images"], row["time_steps"], row["trial_id"]), default={})
    return end_ms, [Point(key, widest[key], end_ms) for key in ("images", "images_planned", "ann_accuracy") if widest]
