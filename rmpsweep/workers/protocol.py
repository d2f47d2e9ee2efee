"""The values and interfaces that the driver, a pool and its workers share. This file needs neither torch nor ray."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self


class Job(Protocol):
    """One piece of work, as the driver sees it."""

    @property
    def job_id(self) -> str:
        """The name of the job, unique among the jobs of a run."""

    @property
    def cost(self) -> float:
        """The amount of work, in any unit; `Beat.done` is in the same unit."""

    def sparing(self) -> Self:
        """Return the same job, to be done in as little memory as possible."""


class WorkerLike(Protocol):
    """What a pool requires of a worker."""

    def setup(self) -> str:
        """Load everything that jobs need, and return the name of the device."""

    def run(self, job: Any) -> Any:
        """Run a job, and return what the driver gets as `Outcome.report`."""

    def beat(self) -> tuple[int, float]:
        """Return a count of all progress so far, and how much of the current job's cost is done.

        The caller is in another thread than the running job.
        """


class MakeWorker(Protocol):
    """A function that makes a worker in the process where the worker runs."""

    def __call__(self, threads: int | None, device: str | None, /) -> WorkerLike:
        """Make a worker that uses this many CPU threads and this device.

        Args:
            threads: None for torch's default.
            device: None for a GPU if there is one, else the CPU.
        """


Cause = Literal["", "memory", "died", "node", "preempted"]
"""Why a worker is gone, or "memory" if a job ran out of memory. Lost nodes and preemption are not charged to a job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one attempt at a job ended."""

    job: Any
    kind: Literal["done", "failed", "lost"]
    """done: the worker has reported. failed: the job raised an error. lost: the worker of the job is gone."""
    report: Any = None
    """What the worker's `run` returned, if the job is done."""
    error: Exception | None = None
    """The error that the job raised, if it failed; Ray's own, if Ray could not hand over the original."""
    message: str = ""
    """What went wrong, in one line."""
    detail: str = ""
    """The traceback."""
    cause: Cause = ""
    worker: str = ""
    log: str = ""
    """The path of the worker's log; "" if it has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """The process of a worker runs and begins to load."""

    worker: str
    place: str = ""
    """Host and process, for messages."""
    log: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """A worker has loaded everything and can take its first job."""

    worker: str
    device: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Beat:
    """How far a worker has come with its job."""

    worker: str
    ticks: int
    """A count that changes whenever the worker makes progress."""
    done: float
    """How much is done, in the unit of the job's cost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """The job of a worker has ended, done or failed, and the worker is idle."""

    worker: str
    outcome: Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class Gone:
    """A worker is gone, and its job with it."""

    worker: str
    message: str = ""
    detail: str = ""
    cause: Cause = ""
    outcome: Outcome | None = None
    """The outcome of the job, if the worker was ended because of the error that the job raised."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """The setup of a worker raised an error, and the worker is gone."""

    worker: str
    error: Exception | None = None
    """The error, if it is one of rmpsweep's own."""
    message: str = ""
    detail: str = ""


PoolEvent = Placed | Ready | Beat | Ended | Gone | Refused


class Pool(Protocol):
    """The place where workers run. Each worker does one job at a time."""

    note: str
    """A sentence that a person should know about the place; "" if there is none."""

    def now(self) -> float:
        """Return the time in seconds, on the clock that deadlines are measured by."""

    def wanted(self) -> int:
        """Return how many workers there should be at the moment. Raises ClusterError if the cluster cannot be asked."""

    def start(self) -> str:
        """Ask for one more worker, and return its name."""

    def submit(self, worker: str, job: Any) -> None:
        """Give a job to a worker that is ready and idle."""

    def stop(self, worker: str) -> None:
        """End a worker at once and drop its job, without an event."""

    def wait(self, timeout_s: float) -> list[PoolEvent]:
        """Return the events since the last call. If there are none, wait for one for at most `timeout_s`.

        A pool in this process does the work inside `wait`, however long that takes.

        Raises:
            ClusterError: no worker can be started any more. A pool in this process also raises what `setup` raises, and
                so it never sends `Refused`.
        """

    def describe(self) -> str:
        """Describe, for messages, the resources that each worker asks for and those that there are."""

    def close(self) -> None:
        """Stop all workers and drop their jobs."""
