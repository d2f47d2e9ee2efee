"""What a launch says while it runs: `progress.json` for others to read, and events for the display.

`progress.json` is written every few seconds; who reads it decides by its time whether the launch still runs.
"""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from rmpsweep.data.figures import InputFigures
from rmpsweep.errors import StorageError
from rmpsweep.results import Layout, read_json
from rmpsweep.storage import write_atomic
from rmpsweep.workers.events import Standing

LAST_ERRORS = 10
STALE_S = 60.0
"""A launch that has not written for so long is taken to be gone."""
IN_FLIGHT = 100
"""So many jobs in flight are listed, the slowest first."""

Tell = Callable[..., None]
"""Called with the name of an event, and its values by name."""


class Watch:
    """Follows the runs of a driver, one after the other; an instance is their listener."""

    def __init__(self, layout: Layout, tell: Tell) -> None:
        """tell: gets every event as plain values."""
        self.layout, self.tell = layout, tell
        self.errors: list[dict[str, str]] = []
        self.begin("starting", 0)

    def begin(self, stage: str, total: float) -> None:
        """A run begins. total: image-steps to do, 0 where they are not counted."""
        self.stage, self.total = stage, total
        self.began, self.done = time.time(), 0.0
        self.counts: Counter[str] = Counter()
        self.input = InputFigures()
        self.tell("stage", stage=stage, image_steps=total)
        self._write(Standing((), (), 0, 0.0, 0.0))

    def __call__(self, kind: str, value: Any) -> None:
        """What `Driver.execute` reports."""
        if kind == "watch":
            self._write(value)
            return
        self.counts[kind] += 1
        if kind == "done":
            self.done += value.job.cost
            self.input += value.report.input
            self.tell(
                kind,
                stage=self.stage,
                job=value.job.job_id,
                worker=value.worker,
                cost=value.job.cost,
                seconds=value.report.seconds,
            )
        elif kind == "worker":
            self.tell(f"worker {value.kind}", worker=value.worker, place=value.place or value.device or value.message)
        elif kind == "copy":
            self.tell(kind, stage=self.stage, job=value.job.job_id, worker=value.worker)
        else:
            outcome = value.outcome if kind == "quarantined" else value
            if kind != "retry":
                error = {"job": outcome.job.job_id, "worker": outcome.worker, "message": outcome.message}
                self.errors = [*self.errors, error | {"log": outcome.log}][-LAST_ERRORS:]
            self.tell(kind, stage=self.stage, job=outcome.job.job_id, worker=outcome.worker, message=outcome.message)

    def _write(self, standing: Standing) -> None:
        elapsed = time.time() - self.began
        in_flight = sum(min(flight.done, flight.job.cost) for flight in standing.flights)
        done = min(self.done + in_flight, self.total) if self.total else 0.0
        flights = sorted(standing.flights, key=lambda flight: flight.began)[:IN_FLIGHT]
        places = {worker.name: worker for worker in standing.workers}
        content = {
            "stage": self.stage,
            "written": time.time(),
            "began": self.began,
            "image_steps": round(self.total),
            "image_steps_done": round(done),
            "image_steps_per_s": round(done / elapsed, 3) if elapsed else 0.0,
            "eta_s": round((self.total - done) * elapsed / done) if done and self.total else None,
            "jobs_waiting": standing.waiting,
            "jobs_done": self.counts["done"],
            "jobs_retried": self.counts["retry"],
            "jobs_quarantined": self.counts["quarantined"],
            "workers_lost": self.counts["lost"],
            "input": self.input.document(),
            "workers": dict(sorted(Counter(worker.state for worker in standing.workers).items())),
            "in_flight": [
                {
                    "job": flight.job.job_id,
                    "worker": flight.worker,
                    "place": places[flight.worker].place,
                    "log": places[flight.worker].log,
                    "seconds": round(standing.now - flight.began, 1),
                    "silent_s": round(standing.now - flight.changed, 1),
                    "done": round(min(1.0, flight.done / flight.job.cost), 3),
                    "copy": flight.copy,
                    "cells": _cells(flight.job),
                }
                for flight in flights
            ],
            "last_errors": self.errors,
        }
        try:
            write_atomic(self.layout.progress, json.dumps(content, indent=2).encode(), patience_s=0.0)
        except StorageError:  # units wait for the storage to come back; this can be said later
            return

    def close(self) -> None:
        """The run is over."""
        with contextlib.suppress(StorageError, OSError):
            self.layout.progress.unlink(missing_ok=True)


def _cells(job: Any) -> dict[str, int]:
    """What a unit holds of each trial; calibrations hold none."""
    unit = getattr(job, "unit", None)
    return {} if unit is None else {trial: (unit.stop - unit.start) * len(steps) for trial, steps in unit.work}


def read_progress(layout: Layout) -> dict[str, Any] | None:
    """What the launch that runs has written last; None where none runs."""
    found: dict[str, Any] | None = read_json(layout.progress)
    if found is None or time.time() - found["written"] > STALE_S:
        return None
    return found
