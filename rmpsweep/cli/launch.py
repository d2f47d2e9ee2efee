"""The command launch, which computes what is missing of a sweep, then merges, reports and logs."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from rmpsweep.cli.options import (
    ActorsOption,
    AddressOption,
    FailFastOption,
    InlineOption,
    JsonOption,
    LaunchOptions,
    LimitOption,
    MaxFailuresOption,
    MlflowOption,
    ResultsOption,
    SetOption,
    SubmitOption,
    SweepArgument,
)
from rmpsweep.cli.submit import submit_launch
from rmpsweep.errors import StoppedError
from rmpsweep.formats import duration

if TYPE_CHECKING:
    from rmpsweep.cli.display import Display
    from rmpsweep.pipeline.launch import Launched


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
    """Compute what is missing of a sweep, then merge the results, write the report and log to MLflow.

    Usage: rmpsweep launch quickstart

    The same command continues an interrupted sweep. After a change of the grid, another T or a larger --limit, it
    computes only what is new. Ctrl-C lets units in flight finish; a second Ctrl-C drops them.
    """
    began = time.time()
    from rmpsweep.cli.display import Display
    from rmpsweep.cli.follow import Follower
    from rmpsweep.pipeline.launch import run_launch
    from rmpsweep.pipeline.place import Place
    from rmpsweep.sweep.file import load_sweep

    display = Display(json_)
    place = Place(inline=inline, actors=actors, address=address)
    loaded = load_sweep(sweep, set_ or ())
    if submit:
        options = LaunchOptions(
            limit=limit, actors=actors, mlflow=mlflow, max_failures=max_failures, fail_fast=fail_fast
        )
        submit_launch(loaded, results, address, options, display)
        return
    follower = Follower(display)
    try:
        done = run_launch(
            loaded,
            results,
            limit=limit,
            place=place,
            mlflow=mlflow,
            max_failures=max_failures,
            fail_fast=fail_fast,
            on_event=follower,
            stopping=follower.stopping,
        )
        if not done.was_stopped:
            _show(done, display, began)
        done.check()
    except StoppedError as stopped:
        display.line(str(stopped))
        raise typer.Exit(stopped.exit_code) from None
    except KeyboardInterrupt:
        display.line("interrupted: committed units are kept; the same command continues")
        raise typer.Exit(StoppedError.exit_code) from None


def _show(done: "Launched", display: "Display", began: float) -> None:
    """Print the results of a launch."""
    from rmpsweep.pipeline.compute import input_figures
    from rmpsweep.pipeline.status import search_answer, skipped_note
    from rmpsweep.results import digest
    from rmpsweep.stats.firing import flag_layers
    from rmpsweep.tracking import without_password

    if not done.has_published:
        display.line("nothing to do: every result is there, merged, reported and logged")
    now, results = done.look, done.results
    display.summary(results.summary)
    if now.search is not None:
        display.line(str(now.search))
    for line in search_answer(now, results.summary):
        display.line(line)
    for line in skipped_note(now.plan):
        display.line(f"warning: {line}")
    images = None if done.execution is None else input_figures(done.execution)
    if images is not None and (advice := images.advice()):
        display.line(f"warning: {advice}")
    flagged = flag_layers(results.summary, results.activity)
    if flagged:
        how_many = f"{len(flagged)} of {len(now.plan.trials)} trials"
        display.line(f"warning: saturated or silent layers in {how_many}, which status lists; first {flagged[0]}")
    for warning in done.run.baseline_warnings:
        display.line(f"warning: {warning}")
    logged, report, sha256 = without_password(done.mlflow or "none"), now.layout.report, digest(now.layout.predictions)
    shown = (("report", report), ("mlflow", logged), ("results", results.path), ("digest", sha256[:16]))
    for what, where in shown:
        display.line(f"{what:8} {where}")
    display.line(f"{'time':8} {duration(time.time() - began)}")
    display.document(
        {
            "results": str(results.path),
            "report": str(report),
            "mlflow": logged,
            "predictions_sha256": sha256,
            "units_run": len(done.execution.outcomes) if done.execution else 0,
            "units_left": len(now.todo),
            "input": images.document() if images is not None else None,
            "flagged_layers": [asdict(trial) for trial in flagged],
            "baseline_warnings": done.run.baseline_warnings,
            "summary": results.summary.to_pylist(),
        }
    )
