"""The workers of a driver: which there are, which are idle, and when to give up starting more."""

from rmpsweep.errors import ClusterError, InputError, UnusableError
from rmpsweep.workers.protocol import Pool
from rmpsweep.workers.state import Flight, Member, Task

LONGEST_PAUSE_S = 60.0
"""The longest pause between attempts to start a worker, in seconds, if workers cannot be set up and others work."""
WORKER_TRIES = 3
"""The number of failures in a row after which a worker is stopped, or starting workers is given up."""


class Crew:
    """The workers that a pool runs. They live on from one list of jobs to the next."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.members: dict[str, Member] = {}
        self.idle: dict[str, None] = {}
        """The names of idle workers, the longest idle first."""
        self.flights: dict[str, Flight] = {}
        """Name of a worker -> the job that it is doing."""
        self.devices: list[str] = []
        """The device of every worker that was ever ready."""
        self.losses = 0
        """How many workers were lost together with a job since a job was last done."""
        self._failed_starts = 0
        self._start_at = pool.now()

    def staff(self, jobs: int) -> None:
        """Start workers up to the number that the pool wants, but no more than jobs, unless starts are paused."""
        if self.pool.now() < self._start_at:
            return
        for _ in range(min(self.pool.wanted(), jobs) - len(self.members)):
            name = self.pool.start()
            self.members[name] = Member(name, self.pool.now())

    def load(self, member: Member, place: str, log: str) -> None:
        """Note that the process of a worker runs and loads."""
        member.state, member.since, member.place, member.log = "loading", self.pool.now(), place, log

    def ready(self, member: Member, device: str) -> None:
        """Note that a worker can take its first job."""
        member.device = device
        self.devices.append(device)
        self._failed_starts = 0
        self._rest(member)

    def dispatch(self, member: Member, task: Task) -> Flight:
        """Give a job to an idle worker."""
        del self.idle[member.name]
        member.state, member.since = "busy", self.pool.now()
        task.flights += 1
        flight = Flight(task, member.name, member.since, member.since, copy=task.flights > 1)
        self.flights[member.name] = flight
        self.pool.submit(member.name, task.job)
        return flight

    def land(self, member: Member) -> Flight:
        """Note that the job of a worker has ended and the worker is idle again; return what it did."""
        self._rest(member)
        return self.flights.pop(member.name)

    def forget(self, name: str) -> Flight | None:
        """Remove a worker that is gone; return what it was doing."""
        self.members.pop(name, None)
        self.idle.pop(name, None)
        return self.flights.pop(name, None)

    def stop(self, name: str) -> None:
        """End a worker and drop its job."""
        self.pool.stop(name)
        self.forget(name)

    def count_failed_start(self, error: Exception | None, message: str) -> None:
        """Note that a worker could not be set up. If another one is ready, further starts wait for a while.

        Args:
            error: what the setup raised, if that is an error of rmpsweep's own; else None.
            message: why the start failed.
        Raises:
            InputError: no other worker is ready, and `error` is an InputError.
            UnusableError: no other worker is ready, at least WORKER_TRIES starts in a row have failed, and `error` is
                an UnusableError.
            ClusterError: likewise, but `error` is neither.
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
