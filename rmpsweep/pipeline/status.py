"""What `plan` and `status` say of a sweep, as plain values."""

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from rmpsweep import results as files
from rmpsweep.data import image_order
from rmpsweep.data.figures import InputFigures
from rmpsweep.errors import StorageError
from rmpsweep.pipeline.progress import read_progress
from rmpsweep.pipeline.publish import launch_inputs, measured_pace, read_run
from rmpsweep.pipeline.search import Standing
from rmpsweep.pipeline.verbs import Prepared, Progress
from rmpsweep.stats import wilson_interval
from rmpsweep.stats.firing import flag_layers, shortened
from rmpsweep.sweep.plan import Plan
from rmpsweep.sweep.schema import Search


def plan_figures(prepared: Prepared, progress: Progress, workers: int | None) -> dict[str, Any]:
    """What a launch would do; workers: None where the cluster decides."""
    left = image_steps_left(progress)
    return {
        "trials": len(prepared.plan.trials),
        "images": prepared.plan.limit,
        "images_skipped": prepared.plan.facts.num_skipped,
        "time_steps": list(prepared.plan.time_steps),
        "cells": prepared.plan.num_cells,
        "cells_missing": sum(unit.num_cells for unit in progress.todo),
        "units_missing": len(progress.todo),
        "image_steps_missing": left,
        "search": _search(prepared.plan, prepared.sweep.search),
        "weights": _weights(prepared),
        "workers": workers,
        "eta_s": _eta_s(prepared, left, workers),
    }


def _search(plan: Plan, search: Search | None) -> str | None:
    if search is None:
        return None
    steps = ", ".join(map(str, search.time_steps or plan.time_steps))
    return f"stops trials that are worse at T = {steps}: what is missing is at most so much"


def _weights(prepared: Prepared) -> str:
    if prepared.weights.recipe is not None:
        return "to be trained"
    return str(prepared.weights.path) if prepared.weights.path.exists() else "to be fetched"


def trial_rows(prepared: Prepared) -> list[dict[str, Any]]:
    """Every trial with its settings."""
    return [{"trial_id": t.trial_id, **asdict(t.setting)} for t in prepared.plan.trials]


def skipped_note(plan: Plan) -> list[str]:
    """A sentence where images are left out; empty where none are."""
    skipped, whole = plan.facts.num_skipped, plan.facts.num_images + plan.facts.num_skipped
    return (
        [f"{skipped} of {whole} images cannot be decoded and are left out: skipped.csv lists them"] if skipped else []
    )


def status_document(prepared: Prepared, progress: Progress) -> dict[str, Any]:
    """Cells done, in flight, failed and planned of every trial, the ANN first, and its accuracy at its largest T over
    the images done; what the launch that runs says of itself (None where none runs); how images came in, in that launch
    or else the last one that computed something; unit files that do not count; quarantined units; trials that an
    adaptive search has stopped, after how many images."""
    missing = {trial: 0 for trial, _ in prepared.plan.work}
    for unit in progress.todo:
        for trial, steps in unit.work:
            missing[trial] += (unit.stop - unit.start) * len(steps)
    running = read_progress(prepared.layout)
    in_flight: Counter[str] = Counter()
    for flight in running["in_flight"] if running else ():
        if not flight["copy"]:
            in_flight.update(flight["cells"])
    given_up: Counter[str] = Counter()
    run = read_run(prepared.layout)
    quarantined = run.get("quarantined", []) if progress.todo else []
    for bad in quarantined:
        given_up.update(bad["cells"])
    images = InputFigures.read(running.get("input")) if running else [InputFigures(), *launch_inputs(run)][-1]
    settings = {row["trial_id"]: row for row in trial_rows(prepared)}
    accuracies = _accuracies(prepared.plan, progress)
    trials = []
    for trial, steps in prepared.plan.work:
        cells = prepared.plan.extent(trial) * len(steps)
        standing = {
            "done": cells - missing[trial],
            "in_flight": min(in_flight[trial], missing[trial]),
            "failed": given_up[trial],
            "cells": cells,
        }
        trials.append({"trial_id": trial, **standing, **accuracies[trial], **settings.get(trial, {})})
    return {
        "name": prepared.sweep.name,
        "images_skipped": prepared.plan.facts.num_skipped,
        "trials": trials,
        "units_left": len(progress.todo),
        "image_steps_left": image_steps_left(progress),
        "eta_s": running["eta_s"] if running else _eta_s(prepared, image_steps_left(progress), None),
        "running": running,
        "input": images.document(),
        "flagged_layers": _flagged(prepared),
        "rejected": dict(progress.journal.rejected),
        "quarantined": quarantined,
        "stopped": dict(prepared.plan.stopped),
    }


def _accuracies(plan: Plan, progress: Progress) -> dict[str, dict[str, Any]]:
    """Of every trial, at its largest T: images done, accuracy, 95 % interval; None before there are any."""
    position = np.argsort(image_order(plan.facts.num_images))
    largest = {trial: steps[-1] for trial, steps in plan.work}
    correct, images = dict.fromkeys(largest, 0), dict.fromkeys(largest, 0)
    for result in progress.journal.results:
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


def _flagged(prepared: Prepared) -> list[str]:
    """Saturated and silent layers of what was merged last; none before that."""
    with contextlib.suppress(StorageError):
        summary = files.read_table(prepared.layout.summary, files.SUMMARY_SCHEMA)
        return shortened(flag_layers(summary, files.read_table(prepared.layout.activity, files.ACTIVITY_SCHEMA)))
    return []


def search_answer(standing: Standing, time_steps: Sequence[int], summary: pa.Table) -> list[str]:
    """The best trial at each T of interest of those that an adaptive search has not stopped, a sentence each.

    Args:
        time_steps: of interest.
    """
    running = [row for row in summary.to_pylist() if row["trial_id"] not in standing.defeats]
    lines = []
    for t in time_steps:
        best = max((row for row in running if row["time_steps"] == t), key=lambda row: row["accuracy"], default=None)
        if best is not None:
            setting = f"{best['reset']} reset, α {best['alpha']:g}, {best['threshold']}"
            lines.append(f"best at T = {t}: {setting} (trial {best['trial_id']}), {best['accuracy']:.2%}")
    return lines


def search_note(standing: Standing) -> str:
    """What the last round of an adaptive search came to, in a sentence."""
    stopped, running = len(standing.defeats), len(standing.plan.trials) - len(standing.defeats)
    last = standing.rounds[-1].images if standing.rounds else 0
    goes_on = "all images seen" if standing.within is None else f"next up to image {standing.within[1]:,}"
    return f"search: {last:,} images, {stopped} trials stopped, {running} left; {goes_on}"


def image_steps_left(progress: Progress) -> int:
    """Images x time steps still to be simulated."""
    return sum(unit.image_steps for unit in progress.todo)


def _eta_s(prepared: Prepared, image_steps: int, workers: int | None) -> int | None:
    """Seconds at the last launch's pace, with as many workers or so many; None before there was one."""
    pace = measured_pace(prepared.layout)
    if pace is None:
        return None
    return round(pace.around_s + image_steps / (pace.rate * (workers or pace.workers))) if image_steps else 0
