"""One worker in this process."""

import time
import traceback
from typing import Any

from rmpsweep.workers.events import Event, Outcome
from rmpsweep.workers.pools.outcomes import MakeWorker, failed_outcome


class InlinePool:
    """One worker in this process: breakpoints work, and nothing needs to be installed or reachable."""

    note = ""

    def __init__(self, make_worker: MakeWorker) -> None:
        self.make_worker = make_worker
        self.worker: Any = None
        self.starting = False
        self.job: Any = None

    def now(self) -> float:
        """Of the monotonic clock."""
        return time.monotonic()

    def wanted(self) -> int:
        """One."""
        return 1

    def start(self) -> str:
        """The worker is made by `wait`."""
        self.starting = True
        return "this process"

    def submit(self, worker: str, job: Any) -> None:
        """Keep the job for `wait`, which runs it."""
        del worker
        self.job = job

    def stop(self, worker: str) -> None:
        """Forget the worker."""
        del worker
        self.worker = None

    def wait(self, timeout_s: float) -> list[Event]:
        """Set the worker up, or run its job. Raises what `setup` raises."""
        del timeout_s
        if self.starting:
            self.starting = False
            self.worker = self.make_worker(None, None)
            return [Event("this process", "ready", device=self.worker.setup())]
        job, self.job = self.job, None
        if job is None:
            return []
        try:
            outcome = Outcome(job, "done", self.worker.run(job), worker="this process")
        except Exception as error:
            outcome = failed_outcome(job, error, traceback.format_exc(), "this process", "")
        return [Event("this process", "ended", outcome=outcome)]

    def describe(self) -> str:
        """Where it runs."""
        return "in this process"

    def close(self) -> None:
        """Nothing to stop."""
