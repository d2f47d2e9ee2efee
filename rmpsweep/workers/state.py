"""What the driver keeps of jobs and workers while it runs; these values change, and nobody else may change them."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(eq=False, slots=True)
class Task:
    """A job and what became of it so far."""

    job: Any
    charged: int = 0
    """Attempts that failed at the job's own expense."""
    free: int = 0
    """Attempts that were lost at no expense of the job."""
    flights: int = 0
    """Workers that are doing it."""
    ended: bool = False
    last_worker: str = ""
    """Where it failed last."""


@dataclass(eq=False, slots=True)
class Flight:
    """A job on a worker."""

    task: Task
    worker: str
    began: float
    changed: float
    """When progress was last heard of, on the pool's clock as `began` is."""
    ticks: int = 0
    done: float = 0.0
    """In units of the job's cost."""
    copy: bool = False
    """Whether another worker does the same job."""

    @property
    def job(self) -> Any:
        """What is being done."""
        return self.task.job


@dataclass(eq=False, slots=True)
class Member:
    """A worker, as the driver sees it."""

    name: str
    since: float
    """When its state changed, on the pool's clock."""
    state: Literal["scheduling", "loading", "idle", "busy"] = "scheduling"
    place: str = ""
    log: str = ""
    device: str = ""
    rate: float | None = None
    """Cost per second of its last jobs, None before the first one."""
    failures: int = 0
    """Jobs that failed on it in a row."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A run at one moment; members and flights go on changing after the call that brings them."""

    members: tuple[Member, ...] = ()
    flights: tuple[Flight, ...] = ()
    waiting: int = 0
    """Jobs that nobody works on."""
    now: float = 0.0
    """On the pool's clock, as the times of members and flights are."""
