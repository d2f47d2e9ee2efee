"""The command line: the only package that prints or exits.

``launch``   the main command; ``follow`` shows it while it runs, and ``submit`` sends it to a cluster and cancels it
``plan``     the commands `plan`, `train` and `calibrate`
``read``     the commands that read a results directory: `status`, `merge`, `log`, `report` and `claims`
``compare``  sets trials side by side
``check``    the commands `check`, `doctor` and `verify`
``list``     lists the names that a sweep file can use
``options``  the options that commands share, and ``display`` what they show

Each command takes its arguments, calls `pipeline` or `checks`, and shows text or JSON. Errors decide the exit code.
"""

import inspect
import os
import sys
from typing import Annotated

import typer

from rmpsweep import __version__
from rmpsweep.cli import check, compare, launch, plan, read, submit
from rmpsweep.cli import list as lookup
from rmpsweep.cli.display import error
from rmpsweep.errors import RmpsweepError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Accuracy against latency of converted spiking networks, over thresholds, resets and time steps.",
)

for command in (
    launch.launch,
    plan.plan,
    read.status,
    read.merge,
    read.log,
    read.report,
    read.claims,
    compare.compare,
    plan.train,
    plan.calibrate,
    submit.cancel,
    lookup.list_,
    check.check,
    check.doctor,
    check.verify,
):
    summary = (inspect.getdoc(command) or "").partition("\n\n")[0]  # whole: click would cut it at 45 characters
    app.command(name=command.__name__.rstrip("_"), short_help=summary)(command)


def main() -> None:
    """Run the command line. Errors go to standard error, and their exit codes are those in `errors`."""
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
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """The options of the program itself."""
