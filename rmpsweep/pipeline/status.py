"""What the commands `plan` and `status` print about a sweep, as plain values."""

import contextlib
from collections import Counter
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from rmpsweep import results as files
from rmpsweep.data import positions
from rmpsweep.data.figures import InputFigures
from rmpsweep.errors import StorageError
from rmpsweep.pipeline.look import Look
from rmpsweep.pipeline.weights import Weights
from rmpsweep.results import Layout, ProgressFile, RunRecord
from rmpsweep.stats import wilson_interval
from rmpsweep.stats.firing import flag_layers, shortened
from rmpsweep.sweep.plan import Plan
from rmpsweep.sweep.schema import Search


def plan_figures(now: Look, weights: Weights, workers: int | None) -> dict[str, Any]:
    """Return what a launch would do.

    Args:
        workers: the number of workers; None where the cluster decides. Only the time estimate and the number of units
            depend on it.
    """
    units = now.cut(workers or 1)
    left = sum(unit.image_steps for unit in units)
    return {
        "trials": len(now.plan.trials),
        "images": now.plan.limit,
        "images_skipped": now.plan.facts.num_skipped,
        "time_steps": list(now.plan.time_steps),
        "cells": now.plan.num_cells,
        "cells_missing": sum(unit.num_cells for unit in units),
        "units_missing": len(units),
        "image_steps_missing": left,
        "search": _search(now.plan, now.sweep.search),
        "weights": _weights(weights),
        "workers": workers,
        "eta_s": _eta_s(RunRecord.read(now.layout), left, workers),
    }


def _search(plan: Plan, search: Search | None) -> str | None:
    if search is None:
        return None
    steps = ", ".join(map(str, search.time_steps or plan.time_steps))
    return f"stops trials that are worse at T = {steps}: what is missing is an upper bound"


def _weights(weights: Weights) -> str:
    if weights.recipe is not None:
        return "to be trained"
    return str(weights.path) if weights.path.exists() else "to be fetched"


def trial_rows(plan: Plan) -> list[dict[str, Any]]:
    """Return every trial with its settings."""
    return [{"trial_id": t.trial_id, **asdict(t.setting)} for t in plan.trials]


def skipped_note(plan: Plan) -> list[str]:
    """Return a sentence about images that are left out, or an empty list if there are none."""
    skipped, whole = plan.facts.num_skipped, plan.facts.num_images + plan.facts.num_skipped
    return (
        [f"{skipped} of {whole} images cannot be decoded and are left out: skipped.csv lists them"] if skipped else []
    )


def status_document(now: Look) -> dict[str, Any]:
    """Return the state of a sweep as plain values.

    `trials` has an entry for the ANN and each trial: its cells that are done, in flight, failed and planned, and its
    accuracy at its largest T over the images done. Cells are in flight only if progress.json lists their job.
    `units_left` and `image_steps_left` count what is missing, and `eta_s` estimates the seconds that it takes, None if
    nothing tells the pace. `running` is the progress of the running launch, None if none runs. `input` says how images
    came in, in the running launch or else in the last one that computed something. `flagged_layers` has a text for each
    of the first five trials with saturated or silent layers in the tables merged last. `rejected` maps unit files that
    do not count to the reason, `quarantined` lists the units that were given up in the last launch while units are
    missing, and `stopped` maps trials that an adaptive search has stopped to their number of images.
    """
    running, run = ProgressFile.read(now.layout), RunRecord.read(now.layout)
    missing = dict.fromkeys((trial for trial, _ in now.plan.work), 0)
    for unit in now.todo:
        for trial, cells in unit.cells.items():
            missing[trial] += cells
    in_flight: Counter[str] = Counter()
    for flight in running.in_flight if running else ():
        if not flight.copy:
            in_flight.update(flight.cells)
    given_up: Counter[str] = Counter()
    quarantined = run.quarantined if run and now.todo else ()
    for bad in quarantined:
        given_up.update(bad.cells)
    images = running.input if running else [InputFigures(), *(run.inputs() if run else [])][-1]
    settings = {row["trial_id"]: row for row in trial_rows(now.plan)}
    accuracies = _accuracies(now)
    trials = []
    for trial, steps in now.plan.work:
        cells = now.plan.extent(trial) * len(steps)
        counts = {
            "done": cells - missing[trial],
            "in_flight": min(in_flight[trial], missing[trial]),
            "failed": given_up[trial],
            "cells": cells,
        }
        trials.append({"trial_id": trial, **counts, **accuracies[trial], **settings.get(trial, {})})
    return {
        "name": now.sweep.name,
        "images_skipped": now.plan.facts.num_skipped,
        "trials": trials,
        "units_left": len(now.todo),
        "image_steps_left": now.image_steps_left,
        "eta_s": running.eta_s if running else _eta_s(run, now.image_steps_left, None),
        "running": running.document() if running else None,
        "input": images.document(),
        "flagged_layers": _flagged(now.layout),
        "rejected": dict(now.journal.rejected),
        "quarantined": [bad.document() for bad in quarantined],
        "stopped": dict(now.plan.stopped),
    }


def _accuracies(now: Look) -> dict[str, dict[str, Any]]:
    """trial_id -> images done at its largest T, accuracy and 95 % interval, which are None before any image is done."""
    plan = now.plan
    position = positions(plan.facts.num_images)
    largest = {trial: steps[-1] for trial, steps in plan.work}
    correct, images = dict.fromkeys(largest, 0), dict.fromkeys(largest, 0)
    for result in now.journal.results:
        for trial, t, image_ids, right in result.outcomes():
            if largest.get(trial) == t:
                counted = position[image_ids] < plan.extent(trial)
                images[trial] += int(counted.sum())
                correct[trial] += int(right[counted].sum())
    found = {}
    for trial, n in images.items():
        low, high = map(float, wilson_interval(correct[trial], n)) if n else (None, None)
        found[trial] = {"images": n, "accuracy": correct[trial] / n if n else None, "ci_low": low, "ci_high": high}
    return found


def _flagged(layout: Layout) -> list[str]:
    """Return the saturated and silent layers in the tables merged last; none before the first merge."""
    with contextlib.suppress(StorageError):
        summary = files.read_table(layout.summary, files.SUMMARY_SCHEMA)
        return shortened(flag_layers(summary, files.read_table(layout.activity, files.ACTIVITY_SCHEMA)))
    return []


def search_answer(now: Look, summary: pa.Table) -> list[str]:
    """Return a sentence for each T of interest: the best trial among those that an adaptive search has not stopped."""
    if now.search is None or now.sweep.search is None:
        return []
    running = [row for row in summary.to_pylist() if row["trial_id"] not in now.search.defeats]
    lines = []
    for t in now.sweep.search.time_steps or now.plan.time_steps:
        best = max((row for row in running if row["time_steps"] == t), key=lambda row: row["accuracy"], default=None)
        if best is not None:
            setting = f"{best['reset']} reset, α {best['alpha']:g}, {best['threshold']}"
            lines.append(f"best at T = {t}: {setting} (trial {best['trial_id']}), {best['accuracy']:.2%}")
    return lines


def _eta_s(run: RunRecord | None, image_steps: int, workers: int | None) -> int | None:
    """Estimate the seconds left at the last launch's pace, with its number of workers unless another is given.

    Returns:
        None before the first launch that simulated something.
    """
    pace = run.pace() if run else None
    if pace is None:
        return None
    return round(pace.around_s + image_steps / (pace.rate * (workers or pace.workers))) if image_steps else 0
