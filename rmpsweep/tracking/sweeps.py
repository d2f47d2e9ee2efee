"""Logs a sweep to MLflow: one run for the sweep, and one child run for each trial.

Logging again is safe. Runs are looked up by tag before any is made, nothing depends on the clock, and each run carries
a digest of what it holds. A run is RUNNING while it is being written, and its last request makes it FINISHED. A
finished run with the right digest is therefore left alone, and an interrupted one is continued.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rmpsweep.tracking.connection import connected, experiment_id, is_server, without_password
from rmpsweep.tracking.content import (
    AT_99PCT,
    STOPPED,
    SWEEP_ID,
    TRIAL_ID,
    WITHIN_1PT,
    Content,
    Point,
    SweepRecord,
    sweep_content,
    trial_contents,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from mlflow import MlflowClient
    from mlflow.entities import Run

_DIGEST, _ARTIFACTS, _COMPLETE = "rmpsweep.digest", "rmpsweep.artifacts_digest", "rmpsweep.complete"
_NAME_LENGTH, _PARAM_LENGTH, _TAG_LENGTH, _DIGEST_LENGTH = 250, 6000, 8000, 36
_REQUESTS_AT_ONCE = 4
"""How many requests go to a server at the same time; a database gets one after the other."""


@dataclass(frozen=True)
class LoggedSweep:
    """Where a sweep has been logged."""

    tracking_uri: str
    """Without the password."""
    experiment_id: str
    parent_run_id: str
    """The sweep's own run."""
    runs_created: int
    """Number of runs that were made just now."""
    runs_total: int
    """Number of runs of the sweep, its own among them."""


def log_sweep(tracking_uri: str, record: SweepRecord, summary: "pa.Table") -> LoggedSweep:
    """Log a sweep and its trials. docs/mlflow.md lists what is logged.

    Logging the same record and table again changes nothing.

    The run of a trial has the metrics accuracy, top5, firing_rate, spikes_per_image and synops_per_image at every T of
    the table, with step = T, and accuracy_T<T> for every T as a metric of its own. The other metrics are single values:
    points_below_ann at the largest T; images, images_planned and ann_accuracy at the T with the most images (of several
    such T, the largest); and, where they exist, time_steps_within_1pt, T_at_99pct (99 % of the ANN's accuracy), which
    are the smallest T that get there, and synops_per_image_at_99pct, up to the latter T.

    The sweep's own run has single values alone: trials; images, images_planned and ann_accuracy of the row with the
    most images; and best_<reset>_accuracy, at the largest T, and best_<reset>_time_steps_within_1pt (see
    `stats.best_trials`). It also has the artifacts. A server chooses itself where they go. In a SQLite file they go to
    `mlartifacts` beside that file; in another database, to `record.artifact_store`, or else to `mlartifacts` beside the
    artifacts themselves. An experiment that exists already keeps the place that it was made with.

    The tag rmpsweep.complete of the sweep's run is "false" while that run is being written. It is set last: to "true"
    if every row of the table covers all planned images except those that are skipped, else to "false".

    Args:
        record: what is logged besides the table.
        summary: one row per (trial, T).
    Returns:
        Where the sweep is logged, and how many of its runs are new.
    Raises:
        InputError: the URI is malformed.
        TrackingError: the server or database cannot be reached or refuses, or an artifact cannot be read. Runs that
            were finished stay as they are; the next call writes an interrupted run again.
    """
    remedy = (
        "The results themselves are safe: once the cause is removed, or with --mlflow and another server or database, "
        "run `rmpsweep log`"
    )
    with connected(tracking_uri, record.artifacts, remedy, record.artifact_store) as (client, location):
        return _log(client, location, record, summary)


