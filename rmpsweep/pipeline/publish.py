"""Make what people read from the unit files: tables, report and MLflow runs.

Drawing and logging load libraries, which takes seconds and much memory. A launch leaves both to a process of its own
(`getting_ready`), which loads them while units are computed.
"""

import contextlib
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rmpsweep import results as files
from rmpsweep import tracking
from rmpsweep.aside import Aside, Lost
from rmpsweep.data.figures import InputFigures
from rmpsweep.environment import usable_cpus
from rmpsweep.errors import ResultsError
from rmpsweep.pipeline.baseline import baseline_warnings, stated_accuracy
from rmpsweep.pipeline.compute import rule_name
from rmpsweep.pipeline.look import Calibrations, Look, read_calibrations
from rmpsweep.pipeline.pictures import fetch_pictures
from rmpsweep.pipeline.prepare import Planned
from rmpsweep.results import Layout, PlanFile, RunRecord, SearchFile
from rmpsweep.results.merge import Tables, merge
from rmpsweep.storage import Location, local_copies
from rmpsweep.sweep.file import dump_sweep, without_secret
from rmpsweep.sweep.plan import Plan
from rmpsweep.terms import ANN


def publish(
    now: Look, weights: Path, uri: str | None, *, allow_partial: bool = False, aside: Aside | None = None
) -> bool:
    """Merge, report and log the results.

    run.json holds a digest of the results that were published. The digest is removed before the first table changes and
    written after everything else, so an interrupted call never leaves a digest of other results.

    Args:
        weights: the weights file, whose card may state an accuracy.
        uri: the tracking URI to log to; None logs nowhere.
        allow_partial: publish even though results are missing.
        aside: the process that draws the report and logs; None does both here.
    Returns:
        Whether anything had to be done; False if exactly these results were published already.
    Raises:
        ResultsError: results are missing and allow_partial is not set, or attempts at a unit differ.
        StorageError: the results directory cannot be read or written.
        TrackingError: MLflow cannot be used.
    """
    layout, facts = now.layout, now.plan.facts
    if not now.todo:
        files.remove_orphans(layout)
    run, state = RunRecord.of(layout), _state(now, uri)
    outputs = (layout.predictions, layout.summary, layout.activity, layout.report)
    if run.published == state and all(path.is_file() for path in outputs):
        return False
    tables = _merged(now, allow_partial)
    stated = stated_accuracy(now.sweep.network, weights, facts.weights, facts.data_fingerprint)
    run = replace(run, published=None).with_baseline_warnings(baseline_warnings(tables.predictions, stated))
    run.write(layout)
    _write_tables(layout, tables)
    write_calibration(now, now.calibrations)
    planned = Planned(sweep=now.sweep, layout=layout, plan=now.plan, dataset=now.dataset)
    files.write_text(layout.report, _elsewhere(aside, draw_report, planned, run))
    if uri is not None:
        _elsewhere(aside, log, planned, tables.summary, run, uri)
    replace(run, published=state).write(layout)
    return True


@contextlib.contextmanager
def getting_ready(uri: str | None) -> Iterator[Aside | None]:
    """Within this context, a process loads what `publish` needs, to be passed to it.

    There is none where it would be of no use: this process has loaded the same already, or has one processor.
    """
    loaded = "altair" in sys.modules and (uri is None or "mlflow" in sys.modules)
    with contextlib.ExitStack() as stack:
        aside = None
        if not loaded and usable_cpus() > 1:
            with contextlib.suppress(OSError):  # no room for a process: `publish` does without
                aside = stack.enter_context(Aside())
                aside.ask(get_ready, uri)
        yield aside


def get_ready(uri: str | None) -> None:
    """Load what `draw_report` and `log` need."""
    from rmpsweep.report import get_ready

    get_ready()
    if uri is not None:
        tracking.get_ready(uri)


