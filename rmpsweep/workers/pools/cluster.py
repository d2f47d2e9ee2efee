"""Workers as Ray actors."""

import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, assert_never

from rmpsweep.errors import ClusterError, RmpsweepError
from rmpsweep.workers.pools.connection import check_connected, connect
from rmpsweep.workers.pools.outcomes import failed_outcome, first_line, see
from rmpsweep.workers.protocol import (
    Beat,
    Cause,
    Ended,
    Gone,
    MakeWorker,
    Outcome,
    Placed,
    Pool,
    PoolEvent,
    Ready,
    Refused,
)

BEAT_EVERY_S = 5.0
"""Seconds between two questions to a worker how far it has come."""
CAPACITY_EVERY_S = 10.0
"""Seconds between two counts of the room in the cluster."""
HEAD_EVERY_S, HEAD_LOST_S = 5.0, 30.0
"""Seconds between two connections to Ray's head, and how long the head may be unreachable. Ray itself would end this
process without a message after 60 s."""
CPU_WORKERS = 2
"""The number of workers on each node if there are no GPUs and no number of workers is given."""


Question = Literal["place", "setup", "beat", "run"]
"""The method of an actor that was called."""


@dataclass(eq=False, slots=True)
class _Handle:
    """An actor, and what the pool knows about it."""

    actor: Any
    node: str = ""
    """The id of its node, "" until it runs."""
    log: str = ""
    ready: bool = False
    """Whether it is set up."""
    job: Any = None
    """The job it is doing; None while it is idle."""
    beat_at: float = 0.0
    """When it last became ready, got a job or answered a beat; infinite while a beat is awaited."""
    calls: set[Any] = field(default_factory=set)
    """The calls whose answers are awaited."""


