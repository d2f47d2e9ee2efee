"""The main command as a function: compute what is missing of a sweep, then merge, report and log it."""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from os import PathLike, fspath

from rmpsweep.errors import IncompleteError, StoppedError, StorageError
from rmpsweep.pipeline.compute import Stop, calibrate, compute, limits_of, open_pool, save
from rmpsweep.pipeline.events import EpochEnded, IndexGrew, Message, OnEvent
from rmpsweep.pipeline.look import Look, look
from rmpsweep.pipeline.place import Place
from rmpsweep.pipeline.prepare import Prepared, prepare, results_of, train, working_on
from rmpsweep.pipeline.publish import getting_ready, publish, tracking_uri, write_calibration
from rmpsweep.results import Results, RunRecord, check_space
from rmpsweep.storage import Location
from rmpsweep.sweep.file import load_sweep
from rmpsweep.sweep.schema import Sweep
from rmpsweep.tracking import check_uri
from rmpsweep.workers.driver import Driver
from rmpsweep.workers.events import Execution

CANCEL_EVERY_S = 2.0
"""Seconds between two checks whether `rmpsweep cancel` asks the launch to stop."""

Stopping = Callable[[], AbstractContextManager[Stop]]


def launch(
    sweep: Sweep | str | PathLike[str],
    results: str | PathLike[str] | None = None,
    *,
    limit: int | None = None,
    actors: int | None = None,
    inline: bool = False,
    address: str | None = None,
    mlflow: str | None = None,
    on_event: OnEvent | None = None,
) -> Results:
    """Compute what is missing of a sweep, then merge, report and log it, as the command `rmpsweep launch` does.

    The same call continues an interrupted sweep. With a changed grid, one more T or a larger limit, it computes only
    what is new. If this process is connected to Ray already, the launch uses that connection and leaves it open; if it
    starts Ray itself, it shuts Ray down at the end. The launch leaves signal handlers as they are, so Ctrl-C raises
    KeyboardInterrupt: units in flight are dropped, and committed units are kept. An exception that `on_event` raises
    ends the launch in the same way.

    Args:
        sweep: a sweep (see `load_sweep`), the path of a sweep file, or the name of a sweep that comes with rmpsweep.
        results: the results directory, a folder or s3:// or gs://, which need not exist; default results/NAME.
        limit: evaluate at most this many images; default all.
        actors: the number of Ray actors; default as in the sweep file, or as many as the cluster has room for.
        inline: compute in this process, without Ray.
        address: a Ray cluster, "auto" or host:port; default the Ray of this process, or one started on this machine.
        mlflow: a tracking URI, or "none"; default as in the sweep file, or a database in the results directory.
        on_event: called in this thread with every event (`rmpsweep.pipeline.events`); `event.plain()` returns the
            event as plain values.
    Returns:
        The complete results.
    Raises:
        IncompleteError: units are quarantined or a limit on failures was reached; everything else is merged.
        StoppedError: `rmpsweep cancel` has stopped the launch; nothing has been merged.
        InputError: the sweep, its data or its weights cannot be used.
        UnusableError: the storage, the cluster or the tracking server cannot be used.
    """
    done = run_launch(
        as_sweep(sweep),
        None if results is None else fspath(results),
        limit=limit,
        place=Place(inline=inline, actors=actors, address=address),
        mlflow=mlflow,
        on_event=on_event or _ignore,
    )
    done.check()
    return done.results


def plan(
    sweep: Sweep | str | PathLike[str],
    results: str | PathLike[str] | None = None,
    *,
    limit: int | None = None,
    on_event: OnEvent | None = None,
) -> Look:
    """Find out what `launch` would do with the same arguments, without computing or writing to the results.

    Returns:
        The state of the sweep: `plan` has the trials; `cells_left`, `image_steps_left` and `todo` say what is missing.
        In an adaptive search they are upper bounds.
    Raises:
        InputError: the sweep, its data or its weights cannot be used.
        StorageError: the results cannot be read.
    """
    place, tell = None if results is None else fspath(results), on_event or _ignore
    return look(prepare(as_sweep(sweep), place, limit, on_index=_indexing(tell), note=_noting(tell)))


def as_sweep(sweep: Sweep | str | PathLike[str]) -> Sweep:
    """Return a sweep as it is, or load the sweep of this name or path. Raises SweepError."""
    return sweep if isinstance(sweep, Sweep) else load_sweep(sweep)


@dataclass(frozen=True, kw_only=True, slots=True)
class Launched:
    """How a launch ended."""

    look: Look
    """The state of the sweep after the launch."""
    execution: Execution | None
    """What was computed; None if nothing was missing."""
    has_published: bool
    """Whether tables, report and MLflow runs were made; false if they were up to date or the launch was stopped."""
    mlflow: str | None
    """The tracking URI that the results are logged to; None for no logging."""
    run: RunRecord
    """The contents of run.json."""

    @property
    def results(self) -> Results:
        """The results directory, to read."""
        return Results(self.look.layout)

    @property
    def was_stopped(self) -> bool:
        """Whether jobs were left undone on request rather than because a limit on failures was reached."""
        return _was_stopped(self.execution)

    def check(self) -> None:
        """Raise StoppedError if the launch was stopped, and IncompleteError if units are missing."""
        left = len(self.look.todo)
        if self.was_stopped:
            raise StoppedError(f"interrupted: {left} units left; the same command continues")
        if not left:
            return
        bad = [f"  {unit.unit} after {unit.attempts} attempts: {unit.message}" for unit in self.run.quarantined]
        gave_up = f"stopped: {self.execution.gave_up}; " if self.execution and self.execution.gave_up else ""
        missing = f"{gave_up}{left} units are missing; the same command tries them again"
        raise IncompleteError("\n".join([missing, *bad]))


