"""The claim "steps": how many time steps soft reset needs to surpass the best accuracy of hard reset."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rmpsweep.claims.charts import steps_chart
from rmpsweep.claims.claim import Claim, Row, ShownTable
from rmpsweep.errors import ResultsError
from rmpsweep.stats import PairedComparison, compare_paired
from rmpsweep.terms import RESETS, SETTINGS, Reset

STATEMENT = (
    '"RMP-SNN surpasses the best inference accuracy provided by the converted SNN with hard reset neurons using 2-8 '
    'times fewer inference time-steps" (abstract of arXiv:2003.01811).'
)


CLAIMED: tuple[Reset, ...] = ("soft", "hard")
"""The resets that the claim is about. Trials with other resets are drawn but not compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialPoint:
    """The accuracy of one trial at one T."""

    trial_id: str
    threshold: str
    alpha: float
    time_steps: int
    correct: int
    accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FewerSteps:
    """The statistic of the claim, over all trials of a sweep."""

    images: int
    trials: Mapping[str, int]
    """Number of trials of each reset, the best of which are compared."""
    hard: TrialPoint
    """Hard reset's best accuracy, at the smallest T that attains it."""
    hard_best_at_largest: bool
    """Whether that T is the largest one reported, so that hard reset may still have been improving."""
    exceeds: TrialPoint | None
    """The smallest T at which soft reset is more accurate than `hard`; None if it never is."""
    reaches: TrialPoint | None
    """The smallest T at which soft reset is at least as accurate as `hard`; None if it never is."""

    @property
    def ratio_exceeds(self) -> float | None:
        """T of `hard` divided by T of `exceeds`; above 1, soft reset needs fewer time steps. None without `exceeds`."""
        return self.hard.time_steps / self.exceeds.time_steps if self.exceeds else None

    @property
    def ratio_reaches(self) -> float | None:
        """T of `hard` divided by T of `reaches`; None without `reaches`."""
        return self.hard.time_steps / self.reaches.time_steps if self.reaches else None


def fewer_steps(summary: pa.Table) -> FewerSteps:
    """Compare the T of hard reset's best accuracy with the first T at which soft reset exceeds it.

    Both are the best over all trials with their reset. Ties at equal T go to the higher accuracy, then to the smaller
    trial_id.

    Args:
        summary: one row per (trial, T).
    Raises:
        ResultsError: one of the two resets is missing, or the trials do not cover all planned images at the same T.
    """
    rows = summary.to_pylist()
    _check(rows)
    by_reset = {reset: [row for row in rows if row["reset"] == reset] for reset in CLAIMED}
    best = max(row["correct"] for row in by_reset["hard"])
    hard = _first([row for row in by_reset["hard"] if row["correct"] == best])
    assert hard is not None
    return FewerSteps(
        images=rows[0]["images"],
        trials={reset: len({row["trial_id"] for row in of}) for reset, of in by_reset.items()},
        hard=hard,
        hard_best_at_largest=hard.time_steps == max(row["time_steps"] for row in rows),
        exceeds=_first([row for row in by_reset["soft"] if row["correct"] > best]),
        reaches=_first([row for row in by_reset["soft"] if row["correct"] >= best]),
    )


def best_at_each(summary: pa.Table) -> dict[str, dict[int, TrialPoint]]:
    """reset -> T -> the most accurate trial of the reset at that T, in ascending T; ties go to the smaller trial_id."""
    best: dict[str, dict[int, TrialPoint]] = {reset: {} for reset in RESETS}
    for row in sorted(summary.to_pylist(), key=lambda row: (row["time_steps"], -row["correct"], row["trial_id"])):
        best[row["reset"]].setdefault(row["time_steps"], _cell(row))
    return best


def steps_claim(summary: pa.Table, predictions: pa.Table | None) -> Claim:
    """Compare the claim with a sweep's tables; without predictions there are no paired tests.

    Raises:
        ResultsError: as `fewer_steps`.
    """
    found, best = fewer_steps(summary), best_at_each(summary)
    compared: dict[int, PairedComparison] = {}
    surpassing = None
    if predictions is not None:
        soft, hard = (_rows_of(predictions, best[reset].values()) for reset in CLAIMED)
        compared = {pair.time_steps: pair for pair in compare_paired(soft, hard)}
        surpassing = _surpassing(predictions, found)
    rows = [_point(row, best) for row in summary.to_pylist()]
    return Claim(
        subject="steps",
        statement=STATEMENT,
        tables=[_table(best, found.images, compared)],
        findings=_findings(found, surpassing),
        statistics={
            **asdict(found),
            "ratio_exceeds": found.ratio_exceeds,
            "ratio_reaches": found.ratio_reaches,
            "exceeds_p_value": surpassing.p_value if surpassing else None,
            "soft_against_hard": [asdict(pair) for pair in compared.values()],
        },
        rows=rows,
        chart=steps_chart(rows, _marks(found), summary["ann_accuracy"][0].as_py()),
    )