class RayPool(Pool):
    """A pool of Ray actors, each of which holds one worker.

    Ray itself restarts and retries nothing. The driver counts attempts and replaces workers, so that each of these
    steps appears among its events. The constructor of an actor does nothing; `setup` loads the network.
    """

    def __init__(
        self,
        make_worker: MakeWorker,
        num_workers: int | None = None,
        *,
        address: str | None = None,
        gpus_per_worker: float | None = None,
        logs: Path | None = None,
        beat_every_s: float | None = None,
    ) -> None:
        """Connect to Ray; `start` starts the workers.

        Args:
            num_workers: the number of workers; default as many as there is room for, following nodes that come and go:
                with GPUs, as many as fit on them; without, CPU_WORKERS on each node.
            gpus_per_worker: the GPUs, or the fraction of one, that each worker gets; default 1 if the cluster has any,
                else 0. CPUs are shared out evenly.
            address: the address of a running cluster ("auto" or host:port). If this process is connected to Ray
                already, the pool uses that connection and leaves it open. Otherwise, None starts Ray on this machine
                and stops it at close.
            logs: a folder for the workers' logs that every node can write to; None leaves the logs to Ray.
            beat_every_s: seconds between two questions to a worker how far it has come; default BEAT_EVERY_S.
        Raises:
            ClusterError: there is no such cluster, it cannot be used, or this process uses another one.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray
        from ray.util.metrics import Counter, Gauge

        from rmpsweep.workers.pools.actor import Actor

        self.ray, self.make_worker, self.given, self.logs = ray, make_worker, num_workers, logs
        self.beat_every_s = beat_every_s or BEAT_EVERY_S
        self.handles: dict[str, _Handle] = {}
        self.calls: dict[Any, tuple[str, Question]] = {}
        self.started = 0
        self.owns_ray = not ray.is_initialized()
        if self.owns_ray:
            connect(address, num_workers or 1)
        self.head = ray.get_runtime_context().gcs_address
        if not self.owns_ray:
            check_connected(address, self.head)
        gpus = ray.cluster_resources().get("GPU", 0.0)
        self.gpus = gpus_per_worker if gpus_per_worker is not None else min(1.0, gpus)
        self.device = None if self.gpus else "cpu"
        self.note = (
            "the cluster has no GPU now, workers use CPUs; --set run.gpus_per_actor=1 --actors N waits for GPUs"
            if address and gpus_per_worker is None and not gpus
            else ""
        )
        self.room, self.room_at = 0, -CAPACITY_EVERY_S
        self.head_seen_at = self.head_sought_at = self.now()
        self.threads = _threads_per_worker(ray.nodes(), self.wanted(), self.gpus)
        self.actor_class = ray.remote(
            num_cpus=self.threads,
            num_gpus=self.gpus,
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"beat": 1},
        )(Actor)
        self.jobs_counter = Counter("rmpsweep_jobs", "Attempts by their end.", ("end",))
        self.workers_gauge = Gauge("rmpsweep_workers", "Workers started and not gone.")

    def now(self) -> float:
        return time.monotonic()

    def wanted(self) -> int:
        if self.given is not None:
            return self.given
        if (
            self.now() > self.room_at + CAPACITY_EVERY_S and self._finds_head()
        ):  # without its head, nodes() would wait for ever
            self.room, self.room_at = _room(self.ray.nodes(), self.gpus), self.now()
        return max(1, self.room)

    def start(self) -> str:
        self.started += 1
        name = f"worker-{self.started}"
        handle = self.handles[name] = _Handle(self.actor_class.remote())
        self._call(name, "place", handle.actor.place.remote(str(self.logs) if self.logs else None))
        self.workers_gauge.set(len(self.handles))
        return name

    def submit(self, worker: str, job: Any) -> None:
        handle = self.handles[worker]
        handle.job, handle.beat_at = job, self.now()
        self._call(worker, "run", handle.actor.run.remote(job))

    def stop(self, worker: str) -> None:
        handle = self.handles.pop(worker)
        for call in handle.calls:
            del self.calls[call]
        self.ray.kill(handle.actor)
        self.workers_gauge.set(len(self.handles))

    def wait(self, timeout_s: float) -> list[PoolEvent]:
        if self.now() > self.head_sought_at + HEAD_EVERY_S:
            self._finds_head()
        for name, handle in self.handles.items():
            if handle.ready and self.now() > handle.beat_at + self.beat_every_s:
                handle.beat_at = float("inf")
                self._call(name, "beat", handle.actor.beat.options(concurrency_group="beat").remote())
        if not self.calls:
            time.sleep(timeout_s)
            return []
        ready, _ = self.ray.wait(list(self.calls), num_returns=1, timeout=timeout_s)
        if ready:
            ready, _ = self.ray.wait(list(self.calls), num_returns=len(self.calls), timeout=0)
        events: list[PoolEvent] = []
        for call in ready:
            if call in self.calls:
                name, question = self.calls.pop(call)
                self.handles[name].calls.discard(call)
                events += self._events(name, question, call)
        return events

    def describe(self) -> str:
        has = _resources(self.ray.cluster_resources())
        asked = _resources({"CPU": self.threads, "GPU": self.gpus})
        return f"each of {self.wanted()} workers asks for {asked}, the cluster has {has}"

    def _finds_head(self) -> bool:
        """Return whether Ray's head can be reached. Raises ClusterError if it has been away for HEAD_LOST_S."""
        host, _, port = self.head.rpartition(":")
        self.head_sought_at = self.now()
        try:
            socket.create_connection((host.strip("[]"), int(port)), HEAD_EVERY_S).close()
        except OSError as error:
            if self.now() < self.head_seen_at + HEAD_LOST_S:
                return False
            raise ClusterError(
                f"Ray's head, {self.head}, has been away for {HEAD_LOST_S:.0f} s ({error}); what is committed stays, "
                "and the same command goes on once there is a cluster again"
            ) from error
        self.head_seen_at = self.now()
        return True

    def close(self) -> None:
        """Stop all workers and drop their jobs, and stop Ray if this pool started it."""
        for name in list(self.handles):
            self.stop(name)
        if self.owns_ray:
            self.ray.shutdown()

    def _call(self, name: str, question: Question, call: Any) -> None:
        self.calls[call] = name, question
        self.handles[name].calls.add(call)

    def _events(self, name: str, question: Question, call: Any) -> list[PoolEvent]:
        """Turn the answer to a call into events, and make the next call if one follows."""
        handle = self.handles[name]
        try:
            answer = self.ray.get(call)
        except self.ray.exceptions.RayTaskError as error:
            return [self._raised(name, question, error)]
        except self.ray.exceptions.RayError as error:
            return [self._gone(name, error)]
        match question:
            case "place":
                handle.node, place, handle.log = answer
                self._call(name, "setup", handle.actor.setup.remote(self.make_worker, self.threads, self.device))
                return [Placed(worker=name, place=place, log=handle.log)]
            case "setup":
                handle.ready, handle.beat_at = True, self.now()
                return [Ready(worker=name, device=answer)]
            case "beat":
                handle.beat_at = self.now()
                ticks, done = answer
                return [Beat(worker=name, ticks=ticks, done=done)] if handle.job is not None else []
            case "run":
                job, handle.job = handle.job, None
                self.jobs_counter.inc(1, {"end": "done"})
                outcome = Outcome(job=job, kind="done", report=answer, worker=name, log=handle.log)
                return [Ended(worker=name, outcome=outcome)]
            case _:
                assert_never(question)

    def _raised(self, name: str, question: Question, error: Any) -> PoolEvent:
        """Turn an error that a call raised into an event.

        A worker survives errors of rmpsweep that its job raises. Any other error may come from a broken process, such
        as one that has lost its CUDA context, and ends the worker.
        """
        handle = self.handles[name]
        cause = error.cause if isinstance(error.cause, Exception) else error
        if question != "run":
            self.stop(name)
            message = f"a worker cannot be set up: {first_line(error.cause or error)}{see(handle.log)}"
            known = cause if isinstance(cause, RmpsweepError) else None
            return Refused(worker=name, error=known, message=message, detail=str(error))
        job, handle.job = handle.job, None
        self.jobs_counter.inc(1, {"end": "failed"})
        outcome = failed_outcome(job, cause, str(error), name, handle.log)
        if isinstance(cause, RmpsweepError):
            return Ended(worker=name, outcome=outcome)
        self.stop(name)
        return Gone(worker=name, outcome=outcome, message=outcome.message)

    def _gone(self, name: str, error: Exception) -> Gone:
        """Handle an actor that is gone, for whatever reason. Raises ClusterError if no other actor could run either."""
        handle = self.handles[name]
        exceptions = self.ray.exceptions
        hopeless = (
            exceptions.RuntimeEnvSetupError,
            exceptions.ActorUnschedulableError,
            exceptions.AuthenticationError,
            exceptions.ActorPlacementGroupRemoved,
            exceptions.OutOfDiskError,
            exceptions.ObjectStoreFullError,
        )
        if isinstance(error, hopeless):
            raise ClusterError(f"Ray cannot run workers: {type(error).__name__}: {first_line(error)}") from error
        where = f" on {handle.node[:8]}" if handle.node else ""
        self.stop(name)
        cause = self._cause(handle, error)
        if handle.job is not None:
            self.jobs_counter.inc(1, {"end": "lost"})
        message = f"{name}{where}: {_WHY[cause]}: {first_line(error)}{see(handle.log)}"
        return Gone(worker=name, message=message, detail=str(error), cause=cause)

    def _cause(self, handle: _Handle, error: Exception) -> Cause:
        exceptions = self.ray.exceptions
        if getattr(error, "preempted", False):
            return "preempted"
        if isinstance(error, exceptions.OutOfMemoryError) or "OutOfMemory" in str(error):
            return "memory"
        nodes = self.ray.nodes() if self._finds_head() else []
        dead = {node["NodeID"] for node in nodes if not node["Alive"]}
        process = (exceptions.ActorDiedError, exceptions.WorkerCrashedError)
        lost_node = handle.node in dead or "node" in str(error).lower().partition("died because")[2][:40]
        return "died" if isinstance(error, process) and not lost_node else "node"


