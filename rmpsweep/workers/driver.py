"""The loop that hands jobs to workers, and lets the sweep lose anything but results.

Knows neither ray nor torch: the pool is an argument, its clock included. A job is anything with a `job_id` and a cost;
its effects are its own (a unit commits itself, the first commit counts), so running one twice is harmless: what was
lost is done again, what is slow gets a copy elsewhere. Every wait has a deadline.
"""

import heapq
import itertools
import math
import statistics
from bisect import bisect_right, insort
from collections.abc import Callable, Iterable

from rmpsweep.errors import ClusterError, InputError, UnusableError
from rmpsweep.workers.events import (
    Cause,
    Event,
    Execution,
    Flight,
    Job,
    Limits,
    Listener,
    Outcome,
    Pool,
    Quarantined,
    Standing,
    Task,
    Worker,
)

POLL_S = 0.5
WATCH_EVERY_S = 5.0
"""How often workers at work are looked at: deadlines, copies, the state for others to read."""
LONGEST_PAUSE_S = 60.0
"""Between starts of workers that cannot be set up, while others work."""
UNCHARGED = 10
"""Attempts of a job that may be lost to preemption and dying nodes at no charge."""
WORKER_TRIES = 3
"""Failures in a row after which a worker, or the starting of workers, is given up."""
COPIES = 0.1
"""Copies of slow jobs, per worker; at least one."""
WORTHWHILE = 1.5
"""A copy is made where the original would take so many times longer than it."""