def _check(rows: Sequence[Row]) -> None:
    resets = {row["reset"] for row in rows}
    for reset in CLAIMED:
        if reset not in resets:
            raise ResultsError(
                f"summary.parquet: holds no trial with {reset} reset; add it to the sweep's grid.reset and launch again"
            )
    trials, time_steps = ({row[name] for row in rows} for name in ("trial_id", "time_steps"))
    short = sum(row["images"] < row["images_planned"] for row in rows)
    missing = len(trials) * len(time_steps) - len(rows)
    if short or missing:
        raise ResultsError(
            f"summary.parquet: {short} of its {len(rows)} rows cover fewer than the {rows[0]['images_planned']} images "
            f"planned and {missing} rows are missing; soft and hard reset are compared on the same images and T: "
            "launch the sweep again to complete it"
        )


def _first(rows: Sequence[Row]) -> TrialPoint | None:
    chosen = min(rows, key=lambda row: (row["time_steps"], -row["correct"], row["trial_id"]), default=None)
    return _cell(chosen) if chosen else None


def _cell(row: Row) -> TrialPoint:
    return TrialPoint(**{name: row[name] for name in TrialPoint.__dataclass_fields__})


def _rows_of(predictions: pa.Table, cells: Any) -> pa.Table:
    """The predictions of the cells, each a trial at one T."""
    chosen = [(pc.field("trial_id") == cell.trial_id) & (pc.field("time_steps") == cell.time_steps) for cell in cells]
    return pa.concat_tables([predictions.filter(each) for each in chosen])


def _surpassing(predictions: pa.Table, found: FewerSteps) -> PairedComparison | None:
    """Compare soft reset, where it first exceeds hard reset's best, with that best, each at its own T."""
    if found.exceeds is None:
        return None
    soft, hard = (_rows_of(predictions, [cell]) for cell in (found.exceeds, found.hard))
    # compare_paired pairs rows of one T: give hard reset's rows the T of soft reset's.
    at_soft = hard.set_column(hard.column_names.index("time_steps"), "time_steps", soft["time_steps"])
    return compare_paired(soft, at_soft)[0]


def _point(row: Row, best: Mapping[str, Mapping[int, TrialPoint]]) -> Row:
    names = ("trial_id", *SETTINGS, "time_steps", "images", "correct", "accuracy", "ci_low", "ci_high")
    chosen = best[row["reset"]][row["time_steps"]].trial_id == row["trial_id"]
    return {**{name: row[name] for name in names}, "best_of_reset": chosen}


def _marks(found: FewerSteps) -> list[Row]:
    cells = zip(("hard", "soft"), (found.hard, found.exceeds), strict=True)
    return [{"reset": reset, "time_steps": cell.time_steps, "accuracy": cell.accuracy} for reset, cell in cells if cell]


def _table(
    best: Mapping[str, Mapping[int, TrialPoint]], images: int, compared: Mapping[int, PairedComparison]
) -> ShownTable:
    body = []
    for t, soft in best["soft"].items():
        hard, pair = best["hard"][t], compared.get(t)
        accuracies = [f"{cell.accuracy:.2%} (α {cell.alpha:g}, {cell.threshold})" for cell in (soft, hard)]
        points = f"{100 * (soft.correct - hard.correct) / images:+.2f}"
        tests = (f"{pair.p_value:.2g}", f"{pair.p_holm:.2g}") if pair else (None, None)
        body.append((t, *accuracies, points, *tests))
    return ShownTable(
        title=f"Best soft against best hard trial at each T, {images} images",
        columns=("T", "soft", "hard", "points", "p", "p (Holm)"),
        rows=body,
    )


def _findings(found: FewerSteps, surpassing: PairedComparison | None) -> list[str]:
    hard = found.hard
    lines = [f"Hard reset's best accuracy is {hard.accuracy:.2%}, first at T = {hard.time_steps} ({_named(hard)})."]
    if found.hard_best_at_largest:
        lines[0] += " That is the largest T reported: its T is a lower bound, and the ratio may change with larger T."
    if found.exceeds is None:
        lines.append("Soft reset never exceeds it at the T reported: the claim does not hold here.")
    else:
        lines.append(_sentence("exceeds", found.exceeds, found.ratio_exceeds) + " The claim: 2 to 8.")
    if surpassing:
        lines.append(
            f"There it is {surpassing.difference_points:.2f} points above hard reset's best: exact McNemar "
            f"p = {surpassing.p_value:.2g} over {surpassing.images} images."
        )
    if found.reaches is None:
        lines.append("Soft reset never reaches it either.")
    else:
        lines.append(_sentence("reaches", found.reaches, found.ratio_reaches))
    return [
        *lines,
        f"Each is the best of {found.trials['soft']} soft and {found.trials['hard']} hard trials, picked on the images "
        "they are compared on; the p values do not account for the picking.",
    ]


def _sentence(verb: str, cell: TrialPoint, ratio: float | None) -> str:
    return (
        f"Soft reset {verb} it first at T = {cell.time_steps} with {cell.accuracy:.2%} ({_named(cell)}): "
        f"T(hard) / T(soft) = {ratio:g}."
    )


def _named(cell: TrialPoint) -> str:
    return f"α {cell.alpha:g}, {cell.threshold}"
