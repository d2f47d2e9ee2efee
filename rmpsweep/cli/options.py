"""The arguments and options that several commands share."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rmpsweep.errors import ResultsError

if TYPE_CHECKING:
    from rmpsweep.storage import Location

SweepArgument = Annotated[
    str, typer.Argument(metavar="SWEEP", help="A sweep file, or the name of a sweep that comes with rmpsweep.")
]
TargetArgument = Annotated[
    str, typer.Argument(metavar="SWEEP", help="A sweep (a file or a name), or a results directory.")
]
ResultsOption = Annotated[
    str | None,
    typer.Option(
        "--results", help="Where the results lie: a folder, or an address s3://… or gs://…; default is results/NAME."
    ),
]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Evaluate at most this many images.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Replace a value of the file: key.path=value; may be given several times."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document to standard output instead of text and tables.")
]
ActorsOption = Annotated[
    int | None,
    typer.Option(
        "--actors",
        min=1,
        help="Number of Ray actors, each with a network of its own; default is run.actors of the sweep, or a number "
        "that suits the cluster.",
    ),
]
InlineOption = Annotated[bool, typer.Option("--inline", help="Compute in this process, without Ray.")]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", help="Ray cluster to use: auto, or host:port; default is to start Ray on this machine."),
]
MaxFailuresOption = Annotated[
    int | None, typer.Option("--max-failures", min=0, help="Stop once more attempts than this have failed.")
]
FailFastOption = Annotated[
    bool, typer.Option("--fail-fast", help="Stop as soon as one unit has failed for good (is quarantined).")
]
SubmitOption = Annotated[
    bool,
    typer.Option(
        "--submit", help="Run the launch as a Ray Job on the cluster whose dashboard is at --address http://…"
    ),
]
MlflowOption = Annotated[
    str | None,
    typer.Option(
        "--mlflow",
        help="MLflow tracking URI, or none to log nowhere; default is mlflow.tracking_uri of the sweep, or a database "
        "in the results.",
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchOptions:
    """The options of `launch` that are passed on to a job on a cluster. Each field is named after its option."""

    limit: int | None
    actors: int | None
    mlflow: str | None
    max_failures: int | None
    fail_fast: bool

    def to_argv(self) -> list[str]:
        """The options as arguments of a command, without those that were not given."""
        arguments = []
        for field in fields(self):
            value, option = getattr(self, field.name), f"--{field.name.replace('_', '-')}"
            if value is True:
                arguments.append(option)
            elif value is not None and value is not False:
                arguments += [option, str(value)]
        return arguments


def results_directory(target: str, results: str | None) -> "Location":
    """Return where results lie: at `results` if given, else at `target` if it is a directory, else by the sweep's name.

    Raises:
        ResultsError: no sweep has been launched in the default place, or an address is neither s3:// nor gs://.
        SweepError: there is no such sweep.
    """
    from rmpsweep.storage import locate

    if results is not None:
        return locate(results)
    if "://" in target or Path(target).is_dir():
        return locate(target)
    from rmpsweep.pipeline.prepare import results_of
    from rmpsweep.sweep.file import load_sweep

    directory = results_of(load_sweep(target))
    if not directory.is_dir():
        raise ResultsError(f"{directory}: no sweep has been launched here; give its --results directory")
    return directory
