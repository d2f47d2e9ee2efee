"""The claim "activity": how the firing rate of each layer changes as thresholds are lowered."""

import pyarrow as pa

from rmpsweep.claims.charts import activity_chart
from rmpsweep.claims.claim import Claim, Row, ShownTable, panel, panel_order, partial_note, rows_beside
from rmpsweep.errors import ResultsError
from rmpsweep.stats import best_trials, varying_settings
from rmpsweep.stats.firing import firing_rate, flag_layers, shortened
from rmpsweep.terms import INPUT, SETTINGS

STATEMENT = (
    "Lowered thresholds (smaller α) make inference faster (RMP-SNN, arXiv:2003.01811, as a review reports); what "
    "they cost in spikes is measured here. The paper's own figures of activity could not be verified and are not shown."
)


def activity_rows(summary: pa.Table, activity: pa.Table) -> list[Row]:
    """The firing rate of every spiking layer of every trial at every T.

    Args:
        summary: one row per (trial, T).
        activity: one row per (trial, layer, T), layers in forward order.
    Returns:
        Rows in the order of `activity` with trial_id, the settings, layer, time_steps, neurons, images, spikes,
        saturated (number of pairs of image and neuron) and firing_rate (spikes per neuron per step, in [0, 1]).
    Raises:
        ResultsError: `activity` holds no spiking layer of a trial of the summary.
    """
    settings = {row["trial_id"]: {name: row[name] for name in SETTINGS} for row in summary.to_pylist()}
    counted = [row for row in activity.to_pylist() if row["layer"] != INPUT and row["trial_id"] in settings]
    if not counted:
        raise ResultsError("activity.parquet: holds no spiking layer; launch the sweep first")
    names = ("layer", "time_steps", "neurons", "images", "spikes", "saturated")
    return [
        {
            "trial_id": row["trial_id"],
            **settings[row["trial_id"]],
            **{name: row[name] for name in names},
            "firing_rate": firing_rate(row),
        }
        for row in counted
    ]


def activity_claim(summary: pa.Table, activity: pa.Table) -> Claim:
    """Compare the claim with a sweep's tables at the largest T.

    Raises:
        ResultsError: as `activity_rows`.
    """
    rows = activity_rows(summary, activity)
    best = best_trials(summary)
    final = [row for row in rows if row["time_steps"] == best[row["reset"]].time_steps]
    names = varying_settings(rows, apart_from=("alpha", "reset"))
    tables, rates, findings = [], {}, []
    for reset, trial in best.items():
        layers = rows_beside(final, trial)
        trials = rows_beside([row for row in summary.to_pylist() if row["time_steps"] == trial.time_steps], trial)
        tables.append(_table(f"{panel(layers[0], names)}, T = {trial.time_steps}", layers))
        rates[reset] = [{name: row[name] for name in ("alpha", "time_steps", "firing_rate")} for row in trials]
        findings.append(_finding(reset, trials))
    return Claim(
        subject="activity",
        statement=STATEMENT,
        tables=tables,
        findings=[*findings, *shortened(flag_layers(summary, activity)), *partial_note(summary.to_pylist())],
        statistics={"firing_rate": rates},
        rows=rows,
        chart=activity_chart([row | {"panel": panel(row, names)} for row in final], panel_order(final, names)),
    )


def _table(title: str, rows: list[Row]) -> ShownTable:
    alphas = sorted({row["alpha"] for row in rows})
    layers: dict[str, dict[float, float]] = {}
    for row in rows:
        layers.setdefault(row["layer"], {})[row["alpha"]] = row["firing_rate"]
    body = [(layer, *[f"{rates[alpha]:.4f}" for alpha in alphas]) for layer, rates in layers.items()]
    return ShownTable(
        title=f"Spikes per neuron per step, {title}",
        columns=("layer", *[f"α = {alpha:g}" for alpha in alphas]),
        rows=body,
    )


def _finding(reset: str, trials: list[Row]) -> str:
    """Say how firing rate, over all spiking neurons, and accuracy change from the largest α to the smallest."""
    low, high = trials[0], trials[-1]
    if low is high:
        return f"{reset.capitalize()} reset: {low['firing_rate']:.4f} spikes per neuron per step; one α only."
    return (
        f"{reset.capitalize()} reset: from α {high['alpha']:g} to {low['alpha']:g} spikes per neuron per step go from "
        f"{high['firing_rate']:.4f} to {low['firing_rate']:.4f}, accuracy from {high['accuracy']:.2%} to "
        f"{low['accuracy']:.2%}."
    )
