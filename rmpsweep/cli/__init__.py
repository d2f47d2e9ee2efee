"""The command line: the only package that prints or exits.

The commands, by module:

- ``launch``: launch, the main command;
- ``submit``: `launch --submit`, which sends the launch to a cluster, and cancel;
- ``plan``: plan, train and calibrate;
- ``read``: status, merge, log, report and claims, which read a results directory;
- ``compare``: compare, which sets trials of several sweeps side by side;
- ``check``: check, doctor and verify;
- ``list``: list.

The commands share ``options`` (arguments and options), ``display`` (what is printed) and ``follow`` (what is shown of a
launch while it runs). A command takes arguments, calls the packages below, mostly `rmpsweep.pipeline`, and turns what
they return and raise into text and exit codes. It imports them when it runs, so that help does not wait for them.
"""

import inspect
import os
import sys
from typing import Annotated

import typer

from rmpsweep import __version__
from rmpsweep.cli import check, compare, launch, plan, read, submit
from rmpsweep.cli import list as lookup
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
    """Run the command line. An error is printed to standard error and ends the process with its `exit_code`."""
    # OpenMP threads that spin for long while they wait starve each other once another program runs. The variable is
    # read when torch loads.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        app()
    except RmpsweepError as problem:
        from rmpsweep.cli.display import error

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
