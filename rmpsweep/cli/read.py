"""The commands that read a results directory: status, merge, log, report and claims."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmpsweep.cli.options import JsonOption, MlflowOption, ResultsOption, TargetArgument, results_directory
from rmpsweep.errors import StoppedError, SweepError
from rmpsweep.formats import duration, quantity

if TYPE_CHECKING:
    from rmpsweep.cli.display import Display
    from rmpsweep.pipeline.prepare import Planned
    from rmpsweep.storage import Location


def status(
    target: TargetArgument,
    results: ResultsOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show the status again and again while a launch runs.")
    ] = False,
    every: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two displays with --watch.")] = 10.0,
    json_: JsonOption = False,
) -> None:
    """Show what is done and what is left of a sweep, and the accuracies so far, from the results directory alone.

    Usage: rmpsweep status quickstart --watch
    """
    from rmpsweep.cli.display import Display

    display = Display(json_)
    where = results_directory(target, results)
    running = _show_status(display, where)
    try:
        while watch and running:
            time.sleep(every)
            display.clear()
            running = _show_status(display, where)
    except KeyboardInterrupt:
        raise typer.Exit(StoppedError.exit_code) from None
    if watch:
        display.line("no launch runs")


def _show_status(display: "Display", where: "Location") -> bool:
    """Print the status; the answer is whether a launch is running."""
    from rmpsweep.data.figures import InputFigures
    from rmpsweep.pipeline.look import look
    from rmpsweep.pipeline.prepare import reopen
    from rmpsweep.pipeline.status import skipped_note, status_document

    now = look(reopen(where))
    standing = status_document(now)
    running = standing["running"]
    display.standing(standing, now.plan.limit, now.plan.time_steps[-1])
    for name, why in standing["rejected"].items():
        display.line(f"unit file {name} does not count: {why}")
    for bad in standing["quarantined"]:
        display.line(f"unit {bad['unit']} is quarantined after {bad['attempts']} attempts: {bad['message']}")
    for line in [*skipped_note(now.plan), *standing["flagged_layers"]]:
        display.line(f"warning: {line}")
    if running:
        _show_running(display, running)
    images = InputFigures.read(standing["input"])
    if str(images):
        display.line(f"{'input' if running else 'input of the last launch'}: {images}")
    if advice := images.advice():
        display.line(f"warning: {advice}")
    rate = "its rate" if running else "the last launch's rate"
    eta = "" if not standing["eta_s"] else f", about {duration(standing['eta_s'])} at {rate}"
    steps = quantity(standing["image_steps_left"])
    at_most = ", at most" if now.sweep.search and now.todo else ""
    display.line(f"{standing['units_left']} units left ({steps} image-steps{at_most}){eta}")
    display.document(standing)
    return running is not None


def merge(
    target: TargetArgument,
    results: ResultsOption = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Merge the results that exist although some are missing.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Make the result tables from the committed units. Missing results are an error unless --allow-partial is given.

    Usage: rmpsweep merge quickstart --allow-partial
    """
    from rmpsweep.cli.display import Display
    from rmpsweep.pipeline.look import look
    from rmpsweep.pipeline.publish import merge_tables

    display = Display(json_)
    with _reopened(target, results, display) as planned:
        now = look(planned)
        tables = merge_tables(now, allow_partial=allow_partial)
    display.line(f"{tables.predictions.num_rows} of {now.plan.num_cells} predictions in {now.layout.root}")
    display.document({"predictions": tables.predictions.num_rows, "cells": now.plan.num_cells})


def log(
    target: TargetArgument, results: ResultsOption = None, mlflow: MlflowOption = None, json_: JsonOption = False
) -> None:
    """Log the merged results to MLflow. Logging the same results again changes nothing.

    Usage: rmpsweep log quickstart --mlflow http://127.0.0.1:5000
    """
    from rmpsweep.cli.display import Display
    from rmpsweep.pipeline import publish
    from rmpsweep.results import RunRecord
    from rmpsweep.tracking import check_uri

    display = Display(json_)
    with _reopened(target, results, display) as planned:
        uri = publish.tracking_uri(planned, mlflow)
        if uri is None:
            raise SweepError("--mlflow: got 'none', expected a tracking URI")
        check_uri(uri)
        summary = publish.read_tables(planned.layout).summary
        logged = publish.log(planned, summary, RunRecord.of(planned.layout), uri)
    display.line(f"{logged.runs_total} runs at {logged.tracking_uri}, {logged.runs_created} of them new")
    display.document(asdict(logged))


def report(target: TargetArgument, results: ResultsOption = None, json_: JsonOption = False) -> None:
    """Write the page report.html again from the merged tables.

    Usage: rmpsweep report quickstart
    """
    from rmpsweep.cli.display import Display
    from rmpsweep.pipeline.publish import draw_report
    from rmpsweep.results import RunRecord, write_text

    display = Display(json_)
    with _reopened(target, results, display) as planned:
        write_text(planned.layout.report, draw_report(planned, RunRecord.of(planned.layout)))
    display.line(str(planned.layout.report))
    display.document({"report": str(planned.layout.report)})


def claims(
    subject: Annotated[
        str, typer.Argument(metavar="SUBJECT", help="Which claim to examine: response, steps, loss or activity.")
    ],
    target: Annotated[
        str | None,
        typer.Argument(metavar="SWEEP", help="A sweep, or a results directory; must be left out for response."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder to write the files to; default is claims/ in the results, or claims/ here for response.",
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Compare a claim of the RMP-SNN paper with measured results: tables, a figure (SVG and PNG) and its points (CSV).

    Usage: rmpsweep claims steps quickstart
    """
    from rmpsweep.claims import examine, write
    from rmpsweep.cli.display import Display
    from rmpsweep.results import Layout

    display = Display(json_)
    layout = None if target is None else Layout(results_directory(target, None))
    claim = examine(subject, layout)
    written = [str(path) for path in write(claim, out or (layout.root if layout else Path()) / "claims")]
    display.claim(claim)
    for path in written:
        display.line(path)
    display.document(claim.document() | {"files": written})


def _show_running(display: "Display", running: dict[str, Any]) -> None:
    """Print what the running launch reports about itself."""
    columns = ("worker", "job", "done", "seconds", "place")
    rows = [
        [f"{flight[key]:.0%}" if key == "done" else flight[key] for key in columns] for flight in running["in_flight"]
    ]
    workers = ", ".join(f"{number} {state}" for state, number in running["workers"].items())
    display.table(
        f"{running['stage']} for {duration(running['written'] - running['began'])}; workers: {workers}", columns, rows
    )
    for each in running["last_errors"]:
        display.line(f"{each['job']} on {each['worker']}: {each['message']}")
    counts = ", ".join(f"{running[f'jobs_{what}']} {what}" for what in ("done", "waiting", "retried", "quarantined"))
    display.line(f"{counts}; {quantity(running['image_steps_per_s'])} image-steps/s")


@contextlib.contextmanager
def _reopened(target: str, results: str | None, display: "Display") -> Iterator["Planned"]:
    """Give what was launched in a results directory, and keep other commands from working on it meanwhile."""
    from rmpsweep.pipeline.prepare import reopen, working_on

    where = results_directory(target, results)
    reopen(where)  # raises where there is no results directory, before anything is made there
    with working_on(where, display.line):
        yield reopen(where)
