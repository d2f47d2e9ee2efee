"""The loop that hands jobs to workers, retries what failed, and replaces workers that died.

Knows neither ray nor torch: the pool is an argument. A job is anything with a `job_id`; its effects are its own (a unit
commits itself), so running one twice is harmless and an attempt whose outcome is unknown is simply repeated.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from rmpsweep.errors import ClusterError, InputError, UnusableError

POLL_S = 0.5


class Job(Protocol):
    """One piece of work."""

    @property
    def job_id(self) -> str:
        """Unique among the jobs of a run."""


@dataclass(frozen=True)
class Outcome:
    """How one attempt ended: done (with the worker's report), failed (the job raised), lost (its worker died).

    error: the exception where it is one of rmpsweep's; message: one line; detail: traceback and log path.
    """

    job: Any
    kind: Literal["done", "failed", "lost"]
    report: Any = None
    error: Exception | None = None
    message: str = ""
    detail: str = ""


class Pool(Protocol):
    """Workers that each do one job at a time."""

    num_workers: int

    def num_idle(self) -> int:
        """Workers that can take a job now."""

    def submit(self, job: Any) -> None:
        """Give a job to an idle worker."""

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Outcomes since the last call; waits for the first one, at most so long."""

    def replace_lost(self) -> None:
        """Start a worker for each one that died. Raises ClusterError."""

    def close(self) -> None:
        """Stop the workers; jobs in flight are dropped."""


@dataclass(frozen=True)
class Quarantined:
    """A job given up: it failed more often than its budget allows, or on input that no attempt can mend."""

    outcome: Outcome
    attempts: int


@dataclass
class Execution:
    """What came of a list of jobs; `interrupted` leaves the rest undone."""

    outcomes: list[Outcome] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    interrupted: bool = False


Event = Callable[[str, Any], None]
"""Called with "done", "retry", "lost" or "quarantined", and the Outcome or Quarantined."""


def execute(
    jobs: Iterable[Job],
    pool: Pool,
    retries: int,
    on_event: Event = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
) -> Execution:
    """Run every job to its end or into quarantine; at most one job in flight for each worker.

    Args:
        retries: attempts of a job after its first; losing its worker counts as an attempt, an InputError ends them.
        stop: once true, nothing new is started and jobs in flight are waited for.
    Raises:
        UnusableError: a job cannot read or write what every job needs, after all its attempts.
        ClusterError: more workers died than jobs and workers could explain.
    """
    waiting = deque(jobs)
    attempts: dict[str, int] = {}
    in_flight = 0
    lost_workers = 0
    budget = pool.num_workers * (retries + 1) + len(waiting)
    result = Execution()
    while waiting or in_flight:
        if stop():
            result.interrupted = bool(waiting) or result.interrupted
            waiting.clear()
        while waiting and pool.num_idle():
            job = waiting.popleft()
            attempts[job.job_id] = attempts.get(job.job_id, 0) + 1
            pool.submit(job)
            in_flight += 1
        for outcome in pool.wait(POLL_S):
            in_flight -= 1
            if outcome.kind == "done":
                result.outcomes.append(outcome)
                on_event("done", outcome)
                continue
            if outcome.kind == "lost":
                on_event("lost", outcome)
                lost_workers += 1
                if lost_workers > budget:
                    raise ClusterError(f"{lost_workers} workers died, giving up; the last one: {outcome.message}")
                pool.replace_lost()
            hopeless = isinstance(outcome.error, InputError)
            if hopeless or attempts[outcome.job.job_id] > retries:
                if isinstance(outcome.error, UnusableError):
                    raise outcome.error
                bad = Quarantined(outcome, attempts[outcome.job.job_id])
                result.quarantined.append(bad)
                on_event("quarantined", bad)
            else:
                waiting.append(outcome.job)
                on_event("retry", outcome)
    return result
