"""The commands that check: doctor before a sweep runs, verify after."""

from dataclasses import asdict
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
from rmpsweep.cli.run import check_place
from rmpsweep.display import Display
from rmpsweep.pipeline import results_of
from rmpsweep.storage import locate
from rmpsweep.sweep import load_sweep


def doctor(
    sweep: Annotated[str | None, typer.Argument(metavar="[SWEEP]", help="A sweep: its inputs are checked too.")] = None,
    results: ResultsOption = None, address: AddressOption = None, mlflow: MlflowOption = None, set_: SetOption = None,
    json_: JsonOption = False,
) -> None:  # fmt: skip
    """Check that this machine, and every node of a cluster, can run a sweep; with one, its data, weights and results.

    Usage: rmpsweep doctor quickstart --address auto
    """
    from rmpsweep.doctor import examine

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
    target: TargetArgument, results: ResultsOption = None,
    units: Annotated[int, typer.Option("--units", min=1, help="So many units, drawn at random.")] = 5,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw.")] = 0,
    actors: ActorsOption = None, inline: InlineOption = False, address: AddressOption = None, json_: JsonOption = False,
) -> None:  # fmt: skip
    """Compute units of a sweep again and compare every bit with what is on disk; changes nothing.

    Usage: rmpsweep verify quickstart --units 10
    """
    from rmpsweep.verify import verify_units

    display = Display(json_)
    check_place(inline, actors, address)
    found = verify_units(
        results_directory(target, results), units, seed, display.line, inline=inline, actors=actors, address=address
    )
    display.line(found.summary())
    display.document(found.document())
    found.check()
