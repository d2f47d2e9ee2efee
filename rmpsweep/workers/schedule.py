"""Which job is done next, and which one is done twice.

Large jobs come first, and towards the end each worker gets what it can end before all else ends. A job that would end
after all others gets a copy on another worker.
"""

import heapq
import itertools
import math
import statistics
from bisect import bisect_right, insort
from collections.abc import Collection, Mapping

from rmpsweep.workers.state import Flight, Member, Task

COPIES = 0.1
"""Copies of slow jobs, per worker; at least one."""
WORTHWHILE = 1.5
"""A copy is made where the original would take that many times longer than the copy."""


class Schedule:
    """The jobs of a run that wait, and those that shall have a copy."""

    def __init__(self) -> None:
        self.waiting_cost = 0.0
        self.copies: list[Task] = []
        self.usual = 0.0
        """Cost per second of a worker: the first one's that is known, then the median; 0 before."""
        self._queue: list[tuple[float, int, Task]] = []
        self._sequence = itertools.count()

    def __len__(self) -> int:
        """How many jobs wait."""
        return len(self._queue)

    def put(self, task: Task) -> None:
        """Have a job wait."""
        self.waiting_cost += task.job.cost
        insort(self._queue, (task.job.cost, -next(self._sequence), task))

    def drop(self) -> list[Task]:
        """Forget all that waits, copies included; returns what waited."""
        dropped = [task for _, _, task in self._queue]
        self._queue, self.copies, self.waiting_cost = [], [], 0.0
        return dropped

    def next(self, member: Member, members: Mapping[str, Member], idle: Collection[str]) -> Task | None:
        """What a worker that is idle shall do: a copy, else a waiting job; None where others are better at it."""
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
        """Choose jobs that would end after all others although a copy would end much earlier; the slowest first."""
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
        """Seconds until nothing waits any more."""
        return self.waiting_cost / (self.usual * workers) if self.usual else math.inf

    def _seconds_left(self, flight: Flight, member: Member, now: float) -> float:
        """By its progress, which may be as old as beats are apart; else by its worker's rate."""
        elapsed, until_beat, cost = now - flight.began, flight.changed - flight.began, flight.job.cost
        if flight.done:
            total = cost / flight.done * max(until_beat, elapsed - until_beat / flight.ticks)
        else:
            total = cost / (member.rate or self.usual)
        left: float = total - elapsed
        return left if left > 0 else elapsed