def _log(client: "MlflowClient", location: str | None, record: SweepRecord, summary: "pa.Table") -> LoggedSweep:
    experiment = experiment_id(client, record.experiment, location)
    runs = _find_runs(client, experiment, record.sweep_id)
    found = len(runs)
    sweep = sweep_content(record, summary)
    parent = runs[""] = runs.get("") or _create(client, experiment, sweep, record)
    if not _holds(parent, sweep):
        _set_tag(client, parent, _COMPLETE, "false")
        _name_data(client, parent, record)  # before the trials: their requests at once must not each make the data set

    def log_trial(trial: tuple[str, Content]) -> None:
        trial_id, content = trial
        runs[trial_id] = runs.get(trial_id) or _create(client, experiment, content, record)
        if not _holds(runs[trial_id], content):
            _name_data(client, runs[trial_id], record)
            _write(client, runs[trial_id], content)

    trials = trial_contents(record, parent.info.run_id, summary).items()
    if is_server(client.tracking_uri):
        with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as threads:
            list(threads.map(log_trial, trials))
    else:
        list(map(log_trial, trials))
    if not _holds(parent, sweep):
        _write(client, parent, sweep)
    _upload(client, parent, record.artifacts)
    rows = zip(*(summary[name].to_pylist() for name in ("trial_id", "images", "images_planned")), strict=True)
    complete = all(
        images + (0 if trial in record.stopped else record.images_skipped) == planned for trial, images, planned in rows
    )
    _set_tag(client, parent, _COMPLETE, "true" if complete else "false")
    uri = without_password(client.tracking_uri)
    return LoggedSweep(uri, experiment, parent.info.run_id, runs_created=len(runs) - found, runs_total=len(runs))


def _find_runs(client: "MlflowClient", experiment: str, sweep_id: str) -> dict[str, "Run"]:
    """Trial id -> run, and "" -> the sweep's own run.

    If a retried request has made two runs of a trial, the one with the smaller run id counts.
    """
    found, token = [], None
    while token != "":
        page = client.search_runs([experiment], f"tags.`{SWEEP_ID}` = '{sweep_id}'", page_token=token)
        found += page
        token = page.token or ""
    found.sort(key=lambda run: run.info.run_id, reverse=True)
    return {run.data.tags.get(TRIAL_ID, ""): run for run in found}


def _create(client: "MlflowClient", experiment: str, content: Content, record: SweepRecord) -> "Run":
    tags = {key: value[:_TAG_LENGTH] for key, value in content.tags.items()} | {_DIGEST: content.digest()}
    return client.create_run(experiment, record.created_ms, tags, content.name[:_NAME_LENGTH])


def _holds(run: "Run", content: Content) -> bool:
    return bool(run.info.status == "FINISHED" and run.data.tags.get(_DIGEST) == content.digest())


def _write(client: "MlflowClient", run: "Run", content: Content) -> None:
    """Bring a run up to date with its content, in few requests: a server with accounts hashes the password at each."""
    from mlflow.entities import Metric, Param, RunTag

    run_id, data = run.info.run_id, run.data
    name = content.name[:_NAME_LENGTH]
    if (run.info.status, run.info.run_name) != ("RUNNING", name):
        client.update_run(run_id, status="RUNNING", name=name)
    no_longer = {key for key in data.metrics if key.endswith((WITHIN_1PT, AT_99PCT))} - {p.key for p in content.points}
    points = content.points + [Point(key, float("nan"), content.end_ms) for key in sorted(no_longer)]
    tags = {key: value[:_TAG_LENGTH] for key, value in content.tags.items()} | {_DIGEST: content.digest()}
    client.log_batch(  # splits itself into requests within MLflow's limits
        run_id,
        metrics=[Metric(*point) for point in points],
        params=[Param(key, content.params[key][:_PARAM_LENGTH]) for key in content.params if key not in data.params],
        tags=[RunTag(key, value) for key, value in tags.items() if data.tags.get(key) != value],
        synchronous=True,
    )
    if STOPPED in data.tags and STOPPED not in tags:
        client.delete_tag(run_id, STOPPED)
    client.set_terminated(run_id, "FINISHED", end_time=content.end_ms)


def _name_data(client: "MlflowClient", run: "Run", record: SweepRecord) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if not run.inputs.dataset_inputs:
        dataset = Dataset(record.dataset, record.data_fingerprint[:_DIGEST_LENGTH], "code", '{"tags": {}}')
        client.log_inputs(run.info.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "evaluation")])])


def _upload(client: "MlflowClient", run: "Run", artifacts: Sequence[Path]) -> None:
    """Upload the files whose SHA-256 differs from that of their last upload."""
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
