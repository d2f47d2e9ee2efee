"""Choose which job is done next, and which one is done twice.

A worker gets the largest job that it can end before all waiting jobs are done, so large jobs come first and small ones
last. A job that would end after all others gets a copy on another worker.
"""

import heapq
import itertools
import math
import statistics
from bisect import bisect_right, insort
from collections.abc import Collection, Mapping

from rmpsweep.workers.state import Flight, Member, Task

COPIES = 0.1
"""The number of copies of slow jobs as a fraction of the number of workers; one copy is always allowed."""
WORTHWHILE = 1.5
"""A copy is made only if the original would take this many times as long. A worker counts as slow if its rate is below
the usual one by this factor."""


class Schedule:
    """The waiting jobs of a run, and the jobs that are to get a copy."""

    def __init__(self) -> None:
        self.waiting_cost = 0.0
        self.copies: list[Task] = []
        self.usual = 0.0
        """The usual cost per second of a worker: the first known rate, later the median rate; 0 while none is known."""
        self._queue: list[tuple[float, int, Task]] = []
        self._sequence = itertools.count()

    def __len__(self) -> int:
        """The number of waiting jobs."""
        return len(self._queue)

    def put(self, task: Task) -> None:
        """Add a job to the waiting ones."""
        self.waiting_cost += task.job.cost
        insort(self._queue, (task.job.cost, -next(self._sequence), task))

    def drop(self) -> list[Task]:
        """Forget all waiting jobs and planned copies; return the jobs that waited."""
        dropped = [task for _, _, task in self._queue]
        self._queue, self.copies, self.waiting_cost = [], [], 0.0
        return dropped

    def next(self, member: Member, members: Mapping[str, Member], idle: Collection[str]) -> Task | None:
        """Choose a job for an idle worker: a planned copy, else a waiting job.

        Returns:
            None if there is no such job, or if other workers are expected to end it sooner.
        """
        return self._next_copy(member) or self._next_waiting(member, members, idle)

    def _next_copy(self, member: Member) -> Task | None:
        self.copies = [task for task in self.copies if not task.ended and task.flights == 1]
        if not self.copies or self._is_slow(member):
            return None
        return self.copies.pop(0)

    def _next_waiting(self, member: Member, members: Mapping[str, Member], idle: Collection[str]) -> Task | None:
        if not self._queue:
            return None
        at = last = len(self._queue) - 1
        if rate := member.rate or self.usual:
            horizon = self._horizon(len(members))
            at = bisect_right(self._queue, rate * horizon, key=lambda entry: entry[0]) - 1
            smallest = self._queue[0][0]
            if at < 0 and smallest / rate > horizon + WORTHWHILE * smallest / self.usual:
                return None  # others end it sooner
            at = max(0, min(last, at))
        if self._queue[at][2].last_worker == member.name and len(members) > 1:  # what failed here goes elsewhere
            if last == 0 and any(not self._is_slow(members[name]) for name in idle if name != member.name):
                return None
            at = at - 1 if at else min(1, last)
        _, _, task = self._queue.pop(at)
        self.waiting_cost -= task.job.cost
        return task

    def plan_copies(self, members: Mapping[str, Member], flights: Collection[Flight], now: float) -> None:
        """Choose the jobs to copy, slowest first: those that would end after all others and much later than a copy."""
        rates = [member.rate for member in members.values() if member.rate is not None]
        if not rates:
            return
        self.usual = statistics.median(rates)
        horizon = self._horizon(len(members))
        slow = []
        for flight in flights:
            if not flight.task.ended and flight.task.flights == 1:
                left = self._seconds_left(flight, members[flight.worker], now)
                if left > max(horizon, WORTHWHILE * flight.job.cost / self.usual):
                    slow.append((left, flight.task))
        room = max(1, int(COPIES * len(members))) - sum(flight.copy for flight in flights)
        self.copies = [task for _, task in heapq.nlargest(max(0, room), slow, key=lambda each: each[0])]

    def _is_slow(self, member: Member) -> bool:
        return member.rate is not None and member.rate < self.usual / WORTHWHILE

    def _horizon(self, workers: int) -> float:
        """Estimate the seconds until no job waits; infinite while no rate is known."""
        return self.waiting_cost / (self.usual * workers) if self.usual else math.inf

    def _seconds_left(self, flight: Flight, member: Member, now: float) -> float:
        """Estimate the seconds until a job ends.

        The estimate follows from the job's last progress, which may be as old as the time between two beats, or, before
        there is any, from the rate of its worker.
        """
        elapsed, until_beat, cost = now - flight.began, flight.changed - flight.began, flight.job.cost
        if flight.done:
            total = cost / flight.done * max(until_beat, elapsed - until_beat / flight.ticks)
        else:
            total = cost / (member.rate or self.usual)
        left: float = total - elapsed
        return left if left > 0 else elapsed
