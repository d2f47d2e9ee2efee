"""From unit files to what people read: tables, report, MLflow, and run.json. The last verbs of the main command."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rmpsweep import environment
from rmpsweep import results as files
from rmpsweep.data.figures import InputFigures
from rmpsweep.errors import ResultsError
from rmpsweep.pipeline import baseline
from rmpsweep.pipeline.pictures import fetch_pictures
from rmpsweep.pipeline.verbs import (
    Prepared,
    Progress,
    Thresholds,
    plan_json,
    read_calibrations,
    rule_name,
    without_secret,
)
from rmpsweep.results import Layout
from rmpsweep.results.merge import Tables, merge
from rmpsweep.storage import Location, local_copies
from rmpsweep.sweep.file import dump_sweep
from rmpsweep.sweep.plan import ANN
from rmpsweep.workers.events import Execution, Quarantined


def record(prepared: Prepared, execution: Execution, devices: Sequence[str], workers: int, began: float) -> None:
    """Add this launch to run.json. devices: of all workers there ever were; workers: at a time."""
    run = read_run(prepared.layout)
    units = [outcome.job.unit for outcome in execution.outcomes]
    seconds = sum(outcome.report.seconds for outcome in execution.outcomes)
    run |= {
        "versions": environment.versions(),
        "git": environment.git(),
        "hardware": environment.hardware(),
        "devices": sorted(set(devices)),
    }
    run["quarantined"] = [_quarantined_json(bad) for bad in execution.quarantined]
    notes = [note for outcome in execution.outcomes for note in outcome.report.warnings]
    run["warnings"] = list(dict.fromkeys([*run.get("warnings", []), *notes]))
    run["launches"].append(
        {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
            "wall_s": round(time.time() - began, 3),
            "workers": workers,
            "units": len(units),
            "image_steps": sum(unit.image_steps for unit in units),
            "worker_s": round(seconds, 3),
            "input": input_figures(execution).document(),
            "interrupted": execution.interrupted,
        }
    )
    files.write_json(prepared.layout.run, run)


def input_figures(execution: Execution) -> InputFigures:
    """How the images of a launch came in."""
    return sum((outcome.report.input for outcome in execution.outcomes), InputFigures())


def publish(
    prepared: Prepared, progress: Progress, mlflow_uri: str | None, *, allow_partial: bool = False
) -> Tables | None:
    """Merge, report and log; None when all that has been done for exactly these results.

    Raises:
        ResultsError: results are missing and allow_partial is not set, or attempts at a unit differ.
        TrackingError: MLflow cannot be used.
    """
    if not progress.todo:
        files.remove_orphans(prepared.layout)
    run = read_run(prepared.layout)
    state = _state(prepared, progress, mlflow_uri)
    outputs = (prepared.layout.predictions, prepared.layout.summary, prepared.layout.activity, prepared.layout.report)
    if run.get("published") == state and all(path.is_file() for path in outputs):
        return None
    tables = merge_tables(prepared, progress, allow_partial=allow_partial)
    _check_baseline(prepared, tables)
    write_calibration(prepared, progress.thresholds)
    write_report(prepared, tables)
    if mlflow_uri is not None:
        log(prepared, tables, mlflow_uri)
    files.write_json(prepared.layout.run, read_run(prepared.layout) | {"published": state})
    return tables


def baseline_warnings_of(layout: Layout) -> list[str]:
    """The warnings about the ANN's accuracy that `publish` has found."""
    return [note for note in read_run(layout).get("warnings", []) if note.startswith(baseline.PREFIX)]


def _check_baseline(prepared: Prepared, tables: Tables) -> None:
    """Put the warnings about the ANN's accuracy into run.json, in place of those about fewer images."""
    facts = prepared.plan.facts
    stated = baseline.stated_accuracy(prepared.sweep.network, prepared.weights.path, facts.weights, facts.data)
    found = baseline.baseline_warnings(tables.predictions, stated)
    run = read_run(prepared.layout)
    others = [note for note in run.get("warnings", []) if not note.startswith(baseline.PREFIX)]
    files.write_json(prepared.layout.run, run | {"warnings": [*others, *found]})