class Driver:
    """A crew of workers; each call of `execute` has them do a list of jobs. Workers live on between calls."""

    def __init__(self, pool: Pool, limits: Limits) -> None:
        self.pool, self.limits = pool, limits
        self.workers: dict[str, Worker] = {}
        self.devices: list[str] = []
        self._idle: dict[str, None] = {}
        self._flights: dict[str, Flight] = {}
        self._failed_starts = self._losses = 0
        self._start_at = pool.now()
        self._alive_at = pool.now()
        self._watched_at = pool.now()
        self._sequence = itertools.count()

    def execute(
        self, jobs: Iterable[Job], listener: Listener = lambda *_: None, stop: Callable[[], bool] = lambda: False
    ) -> Execution:
        """Run every job to its end or into quarantine.

        Args:
            stop: once true, nothing new is started and jobs in flight are waited for.
        Raises:
            UnusableError: a job cannot read or write what every job needs, after all its attempts; InputError: a
                worker's setup cannot succeed. ClusterError: no worker can be had, or they die one after the other.
        """
        self._listener, self._execution = listener, Execution()
        self._queue: list[tuple[float, int, Task]] = []
        self._copies: list[Task] = []
        self._open, self._waiting_cost, self._usual = 0, 0.0, 0.0
        for worker in self.workers.values():
            worker.rate = None
        for job in jobs:
            self._open += 1
            self._wait(Task(job))
        self._alive_at = self.pool.now()
        stopping = False
        while self._open:
            stopping = stopping or stop()
            if stopping or self._execution.gave_up:
                self._drop_waiting()
            self._staff()
            self._assign()
            self._watch()
            for event in self.pool.wait(POLL_S) if self._open else ():
                self._take(event)
        return self._execution

    # Who works

    def _staff(self) -> None:
        """Ask for workers, as many as are wanted and have something to do."""
        if self.pool.now() < self._start_at:
            return
        for _ in range(min(self.pool.wanted(), self._open) - len(self.workers)):
            name = self.pool.start()
            self.workers[name] = Worker(name, self.pool.now())

    def _dismiss(self, name: str) -> Flight | None:
        """Forget a worker; what it was doing."""
        self.workers.pop(name, None)
        self._idle.pop(name, None)
        return self._flights.pop(name, None)

    def _count_failed_start(self, error: Exception | None, message: str) -> None:
        """What fails for all ends the run; where others work, it is tried again after a while."""
        self._failed_starts += 1
        if any(worker.state in ("idle", "busy") for worker in self.workers.values()):
            self._start_at = self.pool.now() + min(LONGEST_PAUSE_S, 2.0**self._failed_starts)
            return
        if isinstance(error, InputError):
            raise error
        if self._failed_starts >= WORKER_TRIES:
            if isinstance(error, UnusableError):
                raise error
            raise ClusterError(f"no worker can be set up ({self._failed_starts} tries): {message}") from error

    # What is done next

    def _wait(self, task: Task) -> None:
        self._waiting_cost += task.job.cost
        insort(self._queue, (task.job.cost, -next(self._sequence), task))

    def _drop_waiting(self) -> None:
        for _, _, task in self._queue:
            task.ended = True
        self._open -= len(self._queue)
        self._execution.interrupted |= bool(self._queue)
        self._queue, self._copies, self._waiting_cost = [], [], 0.0

    def _assign(self) -> None:
        """Idle workers get copies of slow jobs first, then the largest job they can end before all else ends."""
        if not self._queue and not self._copies:
            return
        for name in list(self._idle):
            worker = self.workers[name]
            task = self._next_copy(worker) or self._next_waiting(worker)
            if task is None:
                continue
            del self._idle[name]
            worker.state, worker.since = "busy", self.pool.now()
            task.flights += 1
            flight = self._flights[name] = Flight(task, name, worker.since, worker.since, copy=task.flights > 1)
            self.pool.submit(name, task.job)
            if flight.copy:
                self._listener("copy", flight)

    def _next_copy(self, worker: Worker) -> Task | None:
        self._copies = [task for task in self._copies if not task.ended and task.flights == 1]
        if not self._copies or self._is_slow(worker):
            return None
        return self._copies.pop(0)

    def _next_waiting(self, worker: Worker) -> Task | None:
        if not self._queue:
            return None
        at = last = len(self._queue) - 1
        if rate := worker.rate or self._usual:
            horizon = self._horizon()
            at = bisect_right(self._queue, rate * horizon, key=lambda entry: entry[0]) - 1
            smallest = self._queue[0][0]
            if at < 0 and smallest / rate > horizon + WORTHWHILE * smallest / self._usual:
                return None  # others end it sooner
            at = max(0, min(last, at))
        if self._queue[at][2].last_worker == worker.name and len(self.workers) > 1:  # what failed here goes elsewhere
            if last == 0 and any(not self._is_slow(self.workers[name]) for name in self._idle if name != worker.name):
                return None
            at = at - 1 if at else min(1, last)
        _, _, task = self._queue.pop(at)
        self._waiting_cost -= task.job.cost
        return task

    def _is_slow(self, worker: Worker) -> bool:
        return worker.rate is not None and worker.rate < self._usual / WORTHWHILE

    def _horizon(self) -> float:
        """Seconds until nothing waits any more."""
        return self._waiting_cost / (self._usual * len(self.workers)) if self._usual else math.inf

    # What comes back

    def _take(self, event: Event) -> None:
        worker = self.workers.get(event.worker)
        if worker is None:
            return
        if event.kind == "beat":
            flight = self._flights.get(event.worker)
            if flight is not None and event.ticks != flight.ticks:
                flight.ticks, flight.done, flight.changed = event.ticks, event.done, self.pool.now()
        elif event.kind == "ended":
            assert event.outcome is not None
            flight = self._flights.pop(event.worker)
            worker.state, worker.since = "idle", self.pool.now()
            self._idle[event.worker] = None
            self._rate(worker, flight, event.outcome)
            self._end(flight, event.outcome)
        else:
            self._listener("worker", event)
            self._take_change(worker, event)

    def _take_change(self, worker: Worker, event: Event) -> None:
        """A worker came or went."""
        worker.since = self.pool.now()
        if event.kind == "placed":
            worker.state, worker.place, worker.log = "loading", event.place, event.log
        elif event.kind == "ready":
            worker.state, worker.device = "idle", event.device
            self.devices.append(event.device)
            self._idle[event.worker] = None
            self._failed_starts = 0
        elif (flight := self._dismiss(event.worker)) is not None:
            if event.outcome is not None:
                self._end(flight, event.outcome)
            else:
                self._lose(worker, flight, event.message, event.detail, event.cause)
        elif event.kind == "refused" or event.cause in ("died", "memory"):
            self._count_failed_start(event.error, event.message)

    def _rate(self, worker: Worker, flight: Flight, outcome: Outcome) -> None:
        """What a worker's speed, and how trustworthy it is, has come to with one more job."""
        if outcome.kind == "done":
            rate = flight.job.cost / max(1e-9, self.pool.now() - flight.began)
            worker.rate = rate if worker.rate is None else (worker.rate + rate) / 2
            self._usual = self._usual or rate
            worker.failures = 0
        elif not isinstance(outcome.error, InputError):
            worker.failures += 1
            if worker.failures >= WORKER_TRIES:
                self.pool.stop(worker.name)
                self._dismiss(worker.name)

    def _lose(self, worker: Worker, flight: Flight, message: str, detail: str, cause: Cause) -> None:
        self._losses += 1
        most = (self.limits.retries + 1) * 4 * max(4, self.pool.wanted())
        if self._losses > most:
            raise ClusterError(f"{self._losses} workers were lost, none ended a job in between; the last: {message}")
        outcome = Outcome(flight.job, "lost", None, None, message, detail, cause, worker.name, worker.log)
        self._end(flight, outcome)

    def _end(self, flight: Flight, outcome: Outcome) -> None:
        """Count an attempt, unless another one of its job was faster."""
        task = flight.task
        task.flights -= 1
        if task.ended:
            return
        if outcome.kind == "done":
            self._losses = 0
            self._close(task)
            self._execution.outcomes.append(outcome)
            self._listener("done", outcome)
            return
        if outcome.kind == "lost":
            self._listener("lost", outcome)
        if outcome.cause in ("node", "preempted") and task.free < UNCHARGED:
            task.free += 1
        else:
            task.charged += 1
            self._execution.failures += 1
        if task.flights:
            return
        if isinstance(outcome.error, InputError) or task.charged > self.limits.retries:
            self._give_up(task, outcome)
        else:
            task.last_worker = flight.worker
            if outcome.cause == "memory":
                task.job = task.job.sparing()
            self._wait(task)
            self._listener("retry", outcome)
        most = self.limits.max_failures
        if most is not None and self._execution.failures > most:
            self._execution.gave_up = f"{self._execution.failures} attempts failed, more than --max-failures {most}"

    def _close(self, task: Task) -> None:
        task.ended = True
        self._open -= 1

    def _give_up(self, task: Task, outcome: Outcome) -> None:
        if isinstance(outcome.error, UnusableError):
            raise outcome.error
        self._close(task)
        bad = Quarantined(outcome, task.charged)
        self._execution.quarantined.append(bad)
        self._listener("quarantined", bad)
        if self.limits.fail_fast:
            self._execution.gave_up = f"{outcome.job.job_id} was given up, and --fail-fast is set"

    # What takes too long

    def _watch(self) -> None:
        now, limits = self.pool.now(), self.limits
        if now < self._watched_at + min(WATCH_EVERY_S, limits.schedule_s / 2, limits.setup_s / 2, limits.stall_s / 2):
            return
        self._watched_at = now
        if any(worker.state != "scheduling" for worker in self.workers.values()):
            self._alive_at = now
        elif self._open and now > self._alive_at + limits.schedule_s:
            raise ClusterError(f"no worker was started within {limits.schedule_s:.0f} s: {self.pool.describe()}")
        for worker in [w for w in self.workers.values() if w.state == "loading" and now > w.since + limits.setup_s]:
            self.pool.stop(worker.name)
            self._dismiss(worker.name)
            self._count_failed_start(
                None, f"worker {worker.name} on {worker.place} was not ready within {limits.setup_s:.0f} s"
            )
        for flight in [f for f in self._flights.values() if now > f.changed + limits.stall_s]:
            worker = self.workers[flight.worker]
            self.pool.stop(flight.worker)
            self._dismiss(flight.worker)
            where = f"{worker.name} on {worker.place or 'its place'}"
            log = f" (log: {worker.log})" if worker.log else ""
            self._lose(worker, flight, f"{where}: no progress for {limits.stall_s:g} s{log}", "", "died")
        self._plan_copies(now)
        standing = Standing(
            tuple(self.workers.values()), tuple(self._flights.values()), len(self._queue), self._waiting_cost, now
        )
        self._listener("watch", standing)

    def _plan_copies(self, now: float) -> None:
        """Choose jobs that would end after all others although a copy would end much earlier; the slowest first."""
        rates = [worker.rate for worker in self.workers.values() if worker.rate is not None]
        if not rates:
            return
        self._usual = statistics.median(rates)
        horizon = self._horizon()
        slow = []
        for flight in self._flights.values():
            if not flight.task.ended and flight.task.flights == 1:
                left = self._seconds_left(flight, now)
                if left > max(horizon, WORTHWHILE * flight.job.cost / self._usual):
                    slow.append((left, flight.task))
        room = max(1, int(COPIES * len(self.workers))) - sum(flight.copy for flight in self._flights.values())
        self._copies = [task for _, task in heapq.nlargest(max(0, room), slow, key=lambda each: each[0])]

    def _seconds_left(self, flight: Flight, now: float) -> float:
        """By its progress, which may be as old as beats are apart; else by its worker's rate."""
        elapsed, until_beat, cost = now - flight.began, flight.changed - flight.began, flight.job.cost
        if flight.done:
            total = cost / flight.done * max(until_beat, elapsed - until_beat / flight.ticks)
        else:
            total = cost / (self.workers[flight.worker].rate or self._usual)
        left: float = total - elapsed
        return left if left > 0 else elapsed
