"""Where workers run: in this process, or as Ray actors. The only file that imports ray."""

import logging
import os
import re
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

from rmpsweep.driver import Outcome
from rmpsweep.errors import ClusterError, RmpsweepError

SETUP_DEADLINE_S = 600.0
CONNECT_TIMEOUT_S = 10.0
MakeWorker = Callable[[int | None, str | None], Any]
"""Given CPU threads (None: torch's default) and device (None: a GPU if any), makes a worker with `setup` and `run`."""


class InlinePool:
    """One worker in this process: breakpoints work, and nothing needs to be installed or reachable."""

    num_workers = 1

    def __init__(self, make_worker: MakeWorker) -> None:
        self.worker = make_worker(None, None)
        self.devices = [self.worker.setup()]
        self.job: Any = None

    def num_idle(self) -> int:
        """1 unless a job waits to be run."""
        return int(self.job is None)

    def submit(self, job: Any) -> None:
        """Keep the job for `wait`, which runs it."""
        self.job = job

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Run the job."""
        del timeout_s
        job, self.job = self.job, None
        if job is None:
            return []
        try:
            return [Outcome(job, "done", self.worker.run(job))]
        except Exception as error:
            return [_failed(job, error, traceback.format_exc())]

    def replace_lost(self) -> None:
        """Nothing to replace: this process would have died too."""

    def close(self) -> None:
        """Nothing to stop."""


class RayPool:
    """Ray actors, each with a worker of its own; each does one job at a time.

    Ray restarts and retries nothing by itself: attempts, budgets and replacement are the driver's, so that each has
    its line in the log. The actor's constructor does nothing; `setup` loads the network, under a deadline.
    """

    def __init__(
        self,
        make_worker: MakeWorker,
        num_workers: int | None = None,
        *,
        address: str | None = None,
        gpus_per_worker: float | None = None,
        setup_deadline_s: float = SETUP_DEADLINE_S,
    ) -> None:
        """Start the workers; returns when at least one is ready.

        Args:
            num_workers: default as many as GPUs allow, or two where there is no GPU.
            gpus_per_worker: default 1 where there is a GPU; CPUs are shared out evenly.
            address: of a running cluster ("auto" or host:port); None starts Ray on this machine, and stops it at close.
        Raises:
            ClusterError: no cluster, or no worker ready within the deadline; RmpsweepError: what `setup` raised.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        self.ray = ray
        self.make_worker = make_worker
        self.setup_deadline_s = setup_deadline_s
        self.owns_ray = not ray.is_initialized()
        self.devices: list[str] = []
        self.idle: list[Any] = []
        self.starting: dict[Any, Any] = {}
        self.running: dict[Any, tuple[Any, Any]] = {}
        if self.owns_ray:
            _start_ray(ray, address, num_workers or 1)
        total = ray.cluster_resources()
        gpus = total.get("GPU", 0.0)
        each = gpus_per_worker if gpus_per_worker is not None else min(1.0, gpus)
        self.num_workers = num_workers or (int(gpus / each) if each else min(2, int(total["CPU"]))) or 1
        self.threads = _threads_per_worker(ray.nodes(), self.num_workers, each)
        self.device = None if each else "cpu"
        self.died_in_setup = 0
        self.resources = _resources({"CPU": self.threads, "GPU": each})
        self.last_alive = time.monotonic()
        self.actor_class = ray.remote(num_cpus=self.threads, num_gpus=each, max_restarts=0, max_task_retries=0)(_Actor)
        try:
            for _ in range(self.num_workers):
                self._start_worker()
            while not self.idle:
                self._collect_ready(timeout_s=1.0)
        except BaseException:
            self.close()
            raise

    def num_idle(self) -> int:
        """Workers that are ready and have no job."""
        self._collect_ready(timeout_s=0)
        return len(self.idle)

    def submit(self, job: Any) -> None:
        """Give the job to an idle worker."""
        actor = self.idle.pop()
        self.running[actor.run.remote(job)] = (actor, job)

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Outcomes that arrived; a dead worker's job is "lost"."""
        if not self.running:
            self._collect_ready(timeout_s)
            return []
        ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=timeout_s)
        outcomes = []
        for reference in ready:
            actor, job = self.running.pop(reference)
            try:
                outcomes.append(Outcome(job, "done", self.ray.get(reference)))
            except self.ray.exceptions.RayTaskError as error:
                cause = error.cause if isinstance(error.cause, Exception) else error
                outcomes.append(_failed(job, cause, str(error)))
                if isinstance(cause, RmpsweepError):
                    self.idle.append(actor)
                else:  # a fault of the process, such as a broken CUDA context, would fail every later job too
                    self.ray.kill(actor)
                    self._start_worker()
            except self.ray.exceptions.RayError as error:
                self.ray.kill(actor)
                message = str(error).strip().splitlines()
                outcomes.append(
                    Outcome(job, "lost", message=message[0] if message else type(error).__name__, detail=str(error))
                )
            else:
                self.idle.append(actor)
        return outcomes

    def replace_lost(self) -> None:
        """Start workers until there are as many as at first."""
        for _ in range(self.num_workers - len(self.idle) - len(self.starting) - len(self.running)):
            self._start_worker()

    def close(self) -> None:
        """Stop the workers, and Ray if it was started here."""
        actors = [*self.idle, *self.starting.values(), *(actor for actor, _ in self.running.values())]
        self.idle, self.starting, self.running = [], {}, {}
        for actor in actors:
            self.ray.kill(actor)
        if self.owns_ray:
            self.ray.shutdown()

    def _start_worker(self) -> None:
        actor = self.actor_class.remote()
        self.starting[actor.setup.remote(self.make_worker, self.threads, self.device)] = actor

    def _collect_ready(self, timeout_s: float) -> None:
        if self.idle or self.running:
            self.last_alive = time.monotonic()
        elif time.monotonic() > self.last_alive + self.setup_deadline_s:
            raise ClusterError(
                f"no worker was ready within {self.setup_deadline_s:.0f} s: each of {self.num_workers} asks for "
                f"{self.resources}, the cluster has {_resources(self.ray.cluster_resources())}"
            )
        if not self.starting:
            return
        ready, _ = self.ray.wait(list(self.starting), num_returns=1, timeout=timeout_s)
        for reference in ready:
            actor = self.starting.pop(reference)
            try:
                self.devices.append(self.ray.get(reference))
            except self.ray.exceptions.RayTaskError as error:
                self.ray.kill(actor)
                if isinstance(error.cause, RmpsweepError):
                    raise error.cause from None
                raise ClusterError(f"a worker cannot be set up: {error}") from error
            except self.ray.exceptions.RayError as error:
                self.died_in_setup += 1
                if self.died_in_setup > self.num_workers or not self.devices:
                    raise ClusterError(f"a worker died while it was set up: {error}") from error
                self._start_worker()
                continue
            self.idle.append(actor)


