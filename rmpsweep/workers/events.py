"""What a run tells while it goes on, and what came of it.

The events are one family, `Event`: the driver makes them, and whoever follows a run gets them as they are, `rmpsweep
launch --json` as one line of JSON each (`plain`). A job is a calibration, named by its calibration_id, or the
evaluation of a unit, named by its unit_id. Needs neither torch nor ray.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from rmpsweep.workers.protocol import Outcome
from rmpsweep.workers.state import Snapshot


@dataclass(frozen=True, kw_only=True, slots=True)
class StageBegan:
    """A list of jobs begins; there may be none in it."""

    stage: str
    """One of "starting", "calibrating" and "evaluating"; an adaptive search evaluates in several rounds."""
    jobs: int = 0
    image_steps: int = 0
    """Images times time steps that are to be simulated; 0 where that is not counted, as for calibrations."""

    def plain(self) -> dict[str, Any]:
        """The JSON line of `--json`."""
        return {"event": "stage", "stage": self.stage, "image_steps": self.image_steps}


Change = Literal["placed", "ready", "gone", "refused"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerChanged:
    """A worker came or went."""

    worker: str
    change: Change
    """placed: its process runs, and loads; ready: it takes jobs; gone: it is no more; refused: it cannot be set up."""
    about: str
    """placed: host and process; ready: the device; gone, refused: why, in one line."""

    def plain(self) -> dict[str, Any]:
        """The JSON line of `--json`."""
        return {"event": f"worker {self.change}", "worker": self.worker, "place": self.about}


@dataclass(frozen=True, kw_only=True, slots=True)
class JobCopied:
    """A job is so slow that a second worker does it too; the first of the two to end it counts."""

    stage: str
    job: str
    worker: str
    """The second worker."""

    def plain(self) -> dict[str, Any]:
        """The JSON line of `--json`."""
        return {"event": "copy", "stage": self.stage, "job": self.job, "worker": self.worker}


@dataclass(frozen=True, kw_only=True, slots=True)
class JobDone:
    """A job is done; of a unit, its file is committed."""

    stage: str
    job: str
    worker: str
    cost: float
    """Image-steps of a unit; of a calibration, roughly passes over an image."""
    report: Any
    """The worker's `JobReport`."""

    def plain(self) -> dict[str, Any]:
        """The JSON line of `--json`."""
        return {
            "event": "done",
            "stage": self.stage,
            "job": self.job,
            "worker": self.worker,
            "cost": self.cost,
            "seconds": self.report.seconds,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trouble:
    """What the events of a job that did not end well have in common."""

    stage: str
    job: str
    worker: str
    message: str
    """What went wrong, in one line."""
    log: str
    """Where the worker wrote its log, "" where it has none."""

    def _plain(self, event: str) -> dict[str, Any]:
        values = {"stage": self.stage, "job": self.job, "worker": self.worker, "message": self.message}
        return {"event": event, **values}


class JobLost(_Trouble):
    """A job was lost with its worker, or stopped since it made no progress; a retry or a quarantine follows, unless a
    copy of the job goes on."""

    __slots__ = ()

    def plain(self) -> dict[str, Any]:
        """The JSON line of `--json`."""
        return self._plain("lost")


class JobRetried(_Trouble):
    """An attempt at a job failed or was lost, and the job waits for another one."""

    __slots__ = ()

    def plain(self) -> dict[str, Any]:
        """The JSON line of `--json`."""
        return self._plain("retry")


class JobQuarantined(_Trouble):
    """A job is given up: it failed more often than its budget allows, or on input that no attempt can mend."""

    __slots__ = ()

    def plain(self) -> dict[str, Any]:
        """The JSON line of `--json`."""
        return self._plain("quarantined")


Event = StageBegan | WorkerChanged | JobCopied | JobDone | JobLost | JobRetried | JobQuarantined
Listener = Callable[[Event | Snapshot], None]
"""Called by the driver with every event, and every few seconds with a snapshot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """When to give up."""

    retries: int = 2
    """Attempts of a job after its first that may fail or lose their worker."""
    max_failures: int | None = None
    """Such attempts in the whole run, None for any number."""
    fail_fast: bool = False
    """Whether the first job given up ends the run."""
    schedule_s: float = 900.0
    """Seconds until any worker runs."""
    setup_s: float = 600.0
    """Seconds for a worker to load."""
    stall_s: float = 600.0
    """Seconds that a job may go without progress."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """A job given up: it failed more often than its budget allows, or on input that no attempt can mend."""

    outcome: Outcome
    attempts: int


@dataclass
class Execution:
    """What came of a list of jobs."""

    outcomes: list[Outcome] = field(default_factory=list)
    """Of the jobs that are done, in the order of their ends."""
    quarantined: list[Quarantined] = field(default_factory=list)
    failures: int = 0
    """Attempts that failed at the expense of their jobs."""
    interrupted: bool = False
    """Whether jobs were left undone."""
    gave_up: str = ""
    """Which limit ended the run, "" for none."""

    @property
    def is_whole(self) -> bool:
        """Whether every job was done."""
        return not (self.quarantined or self.interrupted or self.gave_up)

    def __add__(self, later: "Execution") -> "Execution":
        """What came of two lists of jobs, one after the other."""
        return Execution(
            [*self.outcomes, *later.outcomes],
            [*self.quarantined, *later.quarantined],
            self.failures + later.failures,
            self.interrupted or later.interrupted,
            self.gave_up or later.gave_up,
        )
