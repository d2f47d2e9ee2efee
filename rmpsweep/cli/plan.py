"""The commands plan, train and calibrate: what a launch would do, and two of its steps by themselves."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

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
from rmpsweep.formats import duration


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
    """Show what launch would do with the same options. Nothing is computed or changed.

    Usage: rmpsweep plan quickstart --set 'grid.alpha={start: 0.1, stop: 1, num: 10}'
    """
    from rmpsweep.cli.display import Display, plan_rows
    from rmpsweep.pipeline.look import look
    from rmpsweep.pipeline.place import Place
    from rmpsweep.pipeline.prepare import prepare
    from rmpsweep.pipeline.publish import tracking_uri
    from rmpsweep.pipeline.status import plan_figures, skipped_note, trial_rows
    from rmpsweep.sweep.file import load_sweep
    from rmpsweep.tracking import check_uri, without_password

    display = Display(json_)
    place = Place(inline=inline, actors=actors, address=address)
    prepared = prepare(load_sweep(sweep, set_ or ()), results, limit, on_index=display.indexing, note=display.line)
    uri = tracking_uri(prepared, mlflow)
    if uri is not None:
        check_uri(uri)
    now = look(prepared)
    figures, trials = plan_figures(now, prepared.weights, place.workers(prepared.sweep.run)), trial_rows(now.plan)
    figures |= {"where": str(place), "mlflow": without_password(uri or "none")}
    display.table(f"Plan of {now.sweep.name}", ("", ""), plan_rows(figures))
    display.trials(trials)
    for line in skipped_note(now.plan):
        display.line(f"warning: {line}")
    display.document(figures | {"trials": trials})


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a recipe that comes with rmpsweep.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Weights file to write; default is a file in the cache.")
    ] = None,
    mlflow: Annotated[
        str | None,
        typer.Option(
            "--mlflow", help="MLflow tracking URI, or none to log nowhere; default is a database beside the weights."
        ),
    ] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Train a constrained network by a recipe. The same command continues an interrupted training.

    Usage: rmpsweep train digits-vgg-small --out digits.safetensors
    """
    from rmpsweep.cli.display import Display
    from rmpsweep.models.recipe import read_card
    from rmpsweep.pipeline.weights import train_recipe, trained_weights
    from rmpsweep.sweep.file import load_recipe
    from rmpsweep.tracking import check_uri

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
    """Find the thresholds of a sweep's trials in this process, and store them in the results.

    Usage: rmpsweep calibrate quickstart
    """
    from rmpsweep.cli.display import Display
    from rmpsweep.cli.follow import Follower
    from rmpsweep.pipeline.compute import rule_name
    from rmpsweep.pipeline.launch import find_thresholds
    from rmpsweep.sweep.file import load_sweep

    display = Display(json_)
    now, notes = find_thresholds(load_sweep(sweep, set_ or ()), results, Follower(display))
    rules = {trial.calibration_id: rule_name(trial.setting) for trial in now.plan.trials}
    for key, rule in rules.items():
        rows = [(layer, len(v), f"{min(v):.6g}", f"{max(v):.6g}") for layer, v in now.calibrations[key].items()]
        display.table(f"{rule}  ({key})", ("layer", "values", "smallest", "largest"), rows)
    for note in notes:
        display.line(f"warning: {note}")
    display.document({rule: now.calibrations[key] for key, rule in rules.items()})