def merge_tables(prepared: Prepared, progress: Progress, *, allow_partial: bool = False) -> Tables:
    """Make and write the three tables.

    Raises:
        ResultsError: results are missing and allow_partial is not set, or attempts at a unit differ.
    """
    if progress.journal.conflicts:
        raise ResultsError(
            f"{prepared.layout.units}: {'; '.join(progress.journal.conflicts)}. Delete one of each pair, then the same "
            "command goes on (floating point may differ between kinds of device, fixed16 does not)"
        )
    scales = {
        t.trial_id: progress.thresholds[t.calibration_id]["input"][0]
        for t in prepared.plan.trials
        if t.calibration_id in progress.thresholds
    }
    tables = merge(
        prepared.plan,
        progress.journal.results,
        prepared.sweep.network.label,
        prepared.dataset,
        scales,
        allow_partial=allow_partial,
    )
    layout, run = prepared.layout, read_run(prepared.layout)
    if run.pop("published", None):  # from here on tables, report and MLflow may be of different results
        files.write_json(layout.run, run)
    files.write_table(layout.predictions, tables.predictions, files.PREDICTIONS_SCHEMA)
    files.write_table(layout.summary, tables.summary, files.SUMMARY_SCHEMA)
    files.write_table(layout.activity, tables.activity, files.ACTIVITY_SCHEMA)
    return tables


def write_calibration(prepared: Prepared, thresholds: Thresholds) -> None:
    """Write calibration.csv."""
    files.write_csv(prepared.layout.calibration_csv, calibration_rows(prepared, thresholds))


def calibration_rows(prepared: Prepared, thresholds: Thresholds) -> list[dict[str, Any]]:
    """Every threshold of the planned trials: rule, layer, channel (empty for the whole layer), threshold θ.

    The rule says what tells calibrations apart; "input" has its Λ_0 in place of a threshold.
    """
    settings = {t.calibration_id: t.setting for t in prepared.plan.trials if t.calibration_id in thresholds}
    also = [
        name
        for name in ("encoding", "input_scale", "max_pool")
        if len({getattr(s, name) for s in settings.values()}) > 1
    ]
    return [
        {
            "rule": " ".join([rule_name(setting), *(f"{name} {getattr(setting, name)}" for name in also)]),
            "layer": layer,
            "channel": channel if len(values) > 1 else "",
            "threshold": value,
        }
        for calibration_id, setting in settings.items()
        for layer, values in thresholds[calibration_id].items()
        for channel, value in enumerate(values)
    ]


def read_tables(layout: Layout, wanted: Callable[[pa.Table], pc.Expression] | None = None) -> Tables:
    """The tables as they were merged last; wanted: summary -> the predictions that are needed. Raises StorageError."""
    summary = files.read_table(layout.summary, files.SUMMARY_SCHEMA)
    rows = wanted(summary) if wanted else None
    return Tables(
        files.read_table(layout.predictions, files.PREDICTIONS_SCHEMA, rows),
        summary,
        files.read_table(layout.activity, files.ACTIVITY_SCHEMA),
    )


def write_report(prepared: Prepared, tables: Tables) -> None:
    """Write report.html."""
    from rmpsweep.report import ReportInfo, render

    run = read_run(prepared.layout)
    ann = tables.predictions.filter(pc.equal(tables.predictions["trial_id"], ANN))
    info = ReportInfo(
        name=prepared.sweep.name,
        network=prepared.sweep.network.label,
        dataset=prepared.dataset,
        ann_correct=int(pc.sum(ann["correct"]).as_py() or 0),
        ann_images=ann.num_rows,
        images_planned=prepared.plan.limit,
        images_skipped=prepared.plan.facts.num_skipped,
        versions=run.get("versions", {}),
        hardware=run.get("hardware", ""),
        sweep_yaml=dump_sweep(without_secret(prepared.sweep)),
        quarantined=[(bad["unit"], bad["message"]) for bad in run.get("quarantined", [])],
        warnings=run.get("warnings", []),
        calibration=calibration_rows(prepared, read_calibrations(prepared)),
        input=str(sum(launch_inputs(run), InputFigures())),
        search=files.read_json(prepared.layout.search),
    )
    fetch = partial(fetch_pictures, prepared.sweep.data, prepared.layout.index, prepared.plan.facts.data)
    page = render(tables.summary, tables.activity, tables.predictions, info, fetch)
    files.write_text(prepared.layout.report, page)


