"""Result tables -> MLflow: one run per sweep, one child run per trial.

Logging again is safe: runs are found by tag before any is made, nothing is derived from the clock, and each run
carries a digest of what it holds, so that an unchanged run is not written to.

MLflow shows, of the values of a metric at one step, the one with the largest time stamp. Time stamps are therefore
counts, in ms after the sweep was first launched: of the images behind a value, summed where it is drawn from several
(trial, T), so that more images or more T give a later one. Durations of runs mean nothing.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rmpsweep.tracking.connection import connected, experiment_id, without_password

if TYPE_CHECKING:
    import pyarrow as pa
    from mlflow import MlflowClient
    from mlflow.entities import Run

_SWEEP_ID, _TRIAL_ID = "rmpsweep.sweep_id", "rmpsweep.trial_id"
_DIGEST, _ARTIFACTS, _COMPLETE = "rmpsweep.digest", "rmpsweep.artifacts_digest", "rmpsweep.complete"
_WITHIN_1PT = "time_steps_within_1pt"
_NAME_LENGTH, _PARAM_LENGTH, _TAG_LENGTH, _DIGEST_LENGTH = 250, 6000, 8000, 36


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
    dataset_digest: str
    created_ms: int
    params: dict[str, str]
    tags: dict[str, str]
    artifacts: tuple[Path, ...]
    artifact_store: str | None = None
    images_skipped: int = 0
    """Of the planned images those that cannot be decoded."""


@dataclass(frozen=True)
class LoggedSweep:
    """Where a sweep has been logged (the URI without its password), and how many runs it has and has just gained."""

    tracking_uri: str
    experiment_id: str
    parent_run_id: str
    runs_created: int
    runs_total: int


def log_sweep(tracking_uri: str, record: SweepRecord, summary: "pa.Table") -> LoggedSweep:
    """Log a sweep and its trials; with tables already logged, change nothing.

    A trial's run has accuracy, top5, firing_rate, spikes_per_image and synops_per_image with step = T, accuracy_T<T>,
    images, images_planned, ann_accuracy and, where reached, time_steps_within_1pt. The sweep's run has trials, images,
    images_planned, ann_accuracy, best_<reset>_accuracy and best_<reset>_time_steps_within_1pt (`stats.best_trials`),
    and the artifacts; without a server these go to `mlartifacts` beside the SQLite file, or else beside themselves.
    The tag rmpsweep.complete comes last: "true" if every row of the table counts all planned images
    but those skipped.

    Args:
        summary: one row per (trial, T).
    Raises:
        InputError: a malformed URI.
        TrackingError: server or database unreachable or refusing; what has been logged stays and is not repeated.
    """
    remedy = (
        "The results themselves are safe; start or repair the server or database, or name another with --mlflow, then "
        "run `rmpsweep log`"
    )
    with connected(tracking_uri, record.artifacts, remedy, record.artifact_store) as (client, location):
        return _log(client, location, record, summary)


class _Point(NamedTuple):  # fields in the order of mlflow.entities.Metric
    key: str
    value: float
    timestamp_ms: int
    step: int = 0


class _Content(NamedTuple):
    """All that one run should hold; it ends at its last time stamp."""

    name: str
    tags: dict[str, str]
    params: dict[str, str]
    points: list[_Point]
    end_ms: int

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self, sort_keys=True).encode()).hexdigest()


def _log(client: "MlflowClient", location: str | None, record: SweepRecord, summary: "pa.Table") -> LoggedSweep:
    experiment = experiment_id(client, record.experiment, location)
    runs = _find_runs(client, experiment, record.sweep_id)
    found = len(runs)

    def run_of(trial_id: str, content: _Content) -> "Run":
        if trial_id not in runs:
            tags = {key: value[:_TAG_LENGTH] for key, value in content.tags.items()}
            runs[trial_id] = client.create_run(experiment, record.created_ms, tags, content.name[:_NAME_LENGTH])
        return runs[trial_id]

    sweep = _sweep_content(record, summary)
    parent = run_of("", sweep)
    if parent.data.tags.get(_DIGEST) != sweep.digest():
        _set_tag(client, parent, _COMPLETE, "false")
    rows = sorted(summary.to_pylist(), key=lambda row: (row["trial_id"], row["time_steps"]))
    for trial_id, trial_rows in groupby(rows, key=lambda row: row["trial_id"]):
        trial = _trial_content(record, parent.info.run_id, list(trial_rows))
        _write(client, run_of(trial_id, trial), trial, record)
    _write(client, parent, sweep, record)
    _upload(client, parent, record.artifacts)
    complete = all(row["images"] + record.images_skipped == row["images_planned"] for row in rows)
    _set_tag(client, parent, _COMPLETE, "true" if complete else "false")
    uri = without_password(client.tracking_uri)
    return LoggedSweep(uri, experiment, parent.info.run_id, runs_created=len(runs) - found, runs_total=len(runs))


def _find_runs(client: "MlflowClient", experiment: str, sweep_id: str) -> dict[str, "Run"]:
    """Trial id -> run, and "" -> the sweep's own; the smallest run id, should a retried request have made two."""
    found, token = [], None
    while token != "":
        page = client.search_runs([experiment], f"tags.`{_SWEEP_ID}` = '{sweep_id}'", page_token=token)
        found += page
        token = page.token or ""
    found.sort(key=lambda run: run.info.run_id, reverse=True)
    return {run.data.tags.get(_TRIAL_ID, ""): run for run in found}


