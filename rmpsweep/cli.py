"""The commands. Arguments in, verbs of `pipeline` and `publish` called, text and exit codes out."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from rmpsweep import __version__, overview, pipeline, publish
from rmpsweep.claims import examine, write
from rmpsweep.display import Display, duration, error, plan_rows, quantity
from rmpsweep.errors import IncompleteError, ResultsError, RmpsweepError, SweepError
from rmpsweep.firing import flag_layers, shortened
from rmpsweep.pipeline import Prepared, Progress
from rmpsweep.results import Layout
from rmpsweep.sweep import RECIPES, SWEEPS, load_recipe, load_sweep, names
from rmpsweep.tracking import check_uri, without_password

INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Accuracy against latency of converted spiking networks, over thresholds, resets and time steps.",
)  # fmt: skip

SweepArgument = Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep file, or the name of one in sweeps/.")]
TargetArgument = Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep, or a results directory.")]
ResultsOption = Annotated[Path | None, typer.Option("--results", help="Results directory; default results/<name>.")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Evaluate at most so many images.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="key.path=value over the sweep file; repeatable.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
ActorsOption = Annotated[int | None, typer.Option("--actors", min=1, help="Ray actors, one network each.")]
InlineOption = Annotated[bool, typer.Option("--inline", help="In this process, without Ray.")]
AddressOption = Annotated[str | None, typer.Option("--address", help="Ray cluster: auto, or host:port.")]
MlflowOption = Annotated[str | None, typer.Option("--mlflow", help="Tracking URI, or none; default in the results.")]


@app.command()
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
    summary = publish.read_tables(prepared.layout).summary
    display.summary(summary)
    flagged = flag_layers(summary, publish.read_tables(prepared.layout).activity)
    for line in shortened(flagged):
        display.line(f"warning: {line}")
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


@app.command()
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


@app.command()
def status(target: TargetArgument, results: ResultsOption = None, json_: JsonOption = False) -> None:
    """Show what is done and what is left of a sweep, from its results directory alone.

    Usage: rmpsweep status quickstart
    """
    display = Display(json_)
    prepared = pipeline.reopen(_directory(target, results))
    progress = pipeline.inspect(prepared)
    standing = overview.status_document(prepared, progress)
    shown = ("trial_id", "done", "cells", "threshold", "reset", "alpha")
    display.table(f"Sweep {standing['name']}", shown, [[row.get(key) for key in shown] for row in standing["trials"]])
    for name, why in standing["rejected"].items():
        display.line(f"unit file {name} does not count: {why}")
    for bad in standing["quarantined"]:
        display.line(f"unit {bad['unit']} is quarantined after {bad['attempts']} attempts: {bad['message']}")
    for line in standing["flagged_layers"]:
        display.line(f"warning: {line}")
    eta = "" if standing["eta_s"] is None else f", about {duration(standing['eta_s'])} at the last launch's rate"
    steps = quantity(standing["image_steps_left"])
    display.line(f"{standing['units_left']} units left ({steps} image-steps){eta}")
    display.document(standing)


@app.command()
def merge(
    target: TargetArgument, results: ResultsOption = None,
    allow_partial: Annotated[bool, typer.Option("--allow-partial", help="Merge what is there.")] = False,
    json_: JsonOption = False,
) -> None:  # fmt: skip
    """Make the result tables from the committed units; refuses gaps.

    Usage: rmpsweep merge quickstart --allow-partial
    """
    display = Display(json_)
    prepared = pipeline.reopen(_directory(target, results))
    progress = pipeline.inspect(prepared)
    tables = publish.merge_tables(prepared, progress, allow_partial=allow_partial)
    display.line(f"{tables.predictions.num_rows} of {prepared.plan.num_cells} predictions in {prepared.layout.root}")
    display.document({"predictions": tables.predictions.num_rows, "cells": prepared.plan.num_cells})


@app.command()
def log(
    target: TargetArgument, results: ResultsOption = None, mlflow: MlflowOption = None, json_: JsonOption = False
) -> None:
    """Log merged results to MLflow; logging again changes nothing.

    Usage: rmpsweep log quickstart --mlflow http://127.0.0.1:5000
    """
    display = Display(json_)
    prepared = pipeline.reopen(_directory(target, results))
    uri = publish.mlflow_uri(prepared, mlflow)
    if uri is None:
        raise SweepError("--mlflow: got 'none', expected a tracking URI")
    check_uri(uri)
    logged = publish.log(prepared, publish.read_tables(prepared.layout), uri)
    display.line(f"{logged.runs_total} runs at {logged.tracking_uri}, {logged.runs_created} of them new")
    display.document(asdict(logged))


@app.command()
def report(target: TargetArgument, results: ResultsOption = None, json_: JsonOption = False) -> None:
    """Write report.html again from the merged tables.

    Usage: rmpsweep report quickstart
    """
    prepared = pipeline.reopen(_directory(target, results))
    publish.write_report(prepared, publish.read_tables(prepared.layout))
    display = Display(json_)
    display.line(str(prepared.layout.report))
    display.document({"report": str(prepared.layout.report)})


@app.command()
def claims(
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="response, steps, loss or activity.")],
    target: Annotated[str | None, typer.Argument(metavar="SWEEP", help="As for report; none for response.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the files; default claims/ in results.")] = None,
    json_: JsonOption = False,
) -> None:
    """Hold a claim of RMP-SNN against our own figures: a table, a figure (SVG and PNG) and its points (CSV).

    Usage: rmpsweep claims steps quickstart
    """
    display = Display(json_)
    layout = None if target is None else Layout(_directory(target, None))
    claim = examine(subject, layout)
    written = [str(path) for path in write(claim, out or (layout.root if layout else Path()) / "claims")]
    display.claim(claim)
    for path in written:
        display.line(path)
    display.document(claim.document() | {"files": written})


@app.command()
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
    weights = pipeline.trained_weights(loaded, out, download=True)
    uri = mlflow or f"sqlite:///{weights.path.absolute().parent / 'mlflow.db'}"
    if uri != "none":
        check_uri(uri)
    if weights.recipe is None:
        display.line("nothing to do: these weights are the recipe's")
    else:
        pipeline.train_recipe(loaded, weights.path, display.epoch, None if uri == "none" else uri)
    card = pipeline.read_card(weights.path)
    assert card is not None
    accuracy = card.test_accuracy
    display.line(f"{weights.path}: {accuracy['correct']} of {accuracy['images']} test images correct, "
                 f"{card.parameters} parameters, {duration(card.duration_s)}")  # fmt: skip
    display.document({"weights": str(weights.path), **asdict(card)})


@app.command()
def calibrate(
    sweep: SweepArgument, results: ResultsOption = None, set_: SetOption = None, json_: JsonOption = False
) -> None:
    """Find the thresholds of a sweep's trials, in this process, and keep them in its results.

    Usage: rmpsweep calibrate quickstart
    """
    display = Display(json_)
    prepared = _trained(pipeline.prepare(load_sweep(sweep, set_ or ()), results), display)
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


@app.command(name="list")
def list_(what: Annotated[str, typer.Argument(help="sweeps, recipes, networks, presets, thresholds …")] = "",
          json_: JsonOption = False) -> None:  # fmt: skip
    """List the names a sweep file can use.

    Usage: rmpsweep list networks
    """
    from rmpsweep.data import SOURCES, TRANSFORMS
    from rmpsweep.models.registry import ANY_EXTERNAL, NETWORKS, list_networks
    from rmpsweep.terms import THRESHOLD_METHODS
    from rmpsweep.thresholds import PRESETS

    catalogue: dict[str, dict[str, str]] = {
        "sweeps": {name: _headline(SWEEPS / f"{name}.yaml") for name in names(SWEEPS)},
        "recipes": {name: _headline(RECIPES / f"{name}.yaml") for name in names(RECIPES)},
        "networks": {name: info.description for name, info in NETWORKS.items()},
        "sources": SOURCES,
        "transforms": {name: str(transform) for name, transform in TRANSFORMS.items()},
        "thresholds": THRESHOLD_METHODS,
        "presets": {name: preset.description for name, preset in PRESETS.items()},
    }
    if what and what not in catalogue:
        raise SweepError(f"list: got {what!r}, expected one of {', '.join(catalogue)}")
    display = Display(json_)
    if what == "networks":
        networks = list_networks()
        columns = ("name", "image", "classes", "parameters", "MACs per image", "source")
        display.table(what, columns, [[_grouped(value) for value in row.values()] for row in networks])
        display.line(ANY_EXTERNAL)
        display.document({what: networks})
        return
    chosen = {what: catalogue[what]} if what else catalogue
    for title, entries in chosen.items():
        display.table(title, ("name", ""), entries.items())
    display.document(chosen)


@app.command()
def doctor(results: ResultsOption = None, mlflow: MlflowOption = None, json_: JsonOption = False) -> None:
    """Check that this machine can run a sweep: packages, device, Ray, storage, MLflow.

    Usage: rmpsweep doctor
    """
    from rmpsweep.doctor import examine

    display = Display(json_)
    findings = examine(results or Path("results"), mlflow)
    rows = [(f.check, "ok" if f.ok else "PROBLEM", f.detail, f.remedy) for f in findings]
    display.table("Doctor", ("check", "", "", "remedy"), rows)
    display.document([asdict(finding) for finding in findings])
    if not all(finding.ok for finding in findings):
        raise typer.Exit(4)


def main() -> None:
    """Entry point: errors to standard error, exit codes of `errors`."""
    # OpenMP threads that spin long while they wait starve each other once another program runs; read when torch loads
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app()
    except RmpsweepError as problem:
        error(str(problem))
        sys.exit(problem.exit_code)


def _version(show: bool) -> None:
    if show:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Version.")] = False,
) -> None:
    """Options of the program itself."""


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


def _directory(target: str, results: Path | None) -> Path:
    if results is not None:
        return results
    if Path(target).is_dir():
        return Path(target)
    directory = Path("results") / load_sweep(target).name
    if not directory.is_dir():
        raise ResultsError(f"{directory}: no sweep has been launched here; give its --results directory")
    return directory


def _grouped(value: object) -> object:
    """A number with its thousands apart, anything else as it is."""
    return f"{value:,}" if isinstance(value, int) else value


def _headline(path: Path) -> str:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("# ") if first.startswith("#") else ""


def _quarantine_message(prepared: Prepared, progress: Progress) -> str:
    bad = publish.read_run(prepared.layout).get("quarantined", [])
    lines = [f"  {each['unit']} after {each['attempts']} attempts: {each['message']}" for each in bad]
    return "\n".join([f"{len(progress.todo)} units are missing; the same command tries them again", *lines])