def log(prepared: Prepared, tables: Tables, mlflow_uri: str) -> Any:
    """Log to MLflow; logging the same again changes nothing. Raises TrackingError."""
    from rmpsweep.tracking import SweepRecord, log_sweep

    run = read_run(prepared.layout)
    sweep, plan, layout = prepared.sweep, prepared.plan, prepared.layout
    written = (
        layout.sweep,
        layout.plan,
        layout.search,
        layout.summary,
        layout.activity,
        layout.predictions,
        layout.report,
    )
    entry = SweepRecord(
        sweep_id=hashlib.sha256(f"{sweep.name} {plan.context}".encode()).hexdigest()[:16],
        name=sweep.name,
        experiment=sweep.mlflow.experiment or sweep.name,
        network=sweep.network.label,
        dataset=prepared.dataset,
        dataset_digest=plan.facts.data,
        created_ms=run["created_ms"],
        params={"weights_sha256": plan.facts.weights, "data_fingerprint": plan.facts.data},
        tags={"hardware": run.get("hardware", ""), **{f"version.{k}": v for k, v in run.get("versions", {}).items()}},
        artifacts=(),
        artifact_store=_artifact_store(layout.root),
        images_skipped=plan.images_planned(ANN) - plan.limit,
        stopped=plan.stopped,
    )
    with local_copies([path for path in written if path.is_file()]) as artifacts:
        return log_sweep(mlflow_uri, replace(entry, artifacts=artifacts), tables.summary)


def _artifact_store(root: Location) -> str | None:
    """Beside the results, since MLflow is given copies of them, as a URI that its own client of the store takes."""
    return None if isinstance(root, Path) else str(root / "mlartifacts").partition("?")[0]


def mlflow_uri(prepared: Prepared, option: str | None) -> str | None:
    """Where to log: the option, else the sweep file's, else a database in the results; None for "none".

    Raises:
        ResultsError: neither says, and the results lie in an object store, where no database can be.
    """
    uri = option or prepared.sweep.mlflow.tracking_uri
    if uri is None:
        if not isinstance(prepared.layout.database, Path):
            raise ResultsError(
                f"{prepared.layout.root}: an object store cannot hold MLflow's database; name one with --mlflow "
                "(sqlite:///FILE, or a server's http://HOST:PORT), or none"
            )
        uri = f"sqlite:///{prepared.layout.database.absolute()}"
    return None if uri == "none" else uri


def _state(prepared: Prepared, progress: Progress, mlflow_uri: str | None) -> str:
    units = sorted(result.unit.unit_id(result.context) for result in progress.journal.results)
    text = repr((files.SCHEMA_VERSION, plan_json(prepared), dump_sweep(prepared.sweep), units, mlflow_uri))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _quarantined_json(bad: Quarantined) -> dict[str, Any]:
    unit = bad.outcome.job.unit
    return {
        "unit": bad.outcome.job.job_id,
        "positions": [unit.start, unit.stop],
        "cells": {trial: (unit.stop - unit.start) * len(steps) for trial, steps in unit.work},
        "attempts": bad.attempts,
        "message": bad.outcome.message,
        "detail": bad.outcome.detail,
        "log": bad.outcome.log,
    }


def read_run(layout: Layout) -> dict[str, Any]:
    """What run.json holds; empty before the first launch has written it."""
    return files.read_json(layout.run) or {}


def launch_inputs(run: Mapping[str, Any]) -> list[InputFigures]:
    """How images came in, in each launch of run.json that computed something."""
    return [InputFigures.read(each.get("input")) for each in run.get("launches", []) if each["units"]]


@dataclass(frozen=True)
class Pace:
    """Of the last launch: image-steps per second of a worker at work, workers, seconds that went by beside that."""

    rate: float
    workers: int
    around_s: float


def measured_pace(layout: Layout) -> Pace | None:
    """The pace of the last launch that computed something; None before."""
    launches = [each for each in read_run(layout).get("launches", []) if each["image_steps"]]
    if not launches:
        return None
    last = launches[-1]
    workers, busy_s = last["workers"], last["worker_s"]
    return Pace(last["image_steps"] / busy_s, workers, max(0.0, last["wall_s"] - busy_s / workers))
