"""The commands beside launch that plan and compute: plan, train and calibrate."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rmpsweep.cli.display import Display, plan_rows
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
from rmpsweep.errors import SweepError
from rmpsweep.formats import duration
from rmpsweep.models.recipe import read_card
from rmpsweep.pipeline import publish
from rmpsweep.pipeline import status as overview
from rmpsweep.pipeline import verbs as pipeline
from rmpsweep.pipeline.verbs import Prepared
from rmpsweep.pipeline.weights import train_recipe, trained_weights
from rmpsweep.sweep.file import load_recipe, load_sweep
from rmpsweep.tracking import check_uri, without_password
from rmpsweep.workers.driver import Driver


def plan(
    sweep: SweepArgument,
    results: ResultsOption = None,
    limit: LimitOption = None,
    actors: ActorsOption = None,
    inline: InlineOption = False,
    address: AddressOption = None,
    mlflow: MlflowOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Show what launch would do with the same options; changes nothing.

    Usage: rmpsweep plan quickstart --set 'grid.alpha={start: 0.1, stop: 1, num: 10}'
    """
    display = Display(json_)
    check_place(inline, actors, address)
    prepared = pipeline.prepare(
        load_sweep(sweep, set_ or ()), results, limit, on_index=display.indexing, note=display.line
    )
    uri = publish.mlflow_uri(prepared, mlflow)
    if uri is not None:
        check_uri(uri)
    prepared, progress = pipeline.advance(prepared, pipeline.inspect(prepared))
    workers = 1 if inline else actors or prepared.sweep.run.actors
    progress = pipeline.cut(prepared, progress, workers or 1)
    figures, trials = overview.plan_figures(prepared, progress, workers), overview.trial_rows(prepared)
    figures |= {
        "where": "this process" if inline else f"Ray, {address or 'started here'}",
        "mlflow": without_password(uri or "none"),
    }
    display.table(f"Plan of {prepared.sweep.name}", ("", ""), plan_rows(figures))
    display.trials(trials)
    for line in overview.skipped_note(prepared.plan):
        display.line(f"warning: {line}")
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
    display.line(
        f"{weights.path}: {accuracy['correct']} of {accuracy['images']} test images correct, "
        f"{card.parameters} parameters, {duration(card.duration_s)}"
    )
    display.document({"weights": str(weights.path), **asdict(card)})


def calibrate(
    sweep: SweepArgument, results: ResultsOption = None, set_: SetOption = None, json_: JsonOption = False
) -> None:
    """Find the thresholds of a sweep's trials, in this process, and keep them in its results.

    Usage: rmpsweep calibrate quickstart
    """
    display = Display(json_)
    loaded = load_sweep(sweep, set_ or ())
    with pipeline.working_on(results or pipeline.results_of(loaded), display.line, loaded):
        prepared = pipeline.prepare(loaded, results, download=True, on_index=display.indexing, note=display.line)
        prepared = trained(prepared, display)
        known = pipeline.inspect(prepared).thresholds
        driver = Driver(pipeline.open_pool(prepared, inline=True), pipeline.limits(prepared.sweep))
        thresholds, notes = pipeline.calibrate(prepared, known, driver)
        pipeline.save(prepared, thresholds, notes)
        publish.write_calibration(prepared, thresholds)
    rules = {t.calibration_id: pipeline.rule_name(t.setting) for t in prepared.plan.trials}
    for key, rule in rules.items():
        rows = [(layer, len(v), f"{min(v):.6g}", f"{max(v):.6g}") for layer, v in thresholds[key].items()]
        display.table(f"{rule}  ({key})", ("layer", "values", "smallest", "largest"), rows)
    for note in notes:
        display.line(f"warning: {note}")
    display.document({rule: thresholds[key] for key, rule in rules.items()})


def check_place(inline: bool, actors: int | None, address: str | None) -> None:
    """Refuse options that contradict each other. Raises SweepError."""
    if inline and (actors is not None or address is not None):
        raise SweepError("--inline runs in this process without Ray: give it, or --actors and --address, not both")


def trained(prepared: Prepared, display: Display) -> Prepared:
    """With weights, which are trained where they are missing."""
    if prepared.weights.recipe is not None:
        display.line(f"training {prepared.weights.recipe.name} (kept in {prepared.weights.path})")
    return pipeline.train(prepared, display.epoch)
