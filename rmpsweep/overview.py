"""What `plan` and `status` say of a sweep, as plain values."""

from typing import Any

from rmpsweep.pipeline import Prepared, Progress
from rmpsweep.publish import measured_rate, read_run


def plan_figures(prepared: Prepared, progress: Progress) -> dict[str, Any]:
    """What a launch would do; eta_s from the last launch's rate, None before there was one."""
    rate = measured_rate(prepared.layout)
    left = image_steps_left(progress)
    return {
        "trials": len(prepared.plan.trials),
        "images": prepared.plan.limit,
        "time_steps": list(prepared.plan.time_steps),
        "cells": prepared.plan.num_cells,
        "cells_missing": sum(unit.num_cells for unit in progress.todo),
        "units_missing": len(progress.todo),
        "image_steps_missing": left,
        "weights": "to be trained" if prepared.weights.recipe else str(prepared.weights.path),
        "eta_s": None if rate is None else round(left / rate),
    }


def trial_rows(prepared: Prepared) -> list[dict[str, Any]]:
    """Every trial with its settings."""
    return [{"trial_id": t.trial_id, **t.setting.model_dump()} for t in prepared.plan.trials]


def status_document(prepared: Prepared, progress: Progress) -> dict[str, Any]:
    """Cells done and planned of every trial, the ANN first; unit files that do not count; quarantined units."""
    missing = {trial: 0 for trial, _ in prepared.plan.work}
    for unit in progress.todo:
        for trial, steps in unit.work:
            missing[trial] += (unit.stop - unit.start) * len(steps)
    settings = {row["trial_id"]: row for row in trial_rows(prepared)}
    trials = []
    for trial, steps in prepared.plan.work:
        cells = prepared.plan.limit * len(steps)
        trials.append({"trial_id": trial, "done": cells - missing[trial], "cells": cells, **settings.get(trial, {})})
    rate = measured_rate(prepared.layout)
    return {
        "name": prepared.sweep.name,
        "trials": trials,
        "units_left": len(progress.todo),
        "image_steps_left": image_steps_left(progress),
        "eta_s": None if rate is None else round(image_steps_left(progress) / rate),
        "rejected": dict(progress.journal.rejected),
        "quarantined": read_run(prepared.layout).get("quarantined", []) if progress.todo else [],
    }


def image_steps_left(progress: Progress) -> int:
    """Images x time steps still to be simulated."""
    return sum(unit.image_steps for unit in progress.todo)
