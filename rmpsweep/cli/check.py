"""The commands that check: `check` a network, `doctor` the machines before a sweep, and `verify` its results."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rmpsweep.cli.display import Display
from rmpsweep.cli.options import (
    ActorsOption,
    AddressOption,
    InlineOption,
    JsonOption,
    MlflowOption,
    ResultsOption,
    SetOption,
    TargetArgument,
    results_directory,
)
from rmpsweep.errors import SweepError
from rmpsweep.pipeline.place import Place
from rmpsweep.pipeline.prepare import results_of
from rmpsweep.storage import locate
from rmpsweep.sweep.file import load_sweep, validated
from rmpsweep.sweep.schema import Data
from rmpsweep.terms import Setting

DISAGREES = 3
CHECK = Path("check")


def check(
    network: Annotated[
        str,
        typer.Argument(help="A sweep, or a network: its name, torchvision:NAME, timm:NAME or package.module:factory."),
    ],
    weights: Annotated[
        str | None,
        typer.Option("--weights", help="A weights file, or the name of published weights; default is random weights."),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", help="The source of the images, as data.source; default is random images.")
    ] = None,
    path: Annotated[str | None, typer.Option("--path", help="The path of the images, as data.path.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="The split of the images, as data.split.")] = None,
    transform: Annotated[
        str | None, typer.Option("--transform", help="The transform of the images: a preset's name, or weights.")
    ] = None,
    image: Annotated[
        str | None, typer.Option("--image", metavar="CxHxW", help="The shape of the random images.")
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="The number of images.")] = 8,
    time_steps: Annotated[
        int, typer.Option("--time-steps", min=4, help="The number of time steps T, a multiple of 4.")
    ] = 256,
    threshold: Annotated[
        str | None,
        typer.Option("--threshold", help="The threshold rule; default is the sweep's first, or activation_max."),
    ] = None,
    max_pool: Annotated[
        str | None, typer.Option("--max-pool", help="count, spike or average; default is the sweep's first, or count.")
    ] = None,
    numerics: Annotated[
        str, typer.Option("--numerics", help="The numerics: float64, float32, fixed16 or fixed8.")
    ] = "float64",
    json_: JsonOption = False,
) -> None:
    """Convert a network and compare the rates of its spiking layers with the ANN's activations, on a few images.

    Usage: rmpsweep check torchvision:resnet18 --weights resnet18.pth --images 4

    Under constant input every layer's error should fall as 1/T; the first one where it does not is named, with likely
    causes. Exit codes: 0 all layers agree, 2 the network cannot be converted (the node is named), 3 a layer parts.
    """
    from rmpsweep.checks.network import check_network, is_network, load_named_network, load_sweeps_network

    display = Display(json_)
    chosen = {"threshold": threshold, "max_pool": max_pool}
    given = {key: value for key, value in chosen.items() if value is not None} | {"numerics": numerics}
    own = {"source": source, "path": path, "split": split, "transform": transform}
    data = {key: value for key, value in own.items() if value is not None}
    if is_network(network):
        setting = validated(Setting, {"threshold": "activation_max"} | given, CHECK)
        if data and image is not None:
            raise SweepError("check: --image is the size of random images: give it, or --source, not both")
        found = validated(Data, data, CHECK) if data else None
        subject = load_named_network(network, weights, found, _image_shape(image), images)
    else:
        if data or weights is not None or image is not None:
            raise SweepError(
                f"check: {network!r} is a sweep, which says itself what its weights and images are; give "
                "--weights, --source, --path, --split, --transform and --image with a network"
            )
        sweep = load_sweep(network)
        setting = validated(Setting, asdict(sweep.settings()[0]) | given, CHECK)
        subject = load_sweeps_network(sweep, images)
    result = check_network(subject, setting, time_steps)
    display.agreement(result.agreement)
    for warning in result.warnings:
        display.line(f"warning: {warning}")
    for cause in result.agreement.causes:
        display.line(f"likely:  {cause}")
    display.line(result.summary())
    display.document(result.document())
    if result.agreement.parting is not None:
        raise typer.Exit(DISAGREES)


def _image_shape(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", text):
        raise SweepError(f"check: --image: got {text!r}, expected channels, height and width, such as 3x224x224")
    channels, height, width = (int(part) for part in text.split("x"))
    return channels, height, width


def doctor(
    sweep: Annotated[
        str | None, typer.Argument(metavar="[SWEEP]", help="A sweep whose data, weights and results are checked too.")
    ] = None,
    results: ResultsOption = None,
    address: AddressOption = None,
    mlflow: MlflowOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Check that this machine, and every node of a cluster, can run a sweep; with one, its data, weights and results.

    Usage: rmpsweep doctor quickstart --address auto
    """
    from rmpsweep.checks.doctor import examine

    display = Display(json_)
    loaded = None if sweep is None else load_sweep(sweep, set_ or ())
    place = locate(results or ("results" if loaded is None else results_of(loaded)))
    findings = examine(place, mlflow, loaded, address)
    rows = [(f.check, "ok" if f.ok else "PROBLEM", f.detail, f.remedy) for f in findings]
    display.table("Doctor", ("check", "", "", "remedy"), rows)
    display.document([asdict(finding) for finding in findings])
    if not all(finding.ok for finding in findings):
        raise typer.Exit(4)


def verify(
    target: TargetArgument,
    results: ResultsOption = None,
    units: Annotated[int, typer.Option("--units", min=1, help="The number of units, drawn at random.")] = 5,
    seed: Annotated[int, typer.Option("--seed", help="The seed of the draw.")] = 0,
    actors: ActorsOption = None,
    inline: InlineOption = False,
    address: AddressOption = None,
    json_: JsonOption = False,
) -> None:
    """Compute units of a sweep again and compare every bit with what is on disk; changes nothing.

    Usage: rmpsweep verify quickstart --units 10
    """
    from rmpsweep.checks.verify import verify_units

    display = Display(json_)
    place = Place(inline=inline, actors=actors, address=address)
    found = verify_units(results_directory(target, results), units, seed, display.line, place)
    display.line(found.summary())
    display.document(found.document())
    found.check()
