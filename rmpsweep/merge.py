"""Unit files -> the tables people read. Counts are added; only here is anything divided."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rmpsweep.data import image_order
from rmpsweep.errors import ResultsError
from rmpsweep.plan import ANN, Plan, Trial
from rmpsweep.results import ACTIVITY_SCHEMA, PREDICTIONS_SCHEMA, SUMMARY_SCHEMA, UNIT_SCHEMA, UnitResult
from rmpsweep.stats import wilson_interval
from rmpsweep.terms import INPUT


@dataclass(frozen=True)
class Tables:
    """predictions, summary, activity as in `results`; sorted, independent of the order units were finished in."""

    predictions: pa.Table
    summary: pa.Table
    activity: pa.Table


def merge(
    plan: Plan,
    results: Sequence[UnitResult],
    network: str,
    dataset: str,
    input_scales: Mapping[str, float],
    *,
    allow_partial: bool = False,
) -> Tables:
    """The tables of a plan from the units that hold its cells.

    Args:
        results: units that share no cell, as `results.scan` gives them; cells that are not planned are left out.
        network, dataset: names for the summary; input_scales: trial_id -> Λ_0.
        allow_partial: take what is there; coverage is in every row of the summary.
    Raises:
        ResultsError: cells are missing and allow_partial is not set, or an image is there twice.
    """
    predictions = _predictions(plan, results)
    missing = plan.num_cells - predictions.num_rows
    if missing and not allow_partial:
        raise ResultsError(
            f"{missing} of {plan.num_cells} results are missing; launch the sweep again to compute them, or merge with "
            "--allow-partial"
        )
    activity = _activity(plan, results)
    summary = _summary(plan, predictions, activity)
    named = [
        row | {"network": network, "dataset": dataset, "input_scale": input_scales[str(row["trial_id"])]}
        for row in summary
    ]
    return Tables(predictions, pa.Table.from_pylist(named, schema=SUMMARY_SCHEMA), activity)


def _predictions(plan: Plan, results: Sequence[UnitResult]) -> pa.Table:
    wanted = np.sort(image_order(plan.facts.num_images)[: plan.limit])
    planned = dict(plan.work)
    tables = [result.predictions for result in results]
    table = pa.concat_tables([UNIT_SCHEMA.empty_table(), *tables]).combine_chunks()
    of_plan = pc.is_in(table["trial_id"], pa.array(planned))
    of_plan = pc.and_(of_plan, pc.is_in(table["image_id"], pa.array(wanted)))
    steps = pa.array(sorted({t for work in planned.values() for t in work}), pa.int32())
    table = table.filter(pc.and_(of_plan, pc.is_in(table["time_steps"], steps)))
    table = _up_to_stops(plan, table)
    keys = ("trial_id", "time_steps", "image_id")
    table = table.sort_by([(key, "ascending") for key in keys])
    if table.num_rows > 1:
        columns = [table[key].combine_chunks() for key in keys]
        repeated = [pc.equal(column[1:], column[:-1]) for column in columns]
        if pc.any(pc.and_(pc.and_(*repeated[:2]), repeated[2])).as_py():
            raise ResultsError("an image is counted twice in one trial; please report this")
    return table.append_column("correct", pc.equal(table["label_rank"], 0)).cast(PREDICTIONS_SCHEMA)


def _up_to_stops(plan: Plan, table: pa.Table) -> pa.Table:
    """Without what other launches have computed of trials beyond where a search has stopped them."""
    if not plan.stopped:
        return table
    position = np.argsort(image_order(plan.facts.num_images))
    trials = table["trial_id"].combine_chunks().dictionary_encode()
    extent = np.array([plan.extent(trial) for trial in trials.dictionary.to_pylist()])
    return table.filter(pa.array(position[table["image_id"].to_numpy()] < extent[trials.indices.to_numpy()]))


def _activity(plan: Plan, results: Sequence[UnitResult]) -> pa.Table:
    """Counts added over units; a unit that reaches past the limit counts whole, and `images` says how many."""
    planned = {(trial, t) for trial, steps in plan.work for t in steps}
    totals: dict[tuple[str, int], dict[str, list[int]]] = {}
    for result in results:
        if result.unit.start >= plan.limit:
            continue
        images = result.unit.stop - result.unit.start
        for row in result.activity:
            for t, *counts in zip(row.time_steps, row.spikes, row.synops, row.saturated, strict=True):
                if (row.trial_id, t) in planned and result.unit.start < plan.extent(row.trial_id):
                    total = totals.setdefault((row.trial_id, t), {}).setdefault(row.layer, [row.neurons, 0, 0, 0, 0])
                    for i, count in enumerate((images, *counts), start=1):
                        total[i] += count
    rows = [
        (trial, layer, t, *counts) for (trial, t), layers in sorted(totals.items()) for layer, counts in layers.items()
    ]
    columns: Sequence[Sequence[object]] = list(zip(*rows, strict=True)) if rows else [()] * len(ACTIVITY_SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, ACTIVITY_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=ACTIVITY_SCHEMA)


def _summary(plan: Plan, predictions: pa.Table, activity: pa.Table) -> list[dict[str, object]]:
    ann = predictions.filter(pc.equal(predictions["trial_id"], ANN))
    ann_correct = dict(zip(ann["image_id"].to_pylist(), ann["correct"].to_pylist(), strict=True))
    per_cell: dict[tuple[str, int], list[dict[str, int]]] = {}
    for row in activity.to_pylist():
        per_cell.setdefault((row["trial_id"], row["time_steps"]), []).append(row)
    grouped = (
        predictions.append_column("top5", pc.less(predictions["label_rank"], 5))
        .group_by(["trial_id", "time_steps"])
        .aggregate([("correct", "sum"), ("top5", "sum"), ("image_id", "count"), ("image_id", "list")])
    )
    counts = {(row["trial_id"], row["time_steps"]): row for row in grouped.to_pylist()}
    rows = []
    for trial in plan.trials:
        for t in plan.time_steps:
            if (trial.trial_id, t) in counts:
                cell = counts[trial.trial_id, t]
                compared = [ann_correct[i] for i in cell["image_id_list"] if i in ann_correct]
                accuracy = sum(compared) / len(compared) if compared else float("nan")
                layers = per_cell.get((trial.trial_id, t), [])
                rows.append(_row(plan, trial, t, cell, accuracy, layers))
    return rows


def _row(
    plan: Plan, trial: Trial, t: int, cell: dict[str, int], ann_accuracy: float, layers: list[dict[str, int]]
) -> dict[str, object]:
    images, correct = cell["image_id_count"], cell["correct_sum"]
    low, high = wilson_interval(correct, images)
    spiking = [row for row in layers if row["layer"] != INPUT]
    spikes, observed = sum(row["spikes"] for row in spiking), max(row["images"] for row in layers)
    neurons = sum(row["neurons"] for row in spiking)
    return {
        **trial.setting.model_dump(),
        "trial_id": trial.trial_id,
        "time_steps": t,
        "images": images,
        "images_planned": plan.images_planned(trial.trial_id),
        "correct": correct,
        "accuracy": correct / images,
        "ci_low": float(low),
        "ci_high": float(high),
        "top5": cell["top5_sum"] / images,
        "ann_accuracy": ann_accuracy,
        "spikes_per_image": spikes / observed,
        "firing_rate": spikes / (neurons * observed * t),
        "synops_per_image": sum(row["synops"] for row in layers) / observed,
    }
