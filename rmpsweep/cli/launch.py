"""The main command: what is missing is computed, then merged, reported and logged."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import typer

from rmpsweep.cli.display import Display
from rmpsweep.cli.options import (
    INTERRUPTED,
    ActorsOption,
    AddressOption,
    FailFastOption,
    InlineOption,
    JsonOption,
    LimitOption,
    MaxFailuresOption,
    MlflowOption,
    ResultsOption,
    SetOption,
    SubmitOption,
    SweepArgument,
)
from rmpsweep.cli.plan import check_place, trained
from rmpsweep.cli.submit import submit_launch
from rmpsweep.errors import IncompleteError, StorageError
from rmpsweep.formats import duration
from rmpsweep.pipeline import publish
from rmpsweep.pipeline import status as overview
from rmpsweep.pipeline import verbs as pipeline
from rmpsweep.pipeline.progress import Watch
from rmpsweep.pipeline.verbs import Prepared, Progress
from rmpsweep.results import check_space, digest
from rmpsweep.stats.firing import flag_layers
from rmpsweep.sweep.file import load_sweep
from rmpsweep.tracking import check_uri, without_password
from rmpsweep.workers.driver import Driver
from rmpsweep.workers.events import Execution, Limits

CANCEL_EVERY_S = 2.0


def launch(
    sweep: SweepArgument,
    results: ResultsOption = None,
    limit: LimitOption = None,
    actors: ActorsOption = None,
    inline: InlineOption = False,
    address: AddressOption = None,
    mlflow: MlflowOption = None,
    set_: SetOption = None,
    max_failures: MaxFailuresOption = None,
    fail_fast: FailFastOption = False,
    submit: SubmitOption = False,
    json_: JsonOption = False,
) -> None:
    """Run what is missing of a sweep, then merge, report and log.

    Usage: rmpsweep launch quickstart

    The same command continues an interrupted sweep; a changed grid, one more T or a larger --limit computes only what
    is new. Ctrl-C lets units in flight finish; a second Ctrl-C drops them.
    """
    display = Display(json_)
    began = time.time()
    check_place(inline, actors, address)
    loaded = load_sweep(sweep, set_ or ())
    if submit:
        options = {"--limit": limit, "--actors": actors, "--mlflow": mlflow, "--max-failures": max_failures}
        given = [text for name, value in options.items() if value is not None for text in (name, str(value))]
        submit_launch(loaded, results, address, [*given, *(["--fail-fast"] if fail_fast else [])], display)
        return
    with pipeline.working_on(results or pipeline.results_of(loaded), display.line, loaded):
        prepared = pipeline.prepare(loaded, results, limit, download=True, on_index=display.indexing, note=display.line)
        uri = publish.mlflow_uri(prepared, mlflow)
        if uri is not None:
            check_uri(uri)
        place = Place(inline, actors, address)
        limits = pipeline.limits(loaded, max_failures, fail_fast=fail_fast)
        prepared, execution = _compute(prepared, place, limits, display, began)
        _publish(prepared, execution, uri, display, began)


@dataclass(frozen=True)
class Place:
    """Where to compute: in this process, or on Ray."""

    inline: bool
    actors: int | None
    address: str | None


def _compute(
    prepared: Prepared, place: Place, limits: Limits, display: Display, began: float
) -> tuple[Prepared, Execution | None]:
    """What is missing, its weights included; what came of it, None where nothing was missing."""
    prepared, progress = pipeline.advance(prepared, pipeline.inspect(prepared))
    if not progress.todo:
        pipeline.save(prepared, progress.thresholds)
        return prepared, None
    check_space(prepared.layout.root, prepared.plan, progress.todo)
    if prepared.weights.recipe is not None:
        prepared = trained(prepared, display)
        prepared, progress = pipeline.advance(prepared, pipeline.inspect(prepared))
    if not place.inline:
        pipeline.check_network(prepared)
    with contextlib.ExitStack() as stack:
        units = stack.enter_context(display.units())
        watch = stack.enter_context(contextlib.closing(Watch(prepared.layout, units.event)))
        opened = pipeline.open_pool(prepared, inline=place.inline, actors=place.actors, address=place.address)
        pool = stack.enter_context(contextlib.closing(opened))
        # Ray takes over the signal handlers when it starts: ours are set after that
        stop = stack.enter_context(_interruptible(prepared, display))
        if pool.note:
            display.line(f"note: {pool.note}")
        driver = Driver(pool, limits)
        thresholds, notes = pipeline.calibrate(prepared, progress.thresholds, driver, watch, stop)
        for note in notes:
            display.line(f"warning: {note}")
        pipeline.save(prepared, thresholds, notes)
        if thresholds != progress.thresholds:
            prepared, progress = pipeline.advance(prepared, pipeline.inspect(prepared))
        execution = Execution()
        while progress.todo and execution.is_whole:
            within = prepared.search.within if prepared.search else None
            progress = pipeline.cut(prepared, progress, pool.wanted(), within)
            execution += pipeline.evaluate(prepared, progress, driver, watch, stop)
            if prepared.search is None:
                break
            known = len(progress.journal.results)
            prepared, progress = pipeline.advance(prepared, pipeline.inspect(prepared))
            if prepared.search is None or len(progress.journal.results) == known:  # what was written is damaged
                break
            pipeline.save(prepared, progress.thresholds)
            display.line(overview.search_note(prepared.search))
        publish.record(prepared, execution, driver.devices, pool.wanted(), began)
    return prepared, execution


def _publish(prepared: Prepared, execution: Execution | None, uri: str | None, display: Display, began: float) -> None:
    """Merge, report and log; say what came of it."""
    progress = pipeline.inspect(prepared)
    if execution is not None and execution.interrupted and not execution.gave_up:
        display.line(f"interrupted: {len(progress.todo)} units left; the same command continues")
        raise typer.Exit(INTERRUPTED)
    tables = publish.publish(prepared, progress, uri, allow_partial=bool(progress.todo))
    if tables is None:
        display.line("nothing to do: every result is there, merged, reported and logged")
        tables = publish.read_tables(prepared.layout)
    summary = tables.summary
    display.summary(summary)
    search = prepared.sweep.search
    if prepared.search is not None and search is not None:
        display.line(overview.search_note(prepared.search))
        for line in overview.search_answer(prepared.search, search.time_steps or prepared.plan.time_steps, summary):
            display.line(line)
    for line in overview.skipped_note(prepared.plan):
        display.line(f"warning: {line}")
    images = publish.input_figures(execution) if execution is not None else None
    if images is not None and (advice := images.advice()):
        display.line(f"warning: {advice}")
    flagged = flag_layers(summary, tables.activity)
    if flagged:
        how_many = f"{len(flagged)} of {len(prepared.plan.trials)} trials"
        display.line(f"warning: saturated or silent layers in {how_many}, which status lists; first {flagged[0]}")
    off = publish.baseline_warnings_of(prepared.layout)
    for warning in off:
        display.line(f"warning: {warning}")
    layout, logged, sha256 = prepared.layout, without_password(uri or "none"), digest(prepared.layout.predictions)
    for what, where in (
        ("report", layout.report),
        ("mlflow", logged),
        ("results", layout.root),
        ("digest", sha256[:16]),
    ):
        display.line(f"{what:8} {where}")
    display.line(f"{'time':8} {duration(time.time() - began)}")
    display.document(
        {
            "results": str(layout.root),
            "report": str(layout.report),
            "mlflow": logged,
            "predictions_sha256": sha256,
            "units_run": len(execution.outcomes) if execution else 0,
            "units_left": len(progress.todo),
            "input": images.document() if images is not None else None,
            "flagged_layers": [asdict(trial) for trial in flagged],
            "baseline_warnings": off,
            "summary": summary.to_pylist(),
        }
    )
    if progress.todo:
        raise IncompleteError(_incomplete_message(prepared, progress, execution))


@contextlib.contextmanager
def _interruptible(prepared: Prepared, display: Display) -> Iterator[Callable[[], bool]]:
    """The first SIGINT or SIGTERM, or `rmpsweep cancel`, asks for a stop; a second signal interrupts."""
    asked, looked_at = False, 0.0
    cancel = prepared.layout.cancel
    with contextlib.suppress(OSError, StorageError):
        cancel.unlink(missing_ok=True)

    def ask(signum: int, frame: Any) -> None:
        del signum, frame
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        display.line("stopping: units in flight are finished first; again to drop them")

    def stop() -> bool:
        nonlocal asked, looked_at
        if not asked and time.monotonic() > looked_at + CANCEL_EVERY_S:
            looked_at = time.monotonic()
            with contextlib.suppress(OSError, StorageError):  # storage that is away is waited for by the units
                asked = cancel.is_file()
            if asked:
                display.line("cancelled: units in flight are finished first")
        return asked

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, ask)
    try:
        yield stop
    except KeyboardInterrupt:
        display.line("interrupted: committed units are kept; the same command continues")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        with contextlib.suppress(OSError, StorageError):
            cancel.unlink(missing_ok=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _incomplete_message(prepared: Prepared, progress: Progress, execution: Execution | None) -> str:
    bad = publish.read_run(prepared.layout).get("quarantined", [])
    lines = [f"  {each['unit']} after {each['attempts']} attempts: {each['message']}" for each in bad]
    gave_up = f"stopped: {execution.gave_up}; " if execution is not None and execution.gave_up else ""
    return "\n".join([f"{gave_up}{len(progress.todo)} units are missing; the same command tries them again", *lines])
