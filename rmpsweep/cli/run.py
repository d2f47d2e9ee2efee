"""The commands that compute: launch and plan, train and calibrate."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from rmpsweep import overview, pipeline, publish
from rmpsweep.cli.options import (
    ActorsOption,
    AddressOption,
    InlineOption,
    JsonOption,
    LimitOption,
    MlflowOption,
    ResultsOption,
    SetOption,
    SweepArgument,
)
from rmpsweep.display import Display, duration, plan_rows
from rmpsweep.errors import IncompleteError, SweepError
from rmpsweep.firing import flag_layers
from rmpsweep.models.recipe import read_card
from rmpsweep.pipeline import Prepared, Progress
from rmpsweep.sweep import load_recipe, load_sweep
from rmpsweep.tracking import check_uri, without_password
from rmpsweep.trained import train_recipe, trained_weights

INTERRUPTED = 130


def launch(
    sweep: SweepArgument, results: ResultsOption = None, limit: LimitOption = None, actors: ActorsOption = None,
    inline: InlineOption = False, address: AddressOption = None, mlflow: MlflowOption = None, set_: SetOption = None,
    json_: JsonOption = False,
) -> None:  # fmt: skip
    """Run what is missing of a sweep, then merge, report and log.

    Usage: rmpsweep launch quickstart

    The same command continues an interrupted sweep; a changed grid, one more T or a larger --limit computes only what
    is new. Ctrl-C lets units in flight finish; a second Ctrl-C drops them.
    """
    display = Display(json_)
    began = time.time()
    _check_place(inline, actors, address)
    prepared = pipeline.prepare(load_sweep(sweep, set_ or ()), results, limit, download=True)
    uri = publish.mlflow_uri(prepared, mlflow)
    if uri is not None:
        check_uri(uri)
    progress = pipeline.inspect(prepared)
    execution = None
    if progress.todo:
        prepared = _trained(prepared, display)
        if not inline:
            pipeline.check_network(prepared)
        opened = pipeline.open_pool(prepared, inline=inline, actors=actors, address=address)
        # Ray takes over the signal handlers when it starts: ours are set after that
        with contextlib.closing(opened) as pool, _interruptible(display) as stop:
            thresholds, notes = pipeline.calibrate(prepared, pipeline.inspect(prepared).thresholds, pool, stop)
            for note in notes:
                display.line(f"warning: {note}")
            pipeline.save(prepared, thresholds, notes)
            progress = pipeline.inspect(prepared)
            with display.units(progress.todo, pool.num_workers) as units:
                execution = pipeline.evaluate(prepared, progress, pool, units.event, stop)
            devices = pool.devices
        publish.record(prepared, execution, devices, began)
        progress = pipeline.inspect(prepared)
    else:
        pipeline.save(prepared, progress.thresholds)
    if execution is not None and execution.interrupted:
        display.line(f"interrupted: {len(progress.todo)} units left; the same command continues")
        raise typer.Exit(INTERRUPTED)
    tables = publish.publish(prepared, progress, uri, allow_partial=bool(progress.todo))
    if tables is None:
        display.line("nothing to do: every result is there, merged, reported and logged")
        tables = publish.read_tables(prepared.layout)
    summary = tables.summary
    display.summary(summary)
    flagged = flag_layers(summary, tables.activity)
    if flagged:
        how_many = f"{len(flagged)} of {len(prepared.plan.trials)} trials"
        display.line(f"warning: saturated or silent layers in {how_many}, which status lists; first {flagged[0]}")
    layout, logged = prepared.layout, without_password(uri or "none")
    for what, where in (("report", layout.report), ("mlflow", logged), ("results", layout.root)):
        display.line(f"{what:8} {where}")
    display.line(f"{'time':8} {duration(time.time() - began)}")
    display.document(
        {
            "results": str(layout.root),
            "report": str(layout.report),
            "mlflow": logged,
            "units_run": len(execution.outcomes) if execution else 0,
            "units_left": len(progress.todo),
            "flagged_layers": [asdict(trial) for trial in flagged],
            "summary": summary.to_pylist(),
        }
    )
    if progress.todo:
        raise IncompleteError(_quarantine_message(prepared, progress))


def plan(
    sweep: SweepArgument, results: ResultsOption = None, limit: LimitOption = None, actors: ActorsOption = None,
    inline: InlineOption = False, address: AddressOption = None, mlflow: MlflowOption = None, set_: SetOption = None,
    json_: JsonOption = False,
) -> None:  # fmt: skip
    """Show what launch would do with the same options; changes nothing.

    Usage: rmpsweep plan quickstart --set 'grid.alpha={start: 0.1, stop: 1, num: 10}'
    """
    display = Display(json_)
    _check_place(inline, actors, address)
    prepared = pipeline.prepare(load_sweep(sweep, set_ or ()), results, limit)
    uri = publish.mlflow_uri(prepared, mlflow)
    if uri is not None:
        check_uri(uri)
    progress = pipeline.inspect(prepared)
    workers = 1 if inline else actors or prepared.sweep.run.actors
    figures, trials = overview.plan_figures(prepared, progress, workers), overview.trial_rows(prepared)
    figures |= {
        "where": "this process" if inline else f"Ray, {address or 'started here'}",
        "mlflow": without_password(uri or "none"),
    }
    display.table(f"Plan of {prepared.sweep.name}", ("", ""), plan_rows(figures))
    display.trials(trials)
    display.document(figures | {"trials": trials})


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of one that ships.")],
    out: Annotated[Path | None, typer.Option("--out", help="Weights file; default in the cache.")] = None,
    mlflow: Annotated[str | None, typer.Option("--mlflow", help="Tracking URI; default beside the weights.")] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Train a constrained network; the same command continues an interrupted training.

    Usage: rmpsweep train digits-vgg-small --out digits.safetensors
    """
    display = Display(json_)
    loaded = load_recipe(recipe, set_ or ())
    weights = trained_weights(loaded, out, download=True)
    uri = mlflow or f"sqlite:///{weights.path.absolute().parent / 'mlflow.db'}"
    if uri != "none":
        check_uri(uri)
    if weights.recipe is None:
        display.line("nothing to do: these weights are the recipe's")
    else:
        train_recipe(loaded, weights.path, display.epoch, None if uri == "none" else uri)
    card = read_card(weights.path)
    assert card is not None
    accuracy = card.test_accuracy
    display.line(f"{weights.path}: {accuracy['correct']} of {accuracy['images']} test images correct, "
                 f"{card.parameters} parameters, {duration(card.duration_s)}")  # fmt: skip
    display.document({"weights": str(weights.path), **asdict(card)})


