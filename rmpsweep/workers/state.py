"""What the driver knows of jobs and workers during a run. Only the driver changes these values."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(eq=False, slots=True)
class Task:
    """A job and its history so far."""

    job: Any
    charged: int = 0
    """The number of failed or lost attempts that count against the job's retries."""
    free: int = 0
    """The number of lost attempts that do not count against the job's retries."""
    flights: int = 0
    """The number of workers that are doing the job."""
    ended: bool = False
    """Whether the job is done, quarantined or dropped."""
    last_worker: str = ""
    """The worker on which the job failed last; "" if it never did."""


@dataclass(eq=False, slots=True)
class Flight:
    """A job on a worker."""

    task: Task
    worker: str
    began: float
    """When the job began, on the pool's clock."""
    changed: float
    """When the job was last seen to make progress, on the pool's clock."""
    ticks: int = 0
    """The ticks of the last beat."""
    done: float = 0.0
    """How much is done, in the unit of the job's cost."""
    copy: bool = False
    """Whether another worker was doing the same job when this one began."""

    @property
    def job(self) -> Any:
        """The job that the worker is doing."""
        return self.task.job


@dataclass(eq=False, slots=True)
class Member:
    """A worker, as the driver sees it."""

    name: str
    since: float
    """When the state last changed, on the pool's clock."""
    state: Literal["scheduling", "loading", "idle", "busy"] = "scheduling"
    place: str = ""
    """Host and process."""
    log: str = ""
    """The path of the log; "" if there is none."""
    device: str = ""
    rate: float | None = None
    """Cost per second, averaged over the last jobs with the latest counting half; None before a job is done."""
    failures: int = 0
    """The number of jobs in a row that failed on this worker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """The state of a run at one moment. Members and flights keep changing after the listener was called with them."""

    members: tuple[Member, ...] = ()
    flights: tuple[Flight, ...] = ()
    waiting: int = 0
    """The number of jobs that no worker is doing."""
    now: float = 0.0
    """The time on the pool's clock, to compare with those of members and flights."""
