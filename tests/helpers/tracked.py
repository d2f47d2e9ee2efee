"""Logs sweeps, given as rows of the summary, and reads what MLflow then holds of them."""

import os
from pathlib import Path

import pyarrow as pa

from rmpsweep.tracking import SweepRecord, log_sweep
from tests.helpers.summary_rows import summary_row

CREATED_MS = 1_700_000_000_000
ANN = 0.92
IMAGES = {"images": 100, "images_planned": 100, "ann_accuracy": ANN}
STEP_METRICS = ("accuracy", "top5", "firing_rate", "spikes_per_image", "synops_per_image")


def row(trial_id, time_steps, correct, images=100, **columns):
    usual = {"network": "resnet20", "dataset": "cifar10", "alpha": 0.8, "images_planned": 100, "ann_accuracy": ANN}
    return summary_row(trial_id, time_steps, correct, images, **(usual | columns))


SOFT = [row("aa", 32, 70), row("aa", 64, 91), row("aa", 128, 92)]
HARD = [row("bb", 32, 30, reset="hard"), row("bb", 64, 80, reset="hard"), row("bb", 128, 85, reset="hard")]


def record_in(directory: Path):
    report = directory / "report.html"
    report.write_text("first")
    sweep_id, experiment, digest = os.urandom(8).hex(), f"cifar10 {directory.name}", "d" * 64
    named = ("cifar10-resnet20", experiment, "resnet20", "cifar10", digest)
    return SweepRecord(sweep_id, *named, CREATED_MS, {"calibration": "512 images"}, {"git": "abc"}, (report,))


def client_of(uri):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def log(uri, record, rows):
    return log_sweep(uri, record, pa.Table.from_pylist(rows))


def runs_of(uri, record):
    """Trial id ("" for the sweep) -> run; fails if a trial has two runs."""
    client = client_of(uri)
    experiment = client.get_experiment_by_name(record.experiment)
    runs = client.search_runs([experiment.experiment_id], f"tags.`rmpsweep.sweep_id` = '{record.sweep_id}'")
    by_trial = {run.data.tags.get("rmpsweep.trial_id", ""): run for run in runs}
    assert len(by_trial) == len(runs)
    return by_trial


def history(uri, run, key):
    points = client_of(uri).get_metric_history(run.info.run_id, key)
    return sorted((point.step, point.timestamp - CREATED_MS, point.value) for point in points)


def everything(uri, record):
    """Everything that MLflow stores of a sweep, to compare before and after."""
    state = {}
    for trial_id, run in runs_of(uri, record).items():
        histories = {key: history(uri, run, key) for key in run.data.metrics}
        inputs = [(i.dataset.name, i.dataset.digest, len(i.tags)) for i in run.inputs.dataset_inputs]
        state[trial_id] = (vars(run.info), run.data.tags, run.data.params, histories, inputs)
    return state
