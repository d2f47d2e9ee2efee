"""The events of a run, its limits and its outcome.

The events form one union, `Event`. The driver makes them, and the listener of a run gets them unchanged; `rmpsweep
launch --json` prints each as one line of JSON (`plain`). A job is a calibration, named by its calibration_id, or the
evaluation of a unit, named by its unit_id. This file needs neither torch nor ray.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from rmpsweep.workers.protocol import Outcome
from rmpsweep.workers.state import Snapshot


@dataclass(frozen=True, kw_only=True, slots=True)
class StageBegan:
    """A list of jobs begins, which may be empty."""

    stage: str
    """One of "starting", "calibrating" and "evaluating"; an adaptive search evaluates in several rounds."""
    jobs: int = 0
    """The number of jobs."""
    image_steps: int = 0
    """Images times time steps to be simulated; 0 in stages that do not count them, such as calibration."""

    def plain(self) -> dict[str, Any]:
        """The event as plain values, as `rmpsweep launch --json` prints it."""
        return {"event": "stage", "stage": self.stage, "image_steps": self.image_steps}


Change = Literal["placed", "ready", "gone", "refused"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerChanged:
    """A worker has come or gone."""

    worker: str
    change: Change
    """placed: its process runs and loads. ready: it can take jobs. gone: it is lost. refused: it cannot be set up."""
    about: str
    """For placed, host and process; for ready, the device; for gone and refused, the reason in one line."""

    def plain(self) -> dict[str, Any]:
        """The event as plain values, as `rmpsweep launch --json` prints it."""
        return {"event": f"worker {self.change}", "worker": self.worker, "place": self.about}


@dataclass(frozen=True, kw_only=True, slots=True)
class JobCopied:
    """A job is so slow that a second worker does it too. Whichever worker ends it first counts."""

    stage: str
    job: str
    worker: str
    """The second worker."""

    def plain(self) -> dict[str, Any]:
        """The event as plain values, as `rmpsweep launch --json` prints it."""
        return {"event": "copy", "stage": self.stage, "job": self.job, "worker": self.worker}


@dataclass(frozen=True, kw_only=True, slots=True)
class JobDone:
    """A job is done. If it evaluates a unit, the unit's file is committed."""

    stage: str
    job: str
    worker: str
    cost: float
    """For a unit, its image-steps (at least 1); for a calibration, roughly the number of passes over single images."""
    report: Any
    """The worker's `JobReport`."""

    def plain(self) -> dict[str, Any]:
        """The event as plain values, as `rmpsweep launch --json` prints it."""
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
    """The fields shared by the events of a job that failed or was lost."""

    stage: str
    job: str
    worker: str
    message: str
    """What went wrong, in one line."""
    log: str
    """The path of the worker's log; "" if it has none."""

    def _plain(self, event: str) -> dict[str, Any]:
        values = {"stage": self.stage, "job": self.job, "worker": self.worker, "message": self.message}
        return {"event": event, **values}


class JobLost(_Trouble):
    """A job was lost with its worker, or was stopped because it made no progress.

    A retry or a quarantine follows, unless a copy of the job is still running.
    """

    __slots__ = ()

    def plain(self) -> dict[str, Any]:
        """The event as plain values, as `rmpsweep launch --json` prints it."""
        return self._plain("lost")


class JobRetried(_Trouble):
    """An attempt at a job failed or was lost, and the job waits for its next attempt."""

    __slots__ = ()

    def plain(self) -> dict[str, Any]:
        """The event as plain values, as `rmpsweep launch --json` prints it."""
        return self._plain("retry")


class JobQuarantined(_Trouble):
    """A job is given up: it failed more often than allowed, or because of input that no further attempt can change."""

    __slots__ = ()

    def plain(self) -> dict[str, Any]:
        """The event as plain values, as `rmpsweep launch --json` prints it."""
        return self._plain("quarantined")


Event = StageBegan | WorkerChanged | JobCopied | JobDone | JobLost | JobRetried | JobQuarantined
Listener = Callable[[Event | Snapshot], None]
"""Called by the driver with every event, and every few seconds with a snapshot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits at which jobs and runs are given up, or workers replaced."""

    retries: int = 2
    """How often a job is tried again after an attempt has failed or lost its worker."""
    max_failures: int | None = None
    """The run ends after more failed attempts than this, counted over all jobs; None for no limit."""
    fail_fast: bool = False
    """Whether the run ends when the first job is given up."""
    schedule_s: float = 900.0
    """Seconds within which some worker must run; otherwise the run ends."""
    setup_s: float = 600.0
    """Seconds within which a worker must have loaded; otherwise it is stopped."""
    stall_s: float = 600.0
    """Seconds that a job may go without progress before its worker is stopped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """A job that was given up: it failed more often than allowed, or because of input that no attempt can change."""

    outcome: Outcome
    """How the last attempt ended."""
    attempts: int
    """The number of attempts that counted against the job's retries."""


@dataclass
class Execution:
    """The outcome of a list of jobs."""

    outcomes: list[Outcome] = field(default_factory=list)
    """The outcomes of the jobs that are done, in the order in which they ended."""
    quarantined: list[Quarantined] = field(default_factory=list)
    failures: int = 0
    """The number of attempts that counted against the retries of their jobs."""
    interrupted: bool = False
    """Whether waiting jobs were dropped."""
    gave_up: str = ""
    """The limit that ended the run, in words; "" if none did."""

    @property
    def is_whole(self) -> bool:
        """Whether every job was done."""
        return not (self.quarantined or self.interrupted or self.gave_up)

    def __add__(self, later: "Execution") -> "Execution":
        """Combine the outcomes of two lists of jobs that were run one after the other."""
        return Execution(
            [*self.outcomes, *later.outcomes],
            [*self.quarantined, *later.quarantined],
            self.failures + later.failures,
            self.interrupted or later.interrupted,
            self.gave_up or later.gave_up,
        )