def _was_stopped(execution: Execution | None) -> bool:
    return execution is not None and execution.interrupted and not execution.gave_up


def run_launch(
    sweep: Sweep,
    results: str | Location | None = None,
    *,
    limit: int | None = None,
    place: Place,
    mlflow: str | None = None,
    max_failures: int | None = None,
    fail_fast: bool = False,
    on_event: OnEvent,
    stopping: Stopping = lambda: contextlib.nullcontext(lambda: False),
) -> Launched:
    """Launch a sweep and return how the launch ended. Arguments that are not described here are those of `launch`.

    Args:
        max_failures: stop after more failed attempts than this; None sets no limit.
        fail_fast: stop at the first unit that is given up.
        stopping: a context manager that is entered while workers compute; its value is a function that returns whether
            to stop.
    Raises:
        StoppedError: the launch was stopped while it calibrated.
        InputError, UnusableError: as from `launch`. Missing units raise nothing here; `Launched.check` does.
    """
    began, note = time.time(), _noting(on_event)
    with contextlib.ExitStack() as stack:
        stack.enter_context(working_on(results or results_of(sweep), note, sweep))
        prepared = prepare(sweep, results, limit, download=True, on_index=_indexing(on_event), note=note)
        uri = tracking_uri(prepared, mlflow)
        if uri is not None:
            check_uri(uri)
        now = look(prepared)
        execution = aside = None
        if now.todo:
            check_space(now.layout.root, now.plan, now.todo)
            prepared, now = trained(prepared, now, on_event)
            limits = limits_of(sweep, max_failures, fail_fast=fail_fast)
            aside = stack.enter_context(getting_ready(uri))
            execution = compute(
                prepared,
                now,
                place,
                limits,
                began=began,
                on_event=on_event,
                stopping=lambda: _cancellable(prepared, stopping, on_event),
            )
            now = look(prepared)
        else:
            save(prepared, now)
        has_published = False
        if not _was_stopped(execution):
            has_published = publish(now, prepared.weights.path, uri, allow_partial=bool(now.todo), aside=aside)
        run = RunRecord.of(now.layout)
    return Launched(look=now, execution=execution, has_published=has_published, mlflow=uri, run=run)


def find_thresholds(sweep: Sweep, results: str | Location | None, on_event: OnEvent) -> tuple[Look, list[str]]:
    """Find the thresholds of a sweep's trials in this process, and write them to its results.

    Returns:
        The state of the sweep after the calibration, and warnings about the thresholds found.
    Raises:
        InputError: the data or the weights cannot be used, or a calibration failed.
        StorageError: the results cannot be read or written.
    """
    note = _noting(on_event)
    with working_on(results or results_of(sweep), note, sweep):
        prepared = prepare(sweep, results, download=True, on_index=_indexing(on_event), note=note)
        prepared, now = trained(prepared, look(prepared), on_event)
        with contextlib.closing(open_pool(prepared, prepared.weights.path, Place(inline=True))) as pool:
            calibrations, notes = calibrate(prepared, now, Driver(pool, limits_of(sweep)))
        now = replace(now, calibrations=calibrations)
        save(prepared, now, notes)
        write_calibration(now, calibrations)
    return now, notes


def trained(prepared: Prepared, now: Look, on_event: OnEvent) -> tuple[Prepared, Look]:
    """Train the weights if they are missing, and look again. Otherwise return the arguments unchanged."""
    recipe = prepared.weights.recipe
    if recipe is None:
        return prepared, now
    on_event(Message(text=f"training {recipe.name} (kept in {prepared.weights.path})"))
    prepared = train(prepared, lambda report: on_event(EpochEnded(report=report)))
    return prepared, look(prepared)


@contextlib.contextmanager
def _cancellable(prepared: Prepared, stopping: Stopping, on_event: OnEvent) -> Iterator[Stop]:
    """Give a function that returns whether to stop: the caller asks for it, or `rmpsweep cancel` has left its file."""
    cancel, cancelled, looked_at = prepared.layout.cancel, False, 0.0

    def stop() -> bool:
        nonlocal cancelled, looked_at
        if not cancelled and time.monotonic() > looked_at + CANCEL_EVERY_S:
            looked_at = time.monotonic()
            with contextlib.suppress(OSError, StorageError):  # units wait for storage that is away
                cancelled = cancel.is_file()
            if cancelled:
                on_event(Message(text="cancelled: units in flight are finished first"))
        return cancelled or asked()

    with contextlib.suppress(OSError, StorageError):
        cancel.unlink(missing_ok=True)
    try:
        with stopping() as asked:
            yield stop
    finally:
        with contextlib.suppress(OSError, StorageError):
            cancel.unlink(missing_ok=True)


def _ignore(_: object) -> None:
    """Drop an event."""


def _noting(on_event: OnEvent) -> Callable[[str], None]:
    return lambda text: on_event(Message(text=text))


def _indexing(on_event: OnEvent) -> Callable[[str, int, int | None], None]:
    return lambda split, done, total: on_event(IndexGrew(split=split, done=done, total=total))
