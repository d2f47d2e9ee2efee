"""Arguments and options that several commands share."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import typer

from rmpsweep.errors import ResultsError
from rmpsweep.pipeline.prepare import results_of
from rmpsweep.storage import Location, locate
from rmpsweep.sweep.file import load_sweep

SweepArgument = Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep file, or the name of one in sweeps/.")]
TargetArgument = Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep, or a results directory.")]
ResultsOption = Annotated[
    str | None, typer.Option("--results", help="Folder, s3:// or gs:// of the results; default results/<name>.")
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Evaluate at most so many images.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="key.path=value over the sweep file; repeatable.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
ActorsOption = Annotated[int | None, typer.Option("--actors", min=1, help="Ray actors, one network each.")]
InlineOption = Annotated[bool, typer.Option("--inline", help="In this process, without Ray.")]
AddressOption = Annotated[str | None, typer.Option("--address", help="Ray cluster: auto, or host:port.")]
MaxFailuresOption = Annotated[
    int | None, typer.Option("--max-failures", min=0, help="Stop after more than so many failed attempts.")
]
FailFastOption = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first unit that is given up.")]
SubmitOption = Annotated[bool, typer.Option("--submit", help="As a Ray Job of the cluster at --address http://…")]
MlflowOption = Annotated[str | None, typer.Option("--mlflow", help="Tracking URI, or none; default in the results.")]


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchOptions:
    """The options of `launch` that a job on a cluster gets too; each field is named as its option is."""

    limit: int | None
    actors: int | None
    mlflow: str | None
    max_failures: int | None
    fail_fast: bool

    def to_argv(self) -> list[str]:
        """The options as arguments of a command; those that were not given are left out."""
        arguments = []
        for field in fields(self):
            value, option = getattr(self, field.name), f"--{field.name.replace('_', '-')}"
            if value is True:
                arguments.append(option)
            elif value is not None and value is not False:
                arguments += [option, str(value)]
        return arguments


def results_directory(target: str, results: str | None) -> Location:
    """Where the results of a sweep lie, given the sweep or the directory itself. Raises ResultsError."""
    if results is not None:
        return locate(results)
    if "://" in target or Path(target).is_dir():
        return locate(target)
    directory = results_of(load_sweep(target))
    if not directory.is_dir():
        raise ResultsError(f"{directory}: no sweep has been launched here; give its --results directory")
    return directory
