"""The class of the Ray actors."""

import faulthandler
import logging
import os
from pathlib import Path
from typing import Any

import ray

from rmpsweep.workers.protocol import MakeWorker


class Actor:
    """A Ray actor: a worker, which is made and set up after the actor has started, and its log."""

    def place(self, logs: str | None) -> tuple[str, str, str]:
        """Open the log, and return the node id, the host and process, and the path of the log.

        Args:
            logs: the folder for the log; if it is None or cannot be written, the log is Ray's own for this process.
        """
        host, pid = ray.util.get_node_ip_address(), os.getpid()
        log = os.readlink("/proc/self/fd/2") if os.path.exists("/proc/self/fd/2") else ""
        self.log = logging.getLogger("rmpsweep")
        if logs is not None:
            try:
                path = Path(logs, f"{host}-{pid}.log")
                path.parent.mkdir(parents=True, exist_ok=True)
                handler = logging.FileHandler(path)
                handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
                self.log.addHandler(handler)
                self.log.setLevel(logging.INFO)
                faulthandler.enable(handler.stream or 2)
                log = str(path)
            except OSError:
                pass  # Ray's log remains; a full or read-only folder must not stop a worker from starting
        return ray.get_runtime_context().get_node_id(), f"{host}, process {pid}", log

    def setup(self, make_worker: MakeWorker, threads: int, device: str | None) -> str:
        """Make the worker, have it load, and return the name of its device."""
        self.log.info("loads")
        self.worker = make_worker(threads, device)
        name = self.worker.setup()
        self.log.info("is ready: %s, %d threads", name, threads)
        return name

    def run(self, job: Any) -> Any:
        """Run a job, and return the worker's report."""
        self.log.info("begins %s", job.job_id)
        try:
            report = self.worker.run(job)
        except BaseException:
            self.log.exception("failed on %s", job.job_id)
            raise
        self.log.info("ended %s", job.job_id)
        return report

    def beat(self) -> tuple[int, float]:
        """Return the beat of the worker; see `WorkerLike.beat`."""
        return self.worker.beat()
