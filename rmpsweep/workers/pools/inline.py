"""One worker in this process."""

import time
import traceback
from typing import Any

from rmpsweep.workers.pools.outcomes import failed_outcome
from rmpsweep.workers.protocol import Ended, MakeWorker, Outcome, Pool, PoolEvent, Ready, WorkerLike

NAME = "this process"


class InlinePool(Pool):
    """A pool of one worker in this process: breakpoints work, and no Ray is needed.

    `wait` makes the worker and runs its jobs, and raises what the worker's `setup` raises.
    """

    note = ""

    def __init__(self, make_worker: MakeWorker) -> None:
        self.make_worker = make_worker
        self.worker: WorkerLike | None = None
        self.starting = False
        self.job: Any = None

    def now(self) -> float:
        return time.monotonic()

    def wanted(self) -> int:
        return 1

    def start(self) -> str:
        self.starting = True
        return NAME

    def submit(self, worker: str, job: Any) -> None:
        del worker
        self.job = job

    def stop(self, worker: str) -> None:
        del worker
        self.worker = self.job = None

    def wait(self, timeout_s: float) -> list[PoolEvent]:
        del timeout_s
        if self.starting:
            self.starting = False
            self.worker = self.make_worker(None, None)
            return [Ready(worker=NAME, device=self.worker.setup())]
        job, self.job = self.job, None
        if self.worker is None or job is None:
            return []
        try:
            outcome = Outcome(job=job, kind="done", report=self.worker.run(job), worker=NAME)
        except Exception as error:
            outcome = failed_outcome(job, error, traceback.format_exc(), NAME, "")
        return [Ended(worker=NAME, outcome=outcome)]

    def describe(self) -> str:
        return "in this process"

    def close(self) -> None:
        self.worker = self.job = None
