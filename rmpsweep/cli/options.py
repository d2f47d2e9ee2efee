"""Arguments and options that several commands share."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import typer

from rmpsweep.errors import ResultsError
from rmpsweep.pipeline.prepare import results_of
from rmpsweep.storage import Location, locate
from rmpsweep.sweep.file import load_sweep

SweepArgument = Annotated[
    str, typer.Argument(metavar="SWEEP", help="A sweep file, or the name of a sweep that comes with rmpsweep.")
]
TargetArgument = Annotated[
    str, typer.Argument(metavar="SWEEP", help="A sweep (a file or a name), or a results directory.")
]
ResultsOption = Annotated[
    str | None,
    typer.Option("--results", help="The results directory: a folder, s3://… or gs://…; default results/<name>."),
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Evaluate at most this number of images.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key of the sweep file, as in grid.alpha=[0.4,0.8]; repeatable."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Write one JSON document to standard output, and events to standard error.")
]
ActorsOption = Annotated[
    int | None, typer.Option("--actors", min=1, help="The number of Ray actors; each holds one network.")
]
InlineOption = Annotated[bool, typer.Option("--inline", help="Compute in this process, without Ray.")]
AddressOption = Annotated[str | None, typer.Option("--address", help="The Ray cluster to use: auto, or host:port.")]
MaxFailuresOption = Annotated[
    int | None, typer.Option("--max-failures", min=0, help="Stop after more than this number of failed attempts.")
]
FailFastOption = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first unit that is given up.")]
SubmitOption = Annotated[
    bool, typer.Option("--submit", help="Send the launch as a Ray Job to the dashboard at --address http://…")
]
MlflowOption = Annotated[
    str | None, typer.Option("--mlflow", help="The MLflow tracking URI, or none; default is a database in the results.")
]


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchOptions:
    """The options of `launch` that a job on a cluster gets too; each field is named as its option is."""

    limit: int | None
    actors: int | None
    mlflow: str | None
    max_failures: int | None
    fail_fast: bool

    def to_argv(self) -> list[str]:
        """Return the options as arguments of a command, without those that were not given."""
        arguments = []
        for field in fields(self):
            value, option = getattr(self, field.name), f"--{field.name.replace('_', '-')}"
            if value is True:
                arguments.append(option)
            elif value is not None and value is not False:
                arguments += [option, str(value)]
        return arguments


def results_directory(target: str, results: str | None) -> Location:
    """Return the results directory of a sweep, given the sweep or the directory itself. Raises ResultsError."""
    if results is not None:
        return locate(results)
    if "://" in target or Path(target).is_dir():
        return locate(target)
    directory = results_of(load_sweep(target))
    if not directory.is_dir():
        raise ResultsError(f"{directory}: no sweep has been launched here; give its --results directory")
    return directory
