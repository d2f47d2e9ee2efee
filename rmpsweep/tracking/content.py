"""What the MLflow runs of a sweep hold: names, tags, params and metrics, computed from its summary table.

This module does not import mlflow. MLflow shows, of several values of a metric at one step, the one with the largest
time stamp. Time stamps are therefore counts of images: a value that is computed from n images gets the time n ms after
the first launch of the sweep, and a value that is computed from several (trial, T) gets the sum of their images. More
images or more T thus give a later time stamp. The durations of runs mean nothing.
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
    """What is logged of a sweep besides its summary table."""

    sweep_id: str
    name: str
    experiment: str
    network: str
    dataset: str
    data_fingerprint: str
    created_ms: int
    """When the sweep was first launched, in ms since the epoch; must always be the same for one sweep_id."""
    params: dict[str, str]
    """Must always be the same for one sweep_id, since MLflow keeps the first value of a param."""
    tags: dict[str, str]
    """What may change from launch to launch, such as versions, devices and coverage."""
    artifacts: tuple[Path, ...]
    """Files with different names, which are logged to the sweep's run."""
    artifact_store: str | None = None
    """URI of the folder for artifacts if the runs are in a database other than SQLite; default is a folder beside the
    artifacts."""
    images_skipped: int = 0
    """How many of the planned images cannot be decoded."""
    stopped: Mapping[str, int] = field(default_factory=dict)
    """Trial id -> number of images after which an adaptive search stopped the trial."""


class Point(NamedTuple):
    """A value of a metric; the fields are in the order of mlflow.entities.Metric."""

    key: str
    value: float
    timestamp_ms: int
    step: int = 0


class Content(NamedTuple):
    """Everything that one run should hold. The run ends at its last time stamp, `end_ms`."""

    name: str
    tags: dict[str, str]
    params: dict[str, str]
    points: list[Point]
    end_ms: int

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self, sort_keys=True).encode()).hexdigest()


def sweep_content(record: SweepRecord, summary: "pa.Table") -> Content:
    """The content of the sweep's own run."""
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
    """Trial id -> the content of the trial's run."""
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
    """The content of a trial's run, from the trial's rows of the summary in ascending T."""
    from rmpsweep.stats import time_steps_within

    points = []  # accuracy comes first, since MLflow's parallel coordinates begin with the first metric
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
    """Name a trial, e.g. "soft α=0.8", then what else varies in the sweep; short enough for the legends of charts."""
    others = [str(setting[key]) if key == "threshold" else f"{key}={setting[key]}" for key in varying]
    return " ".join([f"{setting['reset']} α={setting['alpha']:g}", *others])


def _pareto(rows: Sequence[dict[str, Any]], cost: str) -> set[str]:
    """Ids of the trials with an (accuracy, cost) that no other row beats, among the rows over the most images."""
    from rmpsweep.stats import pareto_rows

    most = max((row["images"] for row in rows), default=0)
    compared = [row for row in rows if row["images"] == most]
    return {row["trial_id"] for row in pareto_rows(compared, itemgetter(cost))}


def _totals(record: SweepRecord, rows: Sequence[dict[str, Any]]) -> tuple[int, list[Point]]:
    """The time stamp of values that are computed from all these rows, and the numbers of images and the ANN's accuracy
    from the row with the most images."""
    end_ms = record.created_ms + sum(row["images"] for row in rows)
    widest = max(rows, key=lambda row: (row["images"], row["time_steps"], row["trial_id"]), default={})
    return end_ms, [Point(key, widest[key], end_ms) for key in ("images", "images_planned", "ann_accuracy") if widest]