def _elsewhere(aside: Aside | None, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in the other process, or here if there is none or it has come to its end."""
    if aside is not None:
        with contextlib.suppress(Lost):
            aside.ask(function, *arguments)
            return aside.answer()
    return function(*arguments)


def merge_tables(now: Look, *, allow_partial: bool = False) -> Tables:
    """Make and write the three tables, and mark report and MLflow runs as out of date.

    The mark is that run.json no longer holds a digest of what was published, so the next launch publishes again.

    Raises:
        ResultsError: results are missing and allow_partial is not set, or attempts at a unit differ.
        StorageError: the results directory cannot be read or written.
    """
    tables = _merged(now, allow_partial)
    run = RunRecord.read(now.layout)
    if run is not None and run.published is not None:
        replace(run, published=None).write(now.layout)
    _write_tables(now.layout, tables)
    return tables


def _merged(now: Look, allow_partial: bool) -> Tables:
    if now.journal.conflicts:
        raise ResultsError(
            f"{now.layout.units}: {'; '.join(now.journal.conflicts)}. Delete one of each pair, then the same "
            "command goes on (floating point may differ between kinds of device, fixed16 does not)"
        )
    scales = {
        trial.trial_id: now.calibrations[trial.calibration_id]["input"][0]
        for trial in now.plan.trials
        if trial.calibration_id in now.calibrations
    }
    label, results = now.sweep.network.label, now.journal.results
    return merge(now.plan, results, label, now.dataset, scales, allow_partial=allow_partial)


def _write_tables(layout: Layout, tables: Tables) -> None:
    files.write_table(layout.predictions, tables.predictions, files.PREDICTIONS_SCHEMA)
    files.write_table(layout.summary, tables.summary, files.SUMMARY_SCHEMA)
    files.write_table(layout.activity, tables.activity, files.ACTIVITY_SCHEMA)


def read_tables(layout: Layout, wanted: Callable[[pa.Table], pc.Expression] | None = None) -> Tables:
    """Read the tables as they were merged last.

    Args:
        wanted: returns, for the summary, the filter of the predictions that are needed; None reads them all.
    Raises:
        TableError: a table is missing, cannot be read or has another schema version.
        StorageError: an object store cannot be reached.
    """
    summary = files.read_table(layout.summary, files.SUMMARY_SCHEMA)
    rows = wanted(summary) if wanted else None
    return Tables(
        files.read_table(layout.predictions, files.PREDICTIONS_SCHEMA, rows),
        summary,
        files.read_table(layout.activity, files.ACTIVITY_SCHEMA),
    )


def write_calibration(planned: Planned, calibrations: Calibrations) -> None:
    """Write the thresholds of the planned trials to calibration.csv."""
    files.write_csv(planned.layout.calibration_csv, calibration_rows(planned.plan, calibrations))


def calibration_rows(plan: Plan, calibrations: Calibrations) -> list[dict[str, Any]]:
    """Return a row for every threshold of the planned trials.

    The columns are rule, layer, channel (empty if the threshold is that of the whole layer) and threshold θ. The rule
    also names encoding, input_scale and max_pool where the calibrations differ in them. The rows of the layer "input"
    hold Λ_0 in place of a threshold.
    """
    settings = {t.calibration_id: t.setting for t in plan.trials if t.calibration_id in calibrations}
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
        for layer, values in calibrations[calibration_id].items()
        for channel, value in enumerate(values)
    ]


def draw_report(planned: Planned, run: RunRecord) -> str:
    """Make the page report.html from the merged tables. Raises StorageError if they cannot be read."""
    from rmpsweep.report import ReportInfo, needed_predictions, render

    sweep, plan, layout = planned.sweep, planned.plan, planned.layout
    tables = read_tables(layout, needed_predictions)
    ann = tables.predictions.filter(pc.equal(tables.predictions["trial_id"], ANN))
    info = ReportInfo(
        name=sweep.name,
        network=sweep.network.label,
        dataset=planned.dataset,
        ann_correct=int(pc.sum(ann["correct"]).as_py() or 0),
        ann_images=ann.num_rows,
        images_planned=plan.limit,
        images_skipped=plan.facts.num_skipped,
        versions=run.versions,
        hardware=run.hardware,
        sweep_yaml=dump_sweep(without_secret(sweep)),
        quarantined=[(bad.unit, bad.message) for bad in run.quarantined],
        warnings=run.warnings,
        calibration=calibration_rows(plan, read_calibrations(layout, plan)),
        input=str(sum(run.inputs(), InputFigures())),
        search=SearchFile.read(layout),
    )
    fetch = partial(fetch_pictures, sweep.data, layout.index, plan.facts.data_fingerprint)
    return render(tables.summary, tables.activity, tables.predictions, info, fetch)


def log(planned: Planned, summary: pa.Table, run: RunRecord, uri: str) -> tracking.LoggedSweep:
    """Log the results to MLflow. Logging the same results again changes nothing. Raises TrackingError."""
    sweep, plan, layout = planned.sweep, planned.plan, planned.layout
    versions: Mapping[str, str] = {f"version.{name}": version for name, version in run.versions.items()}
    written = (
        layout.sweep,
        layout.plan,
        layout.search,
        layout.summary,
        layout.activity,
        layout.predictions,
        layout.report,
    )
    entry = tracking.SweepRecord(
        sweep_id=hashlib.sha256(f"{sweep.name} {plan.context}".encode()).hexdigest()[:16],
        name=sweep.name,
        experiment=sweep.mlflow.experiment or sweep.name,
        network=sweep.network.label,
        dataset=planned.dataset,
        data_fingerprint=plan.facts.data_fingerprint,
        created_ms=run.created_ms,
        params={"weights_sha256": plan.facts.weights, "data_fingerprint": plan.facts.data_fingerprint},
        tags={"hardware": run.hardware, **versions},
        artifacts=(),
        artifact_store=_artifact_store(layout.root),
        images_skipped=plan.images_planned(ANN) - plan.limit,
        stopped=plan.stopped,
    )
    with local_copies([path for path in written if path.is_file()]) as artifacts:
        return tracking.log_sweep(uri, replace(entry, artifacts=artifacts), summary)


def _artifact_store(root: Location) -> str | None:
    """Return where MLflow shall keep artifacts if the results lie in an object store: a folder beside them.

    MLflow gets copies of the files, and uses its own client of the store. The URI is therefore without our options. For
    results in a folder, return None.
    """
    return None if isinstance(root, Path) else str(root / "mlartifacts").partition("?")[0]


def tracking_uri(planned: Planned, option: str | None) -> str | None:
    """Return the tracking URI: that of the option, else of the sweep file, else of a database in the results.

    Returns:
        None if the URI is "none".
    Raises:
        ResultsError: neither names a URI, and the results lie in an object store, which cannot hold a database.
    """
    uri = option or planned.sweep.mlflow.tracking_uri
    if uri is None:
        if not isinstance(planned.layout.database, Path):
            raise ResultsError(
                f"{planned.layout.root}: an object store cannot hold MLflow's database; name one with --mlflow "
                "(sqlite:///FILE, or a server's http://HOST:PORT), or none"
            )
        uri = f"sqlite:///{planned.layout.database.absolute()}"
    return None if uri == "none" else uri


def _state(now: Look, uri: str | None) -> str:
    """Return a digest of everything that tables, report and MLflow runs are made from (16 hex digits)."""
    units = sorted(result.unit.unit_id(result.context) for result in now.journal.results)
    plan = PlanFile(plan=now.plan, dataset=now.dataset).document()
    text = repr((files.SCHEMA_VERSION, plan, dump_sweep(now.sweep), units, uri))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
