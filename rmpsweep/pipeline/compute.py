"""Compute what is missing of a sweep: calibrate, save, evaluate round by round, record.

Only the functions that need torch and ray import them.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path

from rmpsweep import environment
from rmpsweep.data.figures import InputFigures
from rmpsweep.errors import CalibrationError, InputError, StoppedError
from rmpsweep.pipeline.events import Message, OnEvent
from rmpsweep.pipeline.look import Calibrations, Look, look
from rmpsweep.pipeline.place import Place
from rmpsweep.pipeline.prepare import Planned, Prepared, trying_network
from rmpsweep.pipeline.progress import Watch
from rmpsweep.pipeline.search import search_file
from rmpsweep.results import Layout, PlanFile, RunRecord, make_units, write_csv, write_text, write_thresholds
from rmpsweep.results.records import LaunchRecord, QuarantinedUnit
from rmpsweep.storage import Location
from rmpsweep.sweep.file import dump_sweep, without_secret
from rmpsweep.sweep.plan import Facts, calibration_ids
from rmpsweep.sweep.schema import Sweep
from rmpsweep.terms import Setting
from rmpsweep.workers.driver import Driver
from rmpsweep.workers.events import Execution, Limits, Listener, Quarantined, StageBegan
from rmpsweep.workers.jobs import CalibrationJob
from rmpsweep.workers.protocol import Pool, WorkerLike

Stop = Callable[[], bool]
"""Returns whether to stop. Once it returns true, nothing new is begun, and jobs in flight are finished."""


def compute(
    prepared: Prepared,
    now: Look,
    place: Place,
    limits: Limits,
    *,
    began: float,
    on_event: OnEvent,
    stopping: Callable[[], AbstractContextManager[Stop]],
) -> Execution:
    """Compute what is missing of a sweep whose weights exist.

    Args:
        now: the state of the same sweep on disk.
        began: when the launch began, in UNIX time.
        stopping: a context manager that is entered once the pool is open and left before the pool is closed; its value
            is a function that returns whether to stop.
    Raises:
        InputError: the weights or the data cannot be used, or a calibration failed.
        UnusableError: the storage or the cluster cannot be used.
        StoppedError: the launch was stopped while it calibrated.
    """
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(contextlib.closing(Watch(prepared.layout, on_event)))
        watch(StageBegan(stage="starting"))
        with contextlib.nullcontext() if place.inline else trying_network(prepared):
            pool = stack.enter_context(contextlib.closing(open_pool(prepared, prepared.weights.path, place)))
        stop = stack.enter_context(stopping())
        if pool.note:
            on_event(Message(text=f"note: {pool.note}"))
        driver = Driver(pool, limits)
        calibrations, notes = calibrate(prepared, now, driver, watch, stop)
        for note in notes:
            on_event(Message(text=f"warning: {note}"))
        save(prepared, replace(now, calibrations=calibrations), notes)
        if calibrations != now.calibrations:
            now = look(prepared, now.journal)
        execution = Execution()
        while now.todo and execution.is_whole:
            units = now.cut(pool.wanted(), now.search.within if now.search else None)
            image_steps = sum(unit.image_steps for unit in units)
            stage = StageBegan(stage="evaluating", jobs=len(units), image_steps=image_steps)
            execution += driver.execute(now.jobs(units), watch, stop, stage)
            if now.search is None:
                break
            before, now = len(now.journal.results), look(prepared, now.journal)
            if len(now.journal.results) == before:  # the files just written do not verify
                break
            save(prepared, now)
            on_event(Message(text=str(now.search)))
        record(prepared.layout, execution, driver.devices, pool.wanted(), began)
    return execution


def open_pool(planned: Planned, weights: Path, place: Place, *, logs: bool = True) -> Pool:
    """Open the pool that runs the workers of a sweep.

    Args:
        logs: whether the workers write their logs into the results; in an object store they never do.
    Raises:
        ClusterError: there is no such cluster, or it cannot be used.
    """
    from rmpsweep.workers.pools import InlinePool, RayPool

    sweep, layout = planned.sweep, planned.layout
    make_worker = functools.partial(_make_worker, sweep, weights.absolute(), layout.root.absolute(), planned.plan.facts)
    if place.inline:
        return InlinePool(make_worker)
    return RayPool(
        make_worker,
        place.workers(sweep.run),
        address=place.address,
        gpus_per_worker=sweep.run.gpus_per_actor,
        logs=layout.logs.absolute() if logs and isinstance(layout.logs, Path) else None,
        beat_every_s=min(5.0, sweep.run.stall_deadline_s / 3),
    )


def _make_worker(
    sweep: Sweep, weights: Path, results: Location, facts: Facts, threads: int | None, device: str | None
) -> WorkerLike:
    from rmpsweep.workers.worker import Worker, WorkerSpec

    return Worker(
        WorkerSpec(sweep, weights, results, facts.data_fingerprint, facts.calibration_fingerprint, threads, device)
    )


def limits_of(sweep: Sweep, max_failures: int | None = None, *, fail_fast: bool = False) -> Limits:
    """Return when a launch of this sweep gives up: the limits of its `run` section, and these options."""
    run = sweep.run
    return Limits(
        retries=run.retries,
        max_failures=max_failures,
        fail_fast=fail_fast,
        schedule_s=run.schedule_deadline_s,
        setup_s=run.setup_deadline_s,
        stall_s=run.stall_deadline_s,
    )


def calibrate(
    prepared: Prepared, now: Look, driver: Driver, listener: Listener = lambda _: None, stop: Stop = lambda: False
) -> tuple[Calibrations, list[str]]:
    """Find the thresholds that are not known yet, without writing them.

    Returns:
        All thresholds, known and new, and warnings about the new ones.
    Raises:
        CalibrationError: thresholds cannot be found, or a calibration failed too often.
        InputError: the worker cannot use the sweep's data or network.
        UnusableError: the storage or the cluster cannot be used.
        StoppedError: the calibration was stopped before its end.
    """
    known = now.calibrations
    missing = {t.calibration_id: t.setting for t in now.plan.trials if t.calibration_id not in known}
    calibration = prepared.sweep.calibration
    ids = calibration_ids(now.plan.facts.num_calibration_images, calibration.images, calibration.seed)
    jobs = [
        CalibrationJob(key, setting, tuple(ids.tolist()), prepared.given.get(setting.given_by or ""))
        for key, setting in missing.items()
    ]
    execution = driver.execute(jobs, listener, stop, StageBegan(stage="calibrating", jobs=len(jobs)))
    if execution.interrupted:
        raise StoppedError("interrupted: committed units are kept; the same command continues")
    for bad in execution.quarantined:
        rule = rule_name(bad.outcome.job.setting)
        if isinstance(bad.outcome.error, InputError):
            raise type(bad.outcome.error)(f"calibration {rule}: {bad.outcome.error}")
        raise CalibrationError(f"calibration {rule} failed {bad.attempts} times: {bad.outcome.message}")
    found = {outcome.job.job_id: outcome.report.value for outcome in execution.outcomes}
    notes = [
        f"{rule_name(outcome.job.setting)}: {warning}"
        for outcome in execution.outcomes
        for warning in outcome.report.warnings
    ]
    return {**known, **found}, notes


def rule_name(setting: Setting) -> str:
    """Return the threshold rule and granularity of a setting in words."""
    return f"{setting.threshold} by {setting.granularity}"


def save(prepared: Prepared, now: Look, warnings: Sequence[str] = ()) -> None:
    """Write what was launched: resolved sweep, plan, search, skipped images, warnings and thresholds.

    Files that would not change are left alone. A launch writes only progress.json, logs and the index before this.
    """
    layout = prepared.layout
    write_text(layout.sweep, dump_sweep(without_secret(prepared.sweep)))
    make_units(layout)
    PlanFile(plan=now.plan, dataset=now.dataset).write(layout)
    if now.search is not None:
        search_file(prepared.sweep, now.search).write(layout)
    else:
        layout.search.unlink(missing_ok=True)
    if prepared.skipped:
        write_csv(layout.skipped, [asdict(image) for image in prepared.skipped])
    else:
        layout.skipped.unlink(missing_ok=True)
    RunRecord.of(layout).with_warnings(warnings).write(layout)
    planned = {trial.calibration_id for trial in now.plan.trials}
    for calibration_id, values in now.calibrations.items():
        if calibration_id in planned:
            write_thresholds(layout.thresholds(calibration_id), values)


def record(layout: Layout, execution: Execution, devices: Sequence[str], workers: int, began: float) -> None:
    """Add this launch to run.json.

    Args:
        devices: the device of every worker that was ever ready.
        workers: how many workers worked at a time.
        began: when the launch began, in UNIX time.
    """
    run = RunRecord.of(layout)
    units = [outcome.job.unit for outcome in execution.outcomes]
    launched = LaunchRecord(
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        wall_s=round(time.time() - began, 3),
        workers=workers,
        units=len(units),
        image_steps=sum(unit.image_steps for unit in units),
        worker_s=round(sum(outcome.report.seconds for outcome in execution.outcomes), 3),
        input=input_figures(execution),
        interrupted=execution.interrupted,
    )
    run = replace(
        run.with_warnings([note for outcome in execution.outcomes for note in outcome.report.warnings]),
        launches=(*run.launches, launched),
        versions=environment.versions(),
        git=environment.git(),
        hardware=environment.hardware(),
        devices=tuple(sorted(set(devices))),
        quarantined=tuple(map(_quarantined, execution.quarantined)),
    )
    run.write(layout)


def input_figures(execution: Execution) -> InputFigures:
    """Add up how fast the images of all finished jobs came in."""
    return sum((outcome.report.input for outcome in execution.outcomes), InputFigures())


def _quarantined(bad: Quarantined) -> QuarantinedUnit:
    unit = bad.outcome.job.unit
    return QuarantinedUnit(
        unit=bad.outcome.job.job_id,
        positions=(unit.start, unit.stop),
        cells=unit.cells,
        attempts=bad.attempts,
        message=bad.outcome.message,
        detail=bad.outcome.detail,
        log=bad.outcome.log,
    )
