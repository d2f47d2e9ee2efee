"""The commands that check: check tests a network before it is swept, doctor runs before a sweep, verify after it."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

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

DISAGREES = 3
CHECK = Path("check")


def check(
    network: Annotated[
        str,
        typer.Argument(
            help="A sweep, or a network: a name of `rmpsweep list networks`, torchvision:NAME, timm:NAME or "
            "package.module:factory."
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            help="A weights file, or the name of weights that the network's library publishes; default is random "
            "weights.",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--source", help="Where the images come from, as data.source; default is random images."),
    ] = None,
    path: Annotated[str | None, typer.Option("--path", help="Folder or file of the images, as data.path.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="Split of the images, as data.split.")] = None,
    transform: Annotated[
        str | None,
        typer.Option(
            "--transform",
            help="How to transform the images: the name of a preset, or `weights` for what published weights expect.",
        ),
    ] = None,
    image: Annotated[
        str | None, typer.Option("--image", metavar="CxHxW", help="Channels, height and width of random images.")
    ] = None,
    images: Annotated[int, typer.Option("--images", min=1, help="Number of images to compare on.")] = 8,
    time_steps: Annotated[
        int, typer.Option("--time-steps", min=4, help="Number of time steps T, a multiple of 4.")
    ] = 256,
    threshold: Annotated[
        str | None,
        typer.Option(
            "--threshold", help="Threshold rule; default is the sweep's first, or activation_max for a network."
        ),
    ] = None,
    max_pool: Annotated[
        str | None,
        typer.Option(
            "--max-pool",
            help="How max pooling is converted: count, spike or average; default is the sweep's first, or count for a "
            "network.",
        ),
    ] = None,
    numerics: Annotated[
        str | None,
        typer.Option(
            "--numerics",
            help="Number format of the simulation: float64, float32, fixed16 or fixed8; default is the sweep's, or "
            "fixed16 for a network.",
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Convert a network and compare the firing rates of its spiking layers with the ANN's activations on a few images.

    Usage: rmpsweep check torchvision:resnet18 --weights resnet18.pth --images 4

    Under constant input the error of every layer should fall as 1/T. The command names the first layer where it does
    not, with likely causes. Exit codes: 0 if no layer departs from the ANN, 2 if the network cannot be converted (the
    message names the node), 3 if a layer departs from the ANN.
    """
    from rmpsweep.checks.network import check_network, is_network, load_named_network, load_sweeps_network
    from rmpsweep.cli.display import Display
    from rmpsweep.sweep.file import load_sweep, validated
    from rmpsweep.sweep.schema import Data
    from rmpsweep.terms import Setting

    display = Display(json_)
    chosen = {"threshold": threshold, "max_pool": max_pool, "numerics": numerics}
    given = {key: value for key, value in chosen.items() if value is not None}
    own = {"source": source, "path": path, "split": split, "transform": transform}
    data = {key: value for key, value in own.items() if value is not None}
    if is_network(network):
        setting, alphas = validated(Setting, {"threshold": "activation_max"} | given, CHECK), [1.0]
        if data and image is not None:
            raise SweepError("check: --image is the size of random images: give it, or --source, not both")
        found = validated(Data, data, CHECK) if data else None
        subject = load_named_network(network, weights, found, _image_shape(image), images)
    else:
        if data or weights is not None or image is not None:
            raise SweepError(
                f"check: {network!r} is a sweep, whose file names its weights and images; --weights, --source, --path, "
                "--split, --transform and --image are for a network"
            )
        sweep = load_sweep(network)
        settings = sweep.settings()
        setting = validated(Setting, asdict(settings[0]) | given, CHECK)
        alphas = sorted({each.alpha for each in settings})
        subject = load_sweeps_network(sweep, images)
    result = check_network(subject, setting, time_steps, alphas)
    display.agreement(result.agreement)
    if result.rounding is not None:
        most = result.rounding
        display.line(
            f"{setting.numerics}: rounding is expected to change a layer's current by at most {most.deviation:.2g} "
            f"thresholds a step ({most.layer} at α {most.alpha:g})"
        )
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
        str | None, typer.Argument(metavar="[SWEEP]", help="A sweep whose inputs are checked too.")
    ] = None,
    results: ResultsOption = None,
    address: AddressOption = None,
    mlflow: MlflowOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Check that this machine and every node of a cluster can run a sweep, and that a given sweep's inputs are usable.

    Usage: rmpsweep doctor quickstart --address auto
    """
    from rmpsweep.checks.doctor import examine
    from rmpsweep.cli.display import Display
    from rmpsweep.pipeline.prepare import results_of
    from rmpsweep.storage import locate
    from rmpsweep.sweep.file import load_sweep

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
    units: Annotated[int, typer.Option("--units", min=1, help="Number of units to compute, drawn at random.")] = 5,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the random draw.")] = 0,
    actors: ActorsOption = None,
    inline: InlineOption = False,
    address: AddressOption = None,
    json_: JsonOption = False,
) -> None:
    """Compute some units of a sweep again and compare every bit with the files on disk. Nothing is changed.

    Usage: rmpsweep verify quickstart --units 10
    """
    from rmpsweep.checks.verify import verify_units
    from rmpsweep.cli.display import Display
    from rmpsweep.pipeline.place import Place

    display = Display(json_)
    place = Place(inline=inline, actors=actors, address=address)
    found = verify_units(results_directory(target, results), units, seed, display.line, place)
    display.line(found.summary())
    display.document(found.document())
    found.check()