_WHY: dict[Cause, str] = {
    "": "gone",
    "memory": "out of memory, as Ray's monitor found",
    "died": "its process died",
    "node": "its node is gone or cannot be reached",
    "preempted": "its node was preempted",
}


def _fitting(nodes: list[dict[str, Any]], gpus_per_worker: float) -> list[dict[str, float]]:
    """Return the resources of the nodes that are alive and can hold a worker."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    return [r for r in alive if r.get("CPU", 0) >= 1 and r.get("GPU", 0) >= gpus_per_worker]


def _room(nodes: list[dict[str, Any]], gpus_per_worker: float) -> int:
    """Return the number of workers that the cluster has room for at the moment."""
    fitting = _fitting(nodes, gpus_per_worker)
    if gpus_per_worker:
        return sum(int(r["GPU"] / gpus_per_worker) for r in fitting)
    return sum(min(CPU_WORKERS, int(r["CPU"])) for r in fitting)


def _threads_per_worker(nodes: list[dict[str, Any]], num_workers: int, gpus_per_worker: float) -> int:
    """Return the CPUs for each worker such that, shared out evenly, the workers fit on the nodes that can hold one."""
    fitting = [r["CPU"] for r in _fitting(nodes, gpus_per_worker)]
    return max(1, int(min(fitting) // -(-num_workers // len(fitting)))) if fitting else 1


def _resources(resources: dict[str, float]) -> str:
    return " and ".join(f"{resources.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
