"""The workers of a driver: how many there are, which are idle, and when to stop asking for more."""

from rmpsweep.errors import ClusterError, InputError, UnusableError
from rmpsweep.workers.protocol import Pool
from rmpsweep.workers.state import Flight, Member, Task

LONGEST_PAUSE_S = 60.0
"""Between starts of workers that cannot be set up, while others work."""
WORKER_TRIES = 3
"""Failures in a row after which a worker, or the starting of workers, is given up."""


class Crew:
    """Workers that a pool runs; they live on from one list of jobs to the next."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.members: dict[str, Member] = {}
        self.idle: dict[str, None] = {}
        """Names, the longest idle first."""
        self.flights: dict[str, Flight] = {}
        """Worker -> what it does."""
        self.devices: list[str] = []
        """Of every worker that was ever ready."""
        self.losses = 0
        """Workers that were lost with a job since the last job was done."""
        self._failed_starts = 0
        self._start_at = pool.now()

    def staff(self, jobs: int) -> None:
        """Ask for workers, as many as are wanted and have something to do."""
        if self.pool.now() < self._start_at:
            return
        for _ in range(min(self.pool.wanted(), jobs) - len(self.members)):
            name = self.pool.start()
            self.members[name] = Member(name, self.pool.now())

    def load(self, member: Member, place: str, log: str) -> None:
        """A worker's process runs."""
        member.state, member.since, member.place, member.log = "loading", self.pool.now(), place, log

    def ready(self, member: Member, device: str) -> None:
        """A worker can take its first job."""
        member.device = device
        self.devices.append(device)
        self._failed_starts = 0
        self._rest(member)

    def dispatch(self, member: Member, task: Task) -> Flight:
        """Give a job to a worker that is idle."""
        del self.idle[member.name]
        member.state, member.since = "busy", self.pool.now()
        task.flights += 1
        flight = Flight(task, member.name, member.since, member.since, copy=task.flights > 1)
        self.flights[member.name] = flight
        self.pool.submit(member.name, task.job)
        return flight

    def land(self, member: Member) -> Flight:
        """A worker's job ended, and the worker is idle again; returns what it did."""
        self._rest(member)
        return self.flights.pop(member.name)

    def forget(self, name: str) -> Flight | None:
        """A worker is no more; returns what it was doing."""
        self.members.pop(name, None)
        self.idle.pop(name, None)
        return self.flights.pop(name, None)

    def stop(self, name: str) -> None:
        """End a worker and drop what it does."""
        self.pool.stop(name)
        self.forget(name)

    def count_failed_start(self, error: Exception | None, message: str) -> None:
        """Try again later where others work; else what fails for all workers ends the run.

        Raises:
            InputError, UnusableError: the setup of a worker raised it. ClusterError: no worker can be set up.
        """
        self._failed_starts += 1
        if any(member.state in ("idle", "busy") for member in self.members.values()):
            self._start_at = self.pool.now() + min(LONGEST_PAUSE_S, 2.0**self._failed_starts)
            return
        if isinstance(error, InputError):
            raise error
        if self._failed_starts >= WORKER_TRIES:
            if isinstance(error, UnusableError):
                raise error
            raise ClusterError(f"no worker can be set up ({self._failed_starts} tries): {message}") from error

    def _rest(self, member: Member) -> None:
        member.state, member.since = "idle", self.pool.now()
        self.idle[member.name] = None