class _Actor:
    """What Ray holds: a worker, made and set up after the actor has started."""

    def setup(self, make_worker: MakeWorker, threads: int, device: str | None) -> str:
        self.worker = make_worker(threads, device)
        name: str = self.worker.setup()
        return name

    def run(self, job: Any) -> Any:
        return self.worker.run(job)


def _start_ray(ray: Any, address: str | None, num_workers: int) -> None:
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # on by default, and says so every time
    cpus = max(num_workers, os.cpu_count() or 1)
    local = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    try:
        if target := re.fullmatch(r"(?:ray://)?(.+):(\d+)", address or ""):  # Ray itself would try for 14 minutes
            socket.create_connection((target[1].strip("[]"), int(target[2])), CONNECT_TIMEOUT_S).close()
        ray.init(
            address=address or "local", log_to_driver=False, logging_level="error", configure_logging=False, **local
        )
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        where = address or "this machine"
        raise ClusterError(f"Ray on {where} cannot be used: {error}; or run with --inline, without Ray") from error


def _threads_per_worker(nodes: list[dict[str, Any]], num_workers: int, gpus_per_worker: float) -> int:
    """CPUs for each worker such that an even share of the workers fits on every node that can hold one."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    fitting = [r.get("CPU", 0) for r in alive if r.get("CPU", 0) >= 1 and r.get("GPU", 0) >= gpus_per_worker]
    if not fitting:
        return 1
    return max(1, int(min(fitting) // -(-num_workers // len(fitting))))


def _failed(job: Any, error: Exception, detail: str) -> Outcome:
    lines = str(error).strip().splitlines()
    message = lines[0] if lines else type(error).__name__
    return Outcome(job, "failed", error=error, message=f"{type(error).__name__}: {message}", detail=detail)


def _resources(resources: dict[str, float]) -> str:
    return " and ".join(f"{resources.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
