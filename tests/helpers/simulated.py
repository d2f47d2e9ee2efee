"""A pool of simulated workers with a clock of its own, so that the driver runs days of a cluster in a minute."""

import heapq
import itertools
import math
import random
from dataclasses import dataclass

from rmpsweep.workers.protocol import Beat, Ended, Gone, Outcome, Placed, Ready

BEAT_S = 15.0


@dataclass(frozen=True)
class SimulatedJob:
    job_id: str
    cost: float

    def sparing(self):
        return self


class SimulatedPool:
    """Workers whose speeds are drawn when they are started. A job takes cost / speed seconds and beats meanwhile.

    Args:
        spread: speeds are drawn between 1 - spread and 1 + spread.
        crashes: the fraction of the first workers that die at some moment of their first `span_s` seconds; workers that
            replace them live.
        stragglers: the fraction of workers that are ten times slower.
        start_s: how long a worker takes to start, in seconds.
    """

    def __init__(self, num_workers, seed=0, spread=0.0, crashes=0.0, stragglers=0.0, span_s=1.0, start_s=0.0):
        self.num_workers, self.spread = num_workers, spread
        self.crashes, self.stragglers, self.span_s, self.start_s = crashes, stragglers, span_s, start_s
        self.random = random.Random(seed)
        self.clock = 0.0
        self.names = itertools.count()
        self.order = itertools.count()
        self.due = []
        self.speed, self.jobs, self.lives = {}, {}, set()
        self.attempts = {}
        self.spans = {}

    def now(self):
        return self.clock

    def wanted(self):
        return self.num_workers

    def describe(self):
        return "simulated"

    def start(self):
        number = next(self.names)
        name = f"w{number}"
        speed = self.random.uniform(1 - self.spread, 1 + self.spread)
        self.speed[name] = speed / 10 if self.random.random() < self.stragglers else speed
        self.lives.add(name)
        at = self.clock + self.start_s
        self.spans[name] = [at, float("inf")]
        self.at(at, Placed(worker=name))
        self.at(at, Ready(worker=name, device="simulated"))
        if number < self.num_workers and self.random.random() < self.crashes:
            self.at(at + self.random.uniform(0, self.span_s), Gone(worker=name, message="crashed", cause="died"))
        return name

    def at(self, when, event):
        heapq.heappush(self.due, (when, next(self.order), event))

    def submit(self, worker, job):
        assert worker not in self.jobs, "a worker does one job at a time"
        self.jobs[worker] = job
        self.attempts[job.job_id] = self.attempts.get(job.job_id, 0) + 1
        outcome = Outcome(job=job, kind="done", worker=worker)
        duration = job.cost / self.speed[worker]
        self.at(self.clock + duration, Ended(worker=worker, outcome=outcome))
        for beat in range(1, math.ceil(duration / BEAT_S)):
            done = beat * BEAT_S * self.speed[worker]
            self.at(self.clock + beat * BEAT_S, Beat(worker=worker, ticks=beat, done=done))

    def stop(self, worker):
        self.lives.discard(worker)
        self.jobs.pop(worker, None)

    def wait(self, timeout_s):
        """Go to the next moment at which anything happens, and return all events of that moment."""
        limit = self.clock + timeout_s
        while self.due and self.due[0][2].worker not in self.lives:
            heapq.heappop(self.due)
        if not self.due or self.due[0][0] > limit:
            self.clock = limit
            return []
        self.clock = self.due[0][0]
        events = []
        while self.due and self.due[0][0] <= self.clock:
            event = heapq.heappop(self.due)[2]
            if event.worker not in self.lives:
                continue
            if isinstance(event, Ended | Beat) and event.worker not in self.jobs:
                continue
            if isinstance(event, Ended):
                del self.jobs[event.worker]
            if isinstance(event, Gone):
                self.lives.discard(event.worker)
                self.jobs.pop(event.worker, None)
                self.spans[event.worker][1] = self.clock
            events.append(event)
        return events

    def lower_bound(self, cost):
        """The earliest time at which the workers, as they came and went, could have done work of this cost.

        The work is taken to be divisible, and none of it to be lost.
        """
        low, high = 0.0, self.clock
        for _ in range(60):
            middle = (low + high) / 2
            done = sum(max(0, min(end, middle) - begin) * self.speed[w] for w, (begin, end) in self.spans.items())
            low, high = (low, middle) if done >= cost else (middle, high)
        return high
