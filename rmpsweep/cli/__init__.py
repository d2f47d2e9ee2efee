"""The command line: the only package that prints or exits.

``launch`` is the main command, ``submit`` sends it to a cluster and cancels it; ``run`` plans and computes besides;
``results`` reads what has been computed, ``compare`` sets several of it side by side; ``check`` looks before and after;
``lookup`` needs neither; ``options`` is what they share.
Each command reads as the pipeline: arguments in, verbs of `pipeline` and `publish` called, text and exit codes out.
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
    """Entry point: errors to standard error, exit codes of `errors`."""
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
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Version.")] = False,
) -> None:
    """Options of the program itself."""
