"""The claim "loss": how much accuracy the conversion loses, by α and T."""

import pyarrow as pa
import pyarrow.compute as pc

from rmpsweep.claims.charts import loss_chart
from rmpsweep.claims.claim import Claim, Row, ShownTable, panel, panel_order, partial_note, rows_beside
from rmpsweep.errors import ResultsError
from rmpsweep.stats import BestTrial, best_trials, paired_interval, varying_settings
from rmpsweep.terms import ANN, SETTINGS

STATEMENT = (
    "A scale α on the threshold trades accuracy against latency (RMP-SNN, arXiv:2003.01811, as a review reports). "
    "Conversion loss is the ANN's accuracy minus the SNN's on the same images, in percentage points."
)


def loss_rows(summary: pa.Table, predictions: pa.Table | None) -> list[Row]:
    """The conversion loss of every trial at every T, with its paired 95 % interval if predictions are given.

    Args:
        summary: one row per (trial, T).
        predictions: one row per (trial, T, image), with the rows of the ANN among them; None to leave out intervals.
    Returns:
        Rows in the order of `summary` with trial_id, the settings, time_steps, images, ann_accuracy and accuracy
        (fractions), and loss_points, ci_low_points and ci_high_points (percentage points; the bounds are None without
        predictions).
    Raises:
        ResultsError: the summary is empty, or the ANN has not been evaluated on the images of a trial.
    """
    rows = summary.to_pylist()
    if not rows:
        raise ResultsError("summary.parquet: holds no trial; launch the sweep first")
    pairs = _discordant(predictions) if predictions is not None else {}
    return [_row(row, pairs.get((row["trial_id"], row["time_steps"]))) for row in rows]


def loss_claim(summary: pa.Table, predictions: pa.Table | None) -> Claim:
    """Compare the claim with a sweep's tables; without predictions there are no intervals.

    Raises:
        ResultsError: as `loss_rows`.
    """
    rows = loss_rows(summary, predictions)
    names = varying_settings(rows, apart_from=("alpha", "reset"))
    beside = {reset: rows_beside(rows, trial) for reset, trial in best_trials(summary).items()}
    least = {reset: min(of, key=lambda row: (row["loss_points"], row["time_steps"])) for reset, of in beside.items()}
    return Claim(
        subject="loss",
        statement=STATEMENT,
        tables=[_table(panel(of[0], names), of) for of in beside.values()],
        findings=[
            *[_finding(trial, least[reset]) for reset, trial in best_trials(summary).items()],
            *partial_note(summary.to_pylist()),
        ],
        statistics={"least_loss": least},
        rows=rows,
        chart=loss_chart([row | {"panel": panel(row, names)} for row in rows], panel_order(rows, names)),
    )


def _discordant(predictions: pa.Table) -> dict[tuple[str, int], tuple[int, int, int]]:
    """Count images for every (trial_id, T), of those that both ANN and SNN have evaluated.

    Returns:
        (trial_id, T) -> number of images that only the ANN classifies correctly, that only the SNN does, and of all.
    """
    of_ann = pc.equal(predictions["trial_id"], ANN)
    ann = predictions.filter(of_ann).select(["image_id", "correct"]).rename_columns(["image_id", "ann"])
    both = predictions.filter(pc.invert(of_ann)).join(ann, "image_id", join_type="inner")
    keys = ["trial_id", "time_steps"]
    counted = (
        both.select(keys)
        .append_column("ann_only", pc.and_not(both["ann"], both["correct"]))
        .append_column("snn_only", pc.and_not(both["correct"], both["ann"]))
        .group_by(keys)
        .aggregate([("ann_only", "sum"), ("snn_only", "sum"), ("ann_only", "count")])
    )
    return {
        (row["trial_id"], row["time_steps"]): (row["ann_only_sum"], row["snn_only_sum"], row["ann_only_count"])
        for row in counted.to_pylist()
    }


def _row(row: Row, pair: tuple[int, int, int] | None) -> Row:
    if row["ann_accuracy"] != row["ann_accuracy"]:
        raise ResultsError(
            f"summary.parquet: the ANN has not been evaluated on the images of trial {row['trial_id']}; launch the "
            "sweep again to complete it"
        )
    low, high = (100 * float(bound) for bound in paired_interval(*pair)) if pair else (None, None)
    return {
        **{name: row[name] for name in ("trial_id", *SETTINGS, "time_steps")},
        "images": pair[2] if pair else row["images"],
        "ann_accuracy": row["ann_accuracy"],
        "accuracy": row["accuracy"],
        "loss_points": 100 * (pair[0] - pair[1]) / pair[2] if pair else 100 * (row["ann_accuracy"] - row["accuracy"]),
        "ci_low_points": low,
        "ci_high_points": high,
    }


def _table(title: str, rows: list[Row]) -> ShownTable:
    time_steps = sorted({row["time_steps"] for row in rows})
    trials: dict[float, dict[int, Row]] = {}
    for row in rows:
        trials.setdefault(row["alpha"], {})[row["time_steps"]] = row
    body = [
        (f"{alpha:g}", *[_points(trial.get(t)) for t in time_steps], _interval(trial.get(time_steps[-1])))
        for alpha, trial in trials.items()
    ]
    columns = ("α", *[f"T = {t}" for t in time_steps], f"95 % at T = {time_steps[-1]}")
    return ShownTable(title=f"Conversion loss in percentage points, {title}", columns=columns, rows=body)


def _points(row: Row | None) -> str | None:
    return f"{row['loss_points']:.2f}" if row else None


def _interval(row: Row | None) -> str | None:
    if row is None or row["ci_low_points"] is None:
        return None
    return f"{row['ci_low_points']:.2f} to {row['ci_high_points']:.2f}"


def _finding(best: BestTrial, least: Row) -> str:
    interval = _interval(least)
    within = best.time_steps_within_1pt
    return (
        f"{best.setting.reset.capitalize()} reset: least loss {least['loss_points']:.2f} points"
        + (f" (paired 95 % interval {interval})" if interval else "")
        + f" at α {least['alpha']:g}, T = {least['time_steps']}; loss of at most 1 point "
        + (f"from T = {within} (α {best.setting.alpha:g})." if within else "at none of the T reported.")
    )
