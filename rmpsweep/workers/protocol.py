"""What the driver, a pool and its workers say to one another: plain values and protocols, without torch and ray."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self


class Job(Protocol):
    """One piece of work, as the driver sees it."""

    @property
    def job_id(self) -> str:
        """Unique among the jobs of a run."""

    @property
    def cost(self) -> float:
        """How much there is to do, in any unit; `Beat.done` is in the same unit."""

    def sparing(self) -> Self:
        """The same job, done in as little memory as it can be."""


class WorkerLike(Protocol):
    """What a pool needs of a worker."""

    def setup(self) -> str:
        """Load everything that jobs need; returns the name of the device."""

    def run(self, job: Any) -> Any:
        """Do a job; returns what the driver is to get as `Outcome.report`."""

    def beat(self) -> tuple[int, float]:
        """How often anything moved so far, and how much of the present job's cost is done; called by another thread."""


class MakeWorker(Protocol):
    """Makes a worker where it is to run."""

    def __call__(self, threads: int | None, device: str | None, /) -> WorkerLike:
        """threads: of the CPU, None for torch's default; device: None for a GPU if there is any."""


Cause = Literal["", "memory", "died", "node", "preempted"]
"""Why a worker is gone; jobs are not charged for nodes and preemption."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one attempt at a job ended."""

    job: Any
    kind: Literal["done", "failed", "lost"]
    """done: the worker reports; failed: the job raised; lost: its worker is gone."""
    report: Any = None
    """What the worker's `run` returned, where the job is done."""
    error: Exception | None = None
    """What was raised; of a worker in another process, only where it is one of rmpsweep's errors."""
    message: str = ""
    """What went wrong, in one line."""
    detail: str = ""
    """The traceback."""
    cause: Cause = ""
    worker: str = ""
    log: str = ""
    """Where the worker writes its log, "" where it has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A worker's process runs, and loads."""

    worker: str
    place: str = ""
    """Host and process."""
    log: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """A worker can take a job."""

    worker: str
    device: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Beat:
    """How far a worker has come with its job."""

    worker: str
    ticks: int
    """Changes whenever anything moved."""
    done: float
    """In units of the job's cost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A worker's job ended, and the worker is idle."""

    worker: str
    outcome: Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class Gone:
    """A worker is no more, and neither is its job."""

    worker: str
    message: str = ""
    detail: str = ""
    cause: Cause = ""
    outcome: Outcome | None = None
    """What the job raised, where that is why the worker was ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """A worker's setup raised, and the worker is no more."""

    worker: str
    error: Exception | None = None
    """What was raised, where it is one of rmpsweep's errors."""
    message: str = ""
    detail: str = ""


PoolEvent = Placed | Ready | Beat | Ended | Gone | Refused


class Pool(Protocol):
    """Where workers run; each does one job at a time."""

    note: str
    """What a person should know of the place, "" for nothing."""

    def now(self) -> float:
        """Seconds on the clock that deadlines are measured by."""

    def wanted(self) -> int:
        """How many workers there should be at the moment."""

    def start(self) -> str:
        """Ask for one more worker; returns its name."""

    def submit(self, worker: str, job: Any) -> None:
        """Give a job to a worker that is ready and idle."""

    def stop(self, worker: str) -> None:
        """End a worker at once, without an event; its job is dropped."""

    def wait(self, timeout_s: float) -> list[PoolEvent]:
        """Events since the last call; waits for the first one, at most that many seconds.

        Raises:
            ClusterError: no worker can be had any more. A pool in this process lets through what `setup` raises.
        """

    def describe(self) -> str:
        """What each worker asks for and what there is, for messages."""

    def close(self) -> None:
        """Stop all workers and drop their jobs."""
