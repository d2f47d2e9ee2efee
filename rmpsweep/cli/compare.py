"""The command compare, which sets trials side by side."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rmpsweep.cli.options import JsonOption, results_directory
from rmpsweep.errors import ResultsError

if TYPE_CHECKING:
    from rmpsweep.stats.comparison import Side

SidesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="A B …",
        help="Each is a sweep or a results directory, which stands for its best trial of each reset, or SWEEP@TRIAL "
        "for one trial, named by the first digits of its trial_id. A is the baseline.",
        show_default=False,
    ),
]


def compare(
    sides: SidesArgument,
    at: Annotated[
        list[int] | None, typer.Option("--at", help="Compare at this T only; may be given several times.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--page", help="HTML file to write the comparison to, with charts.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Compare trials: accuracy and differences at every shared T, the T that reaches 99 % of the ANN, and cost.

    Usage: rmpsweep compare results/quickstart@650a results/other --at 32
    """
    from rmpsweep.cli.display import Display
    from rmpsweep.stats import CONVENTIONS
    from rmpsweep.stats.comparison import compare as compare_sides

    if len(sides) < 2:
        raise ResultsError(f"compare: got {sides[0]!r} alone, expected at least two; DIR@TRIAL is one trial of DIR")
    display = Display(json_)
    found = compare_sides([_side(argument) for argument in sides], at or ())
    display.comparison(found)
    if page:
        from rmpsweep.report.compare_page import render
        from rmpsweep.storage import write_atomic

        write_atomic(page, render(found).encode())
        display.line(str(page))
    conventions = {key: convention.label for key, convention in CONVENTIONS.items()}
    display.document(asdict(found) | {"conventions": conventions, "page": page and str(page)})


def _side(argument: str) -> "Side":
    import pyarrow.compute as pc

    from rmpsweep import results as files
    from rmpsweep.stats import best_trials
    from rmpsweep.stats.comparison import Side
    from rmpsweep.terms import ANN

    target, prefix = _split(argument)
    layout = files.Layout(results_directory(target, None))
    plan = files.PlanFile.read(layout).plan
    if not layout.summary.is_file():
        raise ResultsError(f"{layout.root}: its results are not merged; rmpsweep merge {target} makes the tables")
    summary = files.read_table(layout.summary, files.SUMMARY_SCHEMA)
    if prefix:
        merged = sorted(set(summary["trial_id"].to_pylist()))
        matching = [trial for trial in merged if trial.startswith(prefix)]
        if len(matching) != 1:
            choice = ", ".join(matching or merged[:8]) + (" …" if not matching and len(merged) > 8 else "")
            raise ResultsError(
                f"{argument}: got {prefix!r}, which begins {len(matching) or 'no'} trials of {layout.root}, expected "
                f"the first digits of one: {choice or 'none is merged'}"
            )
        trials = {argument: matching[0]}
    else:
        trials = {f"{argument} {reset}": best.trial_id for reset, best in best_trials(summary).items()}
        if not trials:
            raise ResultsError(f"{layout.root}: its tables hold no trial; launch the sweep, then compare")
    wanted = pc.field("trial_id").isin([*trials.values(), ANN])
    return Side(
        data_fingerprint=plan.facts.data_fingerprint,
        trials=trials,
        predictions=files.read_table(layout.predictions, files.PREDICTIONS_SCHEMA, wanted),
        summary=summary,
        activity=files.read_table(layout.activity, files.ACTIVITY_SCHEMA, wanted),
        chosen=not prefix,
    )


def _split(argument: str) -> tuple[str, str]:
    """Split SWEEP@TRIAL into its parts; without a trial, the second part is "".

    The @ after the credentials in the address of an object store's bucket does not split.
    """
    target, at, trial = argument.rpartition("@")
    if not (at and trial) or "/" in trial or Path(argument).is_dir() or re.fullmatch(r"\w+://[^/]*", target):
        return argument, ""
    return target, trial
