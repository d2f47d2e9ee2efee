"""The loop that hands jobs to workers. Workers and nodes may be lost at any time; no job is.

The driver uses neither ray nor torch: it gets the pool as an argument, and reads the time from the pool's clock. A job
is anything with a `job_id`, a cost and `sparing`. Jobs write their own results (a unit commits itself, and the first
commit counts), so running a job twice is harmless: the driver runs lost jobs again, and gives slow ones a copy on
another worker. Every wait has a deadline.
"""

from collections.abc import Callable, Iterable
from typing import assert_never

from rmpsweep.errors import ClusterError, InputError, UnusableError
from rmpsweep.workers.crew import WORKER_TRIES, Crew
from rmpsweep.workers.events import (
    Change,
    Execution,
    JobCopied,
    JobDone,
    JobLost,
    JobQuarantined,
    JobRetried,
    Limits,
    Listener,
    Quarantined,
    StageBegan,
    WorkerChanged,
)
from rmpsweep.workers.protocol import Beat, Cause, Ended, Gone, Job, Outcome, Placed, Pool, PoolEvent, Ready, Refused
from rmpsweep.workers.schedule import Schedule
from rmpsweep.workers.state import Flight, Member, Snapshot, Task

POLL_S = 0.5
"""The longest wait for events of the pool, in seconds."""
WATCH_EVERY_S = 5.0
"""Seconds between two checks of deadlines, which also plan copies and tell the listener the state."""
UNCHARGED = 10
"""How often a job may be lost to preemption or node failure without counting against its retries."""
UNNAMED = StageBegan(stage="")
"""The stage of a run whose caller names none."""


class Driver:
    """Runs lists of jobs on one crew of workers, which live on between calls of `execute`."""

    def __init__(self, pool: Pool, limits: Limits) -> None:
        self.limits = limits
        self.crew = Crew(pool)

    @property
    def devices(self) -> list[str]:
        """The device of every worker that was ever ready."""
        return self.crew.devices

    def execute(
        self,
        jobs: Iterable[Job],
        listener: Listener = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
        stage: StageBegan = UNNAMED,
    ) -> Execution:
        """Run every job until it is done, quarantined or dropped.

        Waiting jobs are dropped once `stop` says so, and once one of the limits `max_failures` and `fail_fast` is
        reached; jobs in flight are then waited for. A pool in this process has one worker, and what its setup raises is
        raised at once.

        Args:
            listener: called with every event, and every few seconds with a snapshot.
            stop: returns whether to stop. Once it has returned true, it is not called again.
            stage: the first event that the listener gets. Later events of jobs carry its name; WorkerChanged events
                carry no stage.
        Returns:
            The outcomes of the jobs that are done, the jobs that were quarantined, whether waiting jobs were dropped,
            and the limit that ended the run, if one did.
        Raises:
            UnusableError: a job raised it in its last attempt; or the setup of a worker raised it, it was at least the
                WORKER_TRIES-th failed start in a row, and no other worker was ready.
            InputError: the setup of a worker raised it, and no other worker was ready. A job that raises it is
                quarantined instead.
            ClusterError: no worker can be started, or workers die one after the other.
        """
        listener(stage)
        return _Run(self.crew, self.limits, listener, stage.stage).execute(jobs, stop)