def _trial_content(record: SweepRecord, parent_run_id: str, rows: Sequence[dict[str, Any]]) -> _Content:
    """What the run of a trial holds, from its rows of the summary in ascending T."""
    from rmpsweep.stats import SETTINGS, time_steps_within

    end_ms, points = _totals(record, rows)
    for row in rows:
        timestamp_ms, step = record.created_ms + row["images"], row["time_steps"]
        keys = ("accuracy", "top5", "firing_rate", "spikes_per_image", "synops_per_image")
        points += [_Point(key, row[key], timestamp_ms, step) for key in keys]
        points.append(_Point(f"accuracy_T{step}", row["accuracy"], timestamp_ms))
    counts = {row["time_steps"]: (row["correct"], row["images"]) for row in rows}
    within = time_steps_within(counts, rows[-1]["ann_accuracy"])
    if within is not None:
        points.append(_Point(_WITHIN_1PT, within, end_ms))
    tags = {_SWEEP_ID: record.sweep_id, _TRIAL_ID: rows[0]["trial_id"], "mlflow.parentRunId": parent_run_id}
    params = {key: str(rows[0][key]) for key in (*SETTINGS, "network", "dataset")}
    return _Content(_trial_name(rows[0]), tags, params, points, end_ms)


def _trial_name(setting: dict[str, Any]) -> str:
    """ "soft α=0.8 vin_max", then whatever else differs from the defaults of a sweep file."""
    from rmpsweep.schema import Setting

    defaults = Setting().model_dump(exclude={"reset", "alpha", "threshold"})
    unusual = [f"{key}={setting[key]}" for key, default in defaults.items() if setting[key] != default]
    return " ".join([f"{setting['reset']} α={setting['alpha']:g} {setting['threshold']}", *unusual])


def _sweep_content(record: SweepRecord, summary: "pa.Table") -> _Content:
    from rmpsweep.stats import best_trials

    rows = summary.to_pylist()
    end_ms, points = _totals(record, rows)
    points.append(_Point("trials", len({row["trial_id"] for row in rows}), end_ms))
    for reset, best in best_trials(summary).items():
        values = {"accuracy": best.final_accuracy, _WITHIN_1PT: best.time_steps_within_1pt}
        points += [_Point(f"best_{reset}_{key}", value, end_ms) for key, value in values.items() if value is not None]
    params = {"network": record.network, "dataset": record.dataset, **record.params}
    tags = {_SWEEP_ID: record.sweep_id, **record.tags}
    return _Content(record.name, tags, params, points, end_ms)


def _totals(record: SweepRecord, rows: Sequence[dict[str, Any]]) -> tuple[int, list[_Point]]:
    """The time stamp of what all these rows decide, and what the row with most images says of images and the ANN."""
    end_ms = record.created_ms + sum(row["images"] for row in rows)
    widest = max(rows, key=lambda row: (row["images"], row["time_steps"], row["trial_id"]), default={})
    return end_ms, [_Point(key, widest[key], end_ms) for key in ("images", "images_planned", "ann_accuracy") if widest]


def _write(client: "MlflowClient", run: "Run", content: _Content, record: SweepRecord) -> None:
    """Bring a run up to its content. The digest goes last: an interrupted write is taken up again."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    if run.data.tags.get(_DIGEST) == content.digest():
        return
    no_longer = {key for key in run.data.metrics if key.endswith(_WITHIN_1PT)} - {point.key for point in content.points}
    points = content.points + [_Point(key, float("nan"), content.end_ms) for key in sorted(no_longer)]
    client.log_batch(  # splits by itself into requests within MLflow's limits
        run.info.run_id,
        metrics=[Metric(*point) for point in points],
        params=[
            Param(key, content.params[key][:_PARAM_LENGTH]) for key in content.params if key not in run.data.params
        ],
        tags=[RunTag(key, value[:_TAG_LENGTH]) for key, value in content.tags.items()],
        synchronous=True,
    )
    if not run.inputs.dataset_inputs:
        dataset = Dataset(record.dataset, record.dataset_digest[:_DIGEST_LENGTH], "code", '{"tags": {}}')
        client.log_inputs(run.info.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "evaluation")])])
    client.set_terminated(run.info.run_id, "FINISHED", end_time=content.end_ms)
    _set_tag(client, run, _DIGEST, content.digest())


def _upload(client: "MlflowClient", run: "Run", artifacts: Sequence[Path]) -> None:
    """Upload the files whose SHA-256 differs from that of the last upload."""
    uploaded = json.loads(run.data.tags.get(_ARTIFACTS, "{}"))
    digests = {}
    for path in artifacts:
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        if uploaded.get(path.name) != digests[path.name]:
            client.log_artifact(run.info.run_id, str(path))
    _set_tag(client, run, _ARTIFACTS, json.dumps(digests, sort_keys=True))


def _set_tag(client: "MlflowClient", run: "Run", key: str, value: str) -> None:
    if run.data.tags.get(key) != value:
        client.set_tag(run.info.run_id, key, value)
        run.data.tags[key] = value
