"""What driver, pools and jobs say to one another: plain values and two protocols."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self


class Job(Protocol):
    """One piece of work."""

    @property
    def job_id(self) -> str:
        """Unique among the jobs of a run."""

    @property
    def cost(self) -> float:
        """In any unit; a worker's progress is in the same."""

    def sparing(self) -> Self:
        """The same job in as little memory as it can."""


Cause = Literal["", "memory", "died", "node", "preempted"]
"""Why a worker is gone; jobs are not charged for nodes and preemption."""


@dataclass(frozen=True)
class Outcome:
    """How one attempt ended: done (with the worker's report), failed (the job raised), lost (its worker is gone).

    error: the exception where it is one of rmpsweep's; message: one line; detail: traceback; log: the worker's.
    """

    job: Any
    kind: Literal["done", "failed", "lost"]
    report: Any = None
    error: Exception | None = None
    message: str = ""
    detail: str = ""
    cause: Cause = ""
    worker: str = ""
    log: str = ""


@dataclass(frozen=True)
class Event:
    """What a pool tells of a worker.

    placed: its process runs, and loads (log: where it writes); ready: it can take a job (device); beat: its job has
    come so far (ticks change whenever anything moved, done in units of cost); ended: its job ended, and it is idle;
    gone: it is no more, and its job neither (outcome: what the job raised, where that is why); refused: its setup
    raised.
    """

    worker: str
    kind: Literal["placed", "ready", "beat", "ended", "gone", "refused"]
    place: str = ""
    log: str = ""
    device: str = ""
    ticks: int = 0
    done: float = 0.0
    outcome: Outcome | None = None
    error: Exception | None = None
    message: str = ""
    detail: str = ""
    cause: Cause = ""


class Pool(Protocol):
    """Where workers run; each does one job at a time."""

    def now(self) -> float:
        """Seconds on the clock that deadlines are measured by."""

    def wanted(self) -> int:
        """How many workers there should be at the moment."""

    def start(self) -> str:
        """Ask for one more worker; its name."""

    def submit(self, worker: str, job: Any) -> None:
        """Give a job to a worker that is ready."""

    def stop(self, worker: str) -> None:
        """End a worker at once, without an event; what it does is dropped."""

    def wait(self, timeout_s: float) -> list[Event]:
        """Events since the last call; waits for the first one, at most so long."""

    def describe(self) -> str:
        """What each worker asks for and what there is, for messages."""


@dataclass(frozen=True)
class Limits:
    """When to give up.

    retries: attempts of a job after its first that may fail or lose their worker; max_failures: such attempts in the
    whole run, None for any number; fail_fast: the first job given up ends the run. Deadlines, in seconds: schedule_s
    until any worker runs, setup_s for a worker to load, stall_s for a job without progress.
    """

    retries: int = 2
    max_failures: int | None = None
    fail_fast: bool = False
    schedule_s: float = 900.0
    setup_s: float = 600.0
    stall_s: float = 600.0


@dataclass(frozen=True)
class Quarantined:
    """A job given up: it failed more often than its budget allows, or on input that no attempt can mend."""

    outcome: Outcome
    attempts: int


@dataclass
class Execution:
    """What came of a list of jobs; `interrupted` leaves the rest undone, `gave_up` says which limit did."""

    outcomes: list[Outcome] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    failures: int = 0
    interrupted: bool = False
    gave_up: str = ""

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


Listener = Callable[[str, Any], None]
"""Called with "done", "retry", "lost", "copy" (an Outcome, or a Flight for a copy), "quarantined" (a Quarantined),
"worker" (an Event), and every few seconds "watch" (a Standing)."""


@dataclass(eq=False)
class Task:
    """A job and what became of it so far. charged, free: attempts that failed at its own expense and at none."""

    job: Any
    charged: int = 0
    free: int = 0
    flights: int = 0
    ended: bool = False
    last_worker: str = ""


@dataclass(eq=False)
class Flight:
    """A job on a worker. began, changed: seconds; done: in units of cost."""

    task: Task
    worker: str
    began: float
    changed: float
    ticks: int = 0
    done: float = 0.0
    copy: bool = False

    @property
    def job(self) -> Any:
        """What is being done."""
        return self.task.job


@dataclass(eq=False)
class Worker:
    """A worker as the driver sees it. rate: cost per second of its last jobs, None before the first."""

    name: str
    since: float
    state: Literal["scheduling", "loading", "idle", "busy"] = "scheduling"
    place: str = ""
    log: str = ""
    device: str = ""
    rate: float | None = None
    failures: int = 0


@dataclass(frozen=True)
class Standing:
    """The run at one moment. waiting: jobs nobody works on, and their cost."""

    workers: tuple[Worker, ...]
    flights: tuple[Flight, ...]
    waiting: int
    waiting_cost: float
    now: float
