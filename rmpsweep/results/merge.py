"""Merge unit files into the tables that people read. Unit files hold counts; rates and shares are first made here."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rmpsweep.data import positions
from rmpsweep.errors import ResultsError
from rmpsweep.results import ACTIVITY_SCHEMA, PREDICTIONS_SCHEMA, SUMMARY_SCHEMA, LayerActivity, UnitResult
from rmpsweep.stats import wilson_interval
from rmpsweep.sweep.plan import ANN_TIME_STEPS, Plan, Trial
from rmpsweep.terms import ANN, FIGURES, INPUT


@dataclass(frozen=True)
class Tables:
    """The tables of a sweep. They do not depend on the order in which units were finished."""

    predictions: pa.Table
    """PREDICTIONS_SCHEMA, sorted by trial_id, time_steps and image_id."""
    summary: pa.Table
    """SUMMARY_SCHEMA, in the order of the trials and their time steps."""
    activity: pa.Table
    """ACTIVITY_SCHEMA, sorted by trial_id and time_steps."""


def merge(
    plan: Plan,
    results: Sequence[UnitResult],
    network: str,
    dataset: str,
    input_scales: Mapping[str, float],
    *,
    allow_partial: bool = False,
) -> Tables:
    """Make the tables of a plan from the units that hold its cells.

    Args:
        results: units that share no cell, as `results.scan` returns them; cells that are not planned are left out.
        network: the name of the network in the summary.
        dataset: the name of the dataset in the summary.
        input_scales: trial_id -> Λ_0.
        allow_partial: merge the cells that exist; each row of the summary has the number of its images.
    Raises:
        ResultsError: cells are missing and allow_partial is not set, or a cell occurs twice.
    """
    cells = _collect(plan, results)
    missing = plan.num_cells - int(np.count_nonzero(cells.seen))
    if missing and not allow_partial:
        raise ResultsError(
            f"{missing} of {plan.num_cells} results are missing; launch the sweep again to compute them, or merge with "
            "--allow-partial"
        )
    activity = _activity(plan, results)
    summary = _summary(plan, cells, activity)
    named = [
        row | {"network": network, "dataset": dataset, "input_scale": input_scales[str(row["trial_id"])]}
        for row in summary
    ]
    return Tables(_predictions(plan, cells), pa.Table.from_pylist(named, schema=SUMMARY_SCHEMA), activity)


@dataclass(frozen=True)
class _Outcomes:
    """The planned cells as arrays [R, N], with a row for each (trial, T) and a column for each image.

    `label`, `prediction` and `label_rank` mean nothing where `seen` is false.
    """

    rows: Mapping[tuple[str, int], int]
    """(trial, T) -> its row; the rows of one trial are neighbours."""
    image_ids: NDArray[np.int64]
    """The image of each column, [N], ascending."""
    seen: NDArray[np.bool_]
    """Whether a unit holds the cell."""
    label: NDArray[np.int32]
    prediction: NDArray[np.int32]
    label_rank: NDArray[np.int16]


def _collect(plan: Plan, results: Sequence[UnitResult]) -> _Outcomes:
    """Collect the planned cells of all units. Raises ResultsError if a cell occurs twice."""
    position = positions(plan.facts.num_images)
    image_ids = np.flatnonzero(position < plan.limit)
    column_of = np.full(plan.facts.num_images, -1)
    column_of[image_ids] = np.arange(len(image_ids))
    rows = {cell: row for row, cell in enumerate((trial, t) for trial, steps in plan.work for t in steps)}
    time_steps = np.unique([t for _, t in rows])
    shape = (len(rows), len(image_ids))
    cells = _Outcomes(
        rows,
        image_ids,
        np.zeros(shape, bool),
        np.empty(shape, np.int32),
        np.empty(shape, np.int32),
        np.empty(shape, np.int16),
    )
    num_placed = 0
    for result in results:
        table = result.predictions.combine_chunks()
        trials = table["trial_id"].combine_chunks().dictionary_encode()
        names, t = trials.dictionary.to_pylist(), table["time_steps"].to_numpy()
        row_of = np.array([[rows.get((trial, int(t)), -1) for t in time_steps] for trial in names])
        at = np.searchsorted(time_steps[:-1], t)
        row = np.where(time_steps[at] == t, row_of[trials.indices.to_numpy(), at], -1)
        ids = table["image_id"].to_numpy()
        column = column_of[ids]
        extent = np.array([plan.extent(trial) for trial in names])[trials.indices.to_numpy()]
        planned = (row >= 0) & (position[ids] < extent)
        place = row[planned], column[planned]
        num_placed += len(place[0])
        cells.seen[place] = True
        for name in ("label", "prediction", "label_rank"):
            getattr(cells, name)[place] = table[name].to_numpy()[planned]
    if num_placed > np.count_nonzero(cells.seen):
        raise ResultsError("an image is counted twice in one trial; please report this")
    return cells


def _predictions(plan: Plan, cells: _Outcomes) -> pa.Table:
    """Make the predictions, sorted by trial_id, time_steps and image_id, with a chunk for each trial.

    Chunks of trials with the same time steps share their columns image_id and time_steps if no cell is missing.
    """
    shared: dict[tuple[int, ...], tuple[pa.Array, pa.Array]] = {}
    chunks = []
    for trial, steps in sorted(plan.work):
        first = cells.rows[trial, steps[0]]
        block = slice(first, first + len(steps))
        seen = cells.seen[block]
        if steps not in shared:
            ids, t = np.tile(cells.image_ids, len(steps)), np.repeat(np.array(steps, np.int32), len(cells.image_ids))
            shared[steps] = pa.array(ids), pa.array(t)
        whole, mask = bool(seen.all()), pa.array(seen.ravel())
        label, prediction, rank = (each[block].ravel() for each in (cells.label, cells.prediction, cells.label_rank))
        columns = [*shared[steps], *map(pa.array, (label, prediction, rank, rank == 0))]
        image_id, time_steps, *others = columns if whole else [column.filter(mask) for column in columns]
        arrays = [pa.repeat(trial, len(image_id)), image_id, others[0], time_steps, *others[1:]]
        chunks.append(pa.Table.from_arrays(arrays, schema=PREDICTIONS_SCHEMA))
    return pa.concat_tables(chunks)


def _activity(plan: Plan, results: Sequence[UnitResult]) -> pa.Table:
    """Make the activity by adding counts over units.

    A unit that reaches past the limit counts as a whole, and the column `images` has the number of images added. If one
    of the units lacks a figure, the figure is null, because its sum would be over other images than the other sums.
    """
    planned = {(trial, t) for trial, steps in plan.work for t in steps}
    found: dict[tuple[str, tuple[int, ...]], dict[tuple[str, int], list[tuple[int, LayerActivity]]]] = {}
    for result in results:
        images = result.unit.stop - result.unit.start
        for row in result.activity:
            if result.unit.start < plan.extent(row.trial_id):
                of_trial = found.setdefault((row.trial_id, row.time_steps), {})
                of_trial.setdefault((row.layer, row.neurons), []).append((images, row))
    parts: dict[tuple[str, int], dict[tuple[str, int], list[tuple[int | None, ...]]]] = {}
    for (trial, steps), layers in found.items():
        for layer, members in layers.items():
            images = sum(images for images, _ in members)
            counts = [_added([row.counts[f] for _, row in members], len(steps)) for f in range(len(FIGURES))]
            for t, *of_layer in zip(steps, *counts, strict=True):
                if (trial, t) in planned:
                    parts.setdefault((trial, t), {}).setdefault(layer, []).append((images, *of_layer))
    rows = [
        (trial, layer, t, neurons, *(None if None in column else sum(column) for column in zip(*of_layer, strict=True)))
        for (trial, t), layers in sorted(parts.items())
        for (layer, neurons), of_layer in layers.items()
    ]
    columns: Sequence[Sequence[object]] = list(zip(*rows, strict=True)) if rows else [()] * len(ACTIVITY_SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, ACTIVITY_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=ACTIVITY_SCHEMA)


def _added(counts: Sequence[tuple[int, ...] | None], steps: int) -> list[int | None]:
    """Add the counts of a figure over units, at each of the steps; None if a unit lacks the figure."""
    whole = [of_unit for of_unit in counts if of_unit is not None]
    if len(whole) < len(counts):
        return [None] * steps
    total: list[int | None] = np.array(whole, np.int64).sum(0).tolist()
    return total


def _summary(plan: Plan, cells: _Outcomes, activity: pa.Table) -> list[dict[str, object]]:
    per_cell: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in activity.to_pylist():
        per_cell.setdefault((row["trial_id"], row["time_steps"]), []).append(row)
    ann = cells.rows[ANN, ANN_TIME_STEPS[0]]
    ann_seen, ann_correct = cells.seen[ann], cells.seen[ann] & (cells.label_rank[ann] == 0)
    rows = []
    for trial in plan.trials:
        for t in plan.time_steps:
            at = cells.rows[trial.trial_id, t]
            seen, rank = cells.seen[at], cells.label_rank[at]
            images, correct, top5, compared, ann_right = (
                int(np.count_nonzero(each))
                for each in (seen, seen & (rank == 0), seen & (rank < 5), seen & ann_seen, seen & ann_correct)
            )
            if images:
                ann_accuracy = ann_right / compared if compared else float("nan")
                layers = per_cell.get((trial.trial_id, t), [])
                rows.append(_row(plan, trial, t, (images, correct, top5), ann_accuracy, layers))
    return rows


def _row(
    plan: Plan, trial: Trial, t: int, counts: tuple[int, int, int], ann_accuracy: float, layers: list[dict[str, Any]]
) -> dict[str, object]:
    """Make a row of the summary from the numbers of images evaluated, correct, and correct among the top five."""
    images, correct, top5 = counts
    low, high = wilson_interval(correct, images)
    spiking = [row for row in layers if row["layer"] != INPUT]
    spikes, observed = sum(row["spikes"] for row in spiking), max(row["images"] for row in layers)
    neurons = sum(row["neurons"] for row in spiking)
    return {
        **asdict(trial.setting),
        "trial_id": trial.trial_id,
        "time_steps": t,
        "images": images,
        "images_planned": plan.images_planned(trial.trial_id),
        "correct": correct,
        "accuracy": correct / images,
        "ci_low": float(low),
        "ci_high": float(high),
        "top5": top5 / images,
        "ann_accuracy": ann_accuracy,
        "spikes_per_image": spikes / observed,
        "firing_rate": spikes / (neurons * observed * t),
        "synops_per_image": sum(row["synops"] for row in layers) / observed,
    }
