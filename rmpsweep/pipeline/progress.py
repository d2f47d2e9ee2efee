"""How a launch reports on itself while it runs: progress.json for other processes, and events for its caller.

The launch writes progress.json every few seconds. Readers tell from the time in the file whether it still runs.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, assert_never

from rmpsweep.data.figures import InputFigures
from rmpsweep.errors import StorageError
from rmpsweep.results import Layout, ProgressFile
from rmpsweep.results.records import ErrorRecord, FlightRecord
from rmpsweep.workers.events import (
    Event,
    JobCopied,
    JobDone,
    JobLost,
    JobQuarantined,
    JobRetried,
    StageBegan,
    WorkerChanged,
)
from rmpsweep.workers.state import Snapshot

LAST_ERRORS = 10
"""How many of the latest errors are listed."""
IN_FLIGHT = 100
"""How many jobs in flight are listed, the longest in flight first."""


class Watch:
    """The listener of a driver's successive runs. The first event of each run must be a StageBegan."""

    def __init__(self, layout: Layout, on_event: Callable[[Event], None]) -> None:
        """Follow a launch; `on_event` is called with every event, unchanged."""
        self.layout, self.on_event = layout, on_event
        self.errors: list[ErrorRecord] = []

    def __call__(self, event: Event | Snapshot) -> None:
        """Take an event or a snapshot from `Driver.execute`."""
        match event:
            case Snapshot():
                self._write(event)
                return
            case StageBegan():
                self.stage, self.began, self.done = event, time.time(), 0.0
                self.counts: Counter[type[Event]] = Counter()
                self.input = InputFigures()
                self._write(Snapshot())
            case JobDone():
                self.done += event.cost
                self.input += event.report.input
            case JobLost() | JobQuarantined():
                error = ErrorRecord(job=event.job, worker=event.worker, message=event.message, log=event.log)
                self.errors = [*self.errors, error][-LAST_ERRORS:]
            case WorkerChanged() | JobCopied() | JobRetried():
                pass
            case _:
                assert_never(event)
        self.counts[type(event)] += 1
        self.on_event(event)

    def _write(self, snapshot: Snapshot) -> None:
        with contextlib.suppress(StorageError):  # the next snapshot will do
            self._content(snapshot).write(self.layout)

    def _content(self, snapshot: Snapshot) -> ProgressFile:
        elapsed, total = time.time() - self.began, self.stage.image_steps
        in_flight = sum(min(flight.done, flight.job.cost) for flight in snapshot.flights)
        done = min(self.done + in_flight, total) if total else 0.0
        flights = sorted(snapshot.flights, key=lambda flight: flight.began)[:IN_FLIGHT]
        members = {member.name: member for member in snapshot.members}
        return ProgressFile(
            stage=self.stage.stage,
            written=time.time(),
            began=self.began,
            image_steps=round(total),
            image_steps_done=round(done),
            image_steps_per_s=round(done / elapsed, 3) if elapsed else 0.0,
            eta_s=round((total - done) * elapsed / done) if done and total else None,
            jobs_waiting=snapshot.waiting,
            jobs_done=self.counts[JobDone],
            jobs_retried=self.counts[JobRetried],
            jobs_quarantined=self.counts[JobQuarantined],
            workers_lost=self.counts[JobLost],
            input=self.input,
            workers=dict(sorted(Counter(member.state for member in snapshot.members).items())),
            in_flight=tuple(
                FlightRecord(
                    job=flight.job.job_id,
                    worker=flight.worker,
                    place=members[flight.worker].place,
                    log=members[flight.worker].log,
                    seconds=round(snapshot.now - flight.began, 1),
                    silent_s=round(snapshot.now - flight.changed, 1),
                    done=round(min(1.0, flight.done / flight.job.cost), 3),
                    copy=flight.copy,
                    cells=_cells(flight.job),
                )
                for flight in flights
            ),
            last_errors=tuple(self.errors),
        )

    def close(self) -> None:
        """Remove progress.json, because the launch is over."""
        with contextlib.suppress(StorageError, OSError):
            self.layout.progress.unlink(missing_ok=True)


def _cells(job: Any) -> dict[str, int]:
    """Return the number of cells of each trial in a job; a calibration has none."""
    unit = getattr(job, "unit", None)
    return {} if unit is None else dict(unit.cells)