class _Run:
    """One run of a list of jobs."""

    def __init__(self, crew: Crew, limits: Limits, listener: Listener, stage: str) -> None:
        self.crew, self.pool, self.limits, self.listener, self.stage = crew, crew.pool, limits, listener, stage
        self.schedule = Schedule()
        self.execution = Execution()
        self.open = 0
        """The number of jobs that have not ended."""
        self.alive_at = self.watched_at = self.pool.now()

    def execute(self, jobs: Iterable[Job], stop: Callable[[], bool]) -> Execution:
        """Run the jobs as `Driver.execute` describes it."""
        for member in self.crew.members.values():
            member.rate = None  # other jobs may measure their cost in another unit
        for job in jobs:
            self.open += 1
            self.schedule.put(Task(job))
        stopping = False
        while self.open:
            stopping = stopping or stop()
            if stopping or self.execution.gave_up:
                self._drop_waiting()
            self.crew.staff(self.open)
            self._assign()
            self._watch()
            for event in self.pool.wait(POLL_S) if self.open else ():
                self._take(event)
        return self.execution

    def _drop_waiting(self) -> None:
        dropped = self.schedule.drop()
        for task in dropped:
            task.ended = True
        self.open -= len(dropped)
        self.execution.interrupted |= bool(dropped)

    def _assign(self) -> None:
        if not self.schedule and not self.schedule.copies:
            return
        for name in list(self.crew.idle):
            member = self.crew.members[name]
            task = self.schedule.next(member, self.crew.members, self.crew.idle)
            if task is None:
                continue
            flight = self.crew.dispatch(member, task)
            if flight.copy:
                self.listener(JobCopied(stage=self.stage, job=task.job.job_id, worker=name))

    # What comes back

    def _take(self, event: PoolEvent) -> None:
        member = self.crew.members.get(event.worker)
        if member is None:
            return
        match event:
            case Beat():
                flight = self.crew.flights.get(event.worker)
                if flight is not None and event.ticks != flight.ticks:
                    flight.ticks, flight.done, flight.changed = event.ticks, event.done, self.pool.now()
            case Ended():
                flight = self.crew.land(member)
                self._rate(member, flight, event.outcome)
                self._end(flight, event.outcome)
            case Placed():
                self._tell_change(event.worker, "placed", event.place)
                self.crew.load(member, event.place, event.log)
            case Ready():
                self._tell_change(event.worker, "ready", event.device)
                self.crew.ready(member, event.device)
            case Gone():
                self._tell_change(event.worker, "gone", event.message)
                self._miss(member, event)
            case Refused():
                self._tell_change(event.worker, "refused", event.message)
                self.crew.forget(event.worker)
                self.crew.count_failed_start(event.error, event.message)
            case _:
                assert_never(event)

    def _tell_change(self, worker: str, change: Change, about: str) -> None:
        self.listener(WorkerChanged(worker=worker, change=change, about=about))

    def _miss(self, member: Member, event: Gone) -> None:
        """Handle a worker that is gone: it had a job, was idle, or was not ready yet."""
        flight = self.crew.forget(member.name)
        if flight is None:
            if event.cause in ("died", "memory"):
                self.crew.count_failed_start(None, event.message)
        elif event.outcome is not None:
            self._end(flight, event.outcome)
        else:
            self._lose(member, flight, event.message, event.detail, event.cause)

    def _rate(self, member: Member, flight: Flight, outcome: Outcome) -> None:
        """Update the rate and the failures of a worker after a job; stop a worker that fails too often in a row."""
        if outcome.kind == "done":
            rate = flight.job.cost / max(1e-9, self.pool.now() - flight.began)
            member.rate = rate if member.rate is None else (member.rate + rate) / 2
            self.schedule.usual = self.schedule.usual or rate
            member.failures = 0
        elif not isinstance(outcome.error, InputError):
            member.failures += 1
            if member.failures >= WORKER_TRIES:
                self.crew.stop(member.name)

    def _lose(self, member: Member, flight: Flight, message: str, detail: str, cause: Cause) -> None:
        self.crew.losses += 1
        most = (self.limits.retries + 1) * 4 * max(4, self.pool.wanted())
        if self.crew.losses > most:
            raise ClusterError(
                f"{self.crew.losses} workers were lost, none ended a job in between; the last: {message}"
            )
        outcome = Outcome(
            job=flight.job, kind="lost", message=message, detail=detail, cause=cause, worker=member.name, log=member.log
        )
        self._end(flight, outcome)

    def _end(self, flight: Flight, outcome: Outcome) -> None:
        """Count an attempt at a job, unless another attempt ended the job first."""
        task = flight.task
        task.flights -= 1
        if task.ended:
            return
        if outcome.kind == "done":
            self.crew.losses = 0
            self._close(task)
            self.execution.outcomes.append(outcome)
            self.listener(
                JobDone(
                    stage=self.stage,
                    job=outcome.job.job_id,
                    worker=outcome.worker,
                    cost=outcome.job.cost,
                    report=outcome.report,
                )
            )
            return
        if outcome.kind == "lost":
            self._tell(JobLost, outcome)
        if outcome.cause in ("node", "preempted") and task.free < UNCHARGED:
            task.free += 1
        else:
            task.charged += 1
            self.execution.failures += 1
        if task.flights:
            return
        if isinstance(outcome.error, InputError) or task.charged > self.limits.retries:
            self._give_up(task, outcome)
        else:
            task.last_worker = flight.worker
            if outcome.cause == "memory":
                task.job = task.job.sparing()
            self.schedule.put(task)
            self._tell(JobRetried, outcome)
        most = self.limits.max_failures
        if most is not None and self.execution.failures > most:
            self.execution.gave_up = f"{self.execution.failures} attempts failed, more than --max-failures {most}"

    def _tell(self, event: type[JobLost | JobRetried | JobQuarantined], outcome: Outcome) -> None:
        self.listener(
            event(
                stage=self.stage,
                job=outcome.job.job_id,
                worker=outcome.worker,
                message=outcome.message,
                log=outcome.log,
            )
        )

    def _close(self, task: Task) -> None:
        task.ended = True
        self.open -= 1

    def _give_up(self, task: Task, outcome: Outcome) -> None:
        if isinstance(outcome.error, UnusableError):
            raise outcome.error
        self._close(task)
        self.execution.quarantined.append(Quarantined(outcome=outcome, attempts=task.charged))
        self._tell(JobQuarantined, outcome)
        if self.limits.fail_fast:
            self.execution.gave_up = f"{outcome.job.job_id} was given up, and --fail-fast is set"

    # What takes too long

    def _watch(self) -> None:
        """Every few seconds, stop workers that are past a deadline, plan copies, and tell the listener a snapshot."""
        now, limits = self.pool.now(), self.limits
        if now < self.watched_at + min(WATCH_EVERY_S, limits.schedule_s / 2, limits.setup_s / 2, limits.stall_s / 2):
            return
        self.watched_at = now
        members, flights = self.crew.members, self.crew.flights
        if any(member.state != "scheduling" for member in members.values()):
            self.alive_at = now
        elif self.open and now > self.alive_at + limits.schedule_s:
            raise ClusterError(f"no worker was started within {limits.schedule_s:.0f} s: {self.pool.describe()}")
        for member in [m for m in members.values() if m.state == "loading" and now > m.since + limits.setup_s]:
            self.crew.stop(member.name)
            self.crew.count_failed_start(
                None, f"worker {member.name} on {member.place} was not ready within {limits.setup_s:.0f} s"
            )
        for flight in [f for f in flights.values() if now > f.changed + limits.stall_s]:
            member = members[flight.worker]
            self.crew.stop(flight.worker)
            where = f"{member.name} on {member.place or 'its place'}"
            log = f" (log: {member.log})" if member.log else ""
            self._lose(member, flight, f"{where}: no progress for {limits.stall_s:g} s{log}", "", "died")
        self.schedule.plan_copies(members, flights.values(), now)
        self.listener(
            Snapshot(
                members=tuple(members.values()), flights=tuple(flights.values()), waiting=len(self.schedule), now=now
            )
        )