def calibrate(
    sweep: SweepArgument, results: ResultsOption = None, set_: SetOption = None, json_: JsonOption = False
) -> None:
    """Find the thresholds of a sweep's trials, in this process, and keep them in its results.

    Usage: rmpsweep calibrate quickstart
    """
    display = Display(json_)
    prepared = _trained(pipeline.prepare(load_sweep(sweep, set_ or ()), results, download=True), display)
    known = pipeline.inspect(prepared).thresholds
    pool = pipeline.open_pool(prepared, inline=True)
    thresholds, notes = pipeline.calibrate(prepared, known, pool)
    pipeline.save(prepared, thresholds, notes)
    publish.write_calibration(prepared, thresholds)
    rules = {t.calibration_id: pipeline.rule_name(t.setting) for t in prepared.plan.trials}
    for key, rule in rules.items():
        rows = [(layer, len(v), f"{min(v):.6g}", f"{max(v):.6g}") for layer, v in thresholds[key].items()]
        display.table(f"{rule}  ({key})", ("layer", "values", "smallest", "largest"), rows)
    for note in notes:
        display.line(f"warning: {note}")
    display.document({rule: thresholds[key] for key, rule in rules.items()})


def _check_place(inline: bool, actors: int | None, address: str | None) -> None:
    if inline and (actors is not None or address is not None):
        raise SweepError("--inline runs in this process without Ray: give it, or --actors and --address, not both")


def _trained(prepared: Prepared, display: Display) -> Prepared:
    if prepared.weights.recipe is not None:
        display.line(f"training {prepared.weights.recipe.name} (kept in {prepared.weights.path})")
    return pipeline.train(prepared, display.epoch)


@contextlib.contextmanager
def _interruptible(display: Display) -> Iterator[Callable[[], bool]]:
    """The first SIGINT or SIGTERM asks for a stop, the second one interrupts."""
    asked = False

    def ask(signum: int, frame: Any) -> None:
        del signum, frame
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        display.line("stopping: units in flight are finished first; again to drop them")

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, ask)
    try:
        yield lambda: asked
    except KeyboardInterrupt:
        display.line("interrupted: committed units are kept; the same command continues")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _quarantine_message(prepared: Prepared, progress: Progress) -> str:
    bad = publish.read_run(prepared.layout).get("quarantined", [])
    lines = [f"  {each['unit']} after {each['attempts']} attempts: {each['message']}" for each in bad]
    return "\n".join([f"{len(progress.todo)} units are missing; the same command tries them again", *lines])
