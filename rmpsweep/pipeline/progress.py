"""What a launch says while it runs: `progress.json` for others to read, and its events.

`progress.json` is written every few seconds; its readers decide by its time whether the launch still runs.
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
IN_FLIGHT = 100
"""How many jobs in flight are listed, the longest in flight first."""


class Watch:
    """Follows the runs of a driver, one after the other, as their listener; the first event has to be a stage."""

    def __init__(self, layout: Layout, on_event: Callable[[Event], None]) -> None:
        """on_event: gets every event as it is."""
        self.layout, self.on_event = layout, on_event
        self.errors: list[ErrorRecord] = []

    def __call__(self, event: Event | Snapshot) -> None:
        """What `Driver.execute` tells."""
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
        with contextlib.suppress(StorageError):  # units wait for the storage to come back; this can be said later
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
        """The run is over."""
        with contextlib.suppress(StorageError, OSError):
            self.layout.progress.unlink(missing_ok=True)


def _cells(job: Any) -> dict[str, int]:
    """What a unit holds of each trial; calibrations hold none."""
    unit = getattr(job, "unit", None)
    return {} if unit is None else dict(unit.cells)
