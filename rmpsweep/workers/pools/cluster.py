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
CAPACITY_EVERY_S = 10.0
HEAD_EVERY_S, HEAD_LOST_S = 5.0, 30.0
"""How often the head is looked for, and how long it may be away: Ray ends this process without a word after 60 s."""
CPU_WORKERS = 2
"""Workers on a node without a GPU, where nobody says how many."""


Question = Literal["place", "setup", "beat", "run"]
"""What an actor was called for."""


@dataclass(eq=False, slots=True)
class _Handle:
    """An actor, and what is known of it."""

    actor: Any
    node: str = ""
    """The id of its node, once it runs."""
    log: str = ""
    ready: bool = False
    job: Any = None
    beat_at: float = 0.0
    """When it was last asked, or has answered, how far it has come; infinite while the answer is awaited."""
    calls: set[Any] = field(default_factory=set)
    """Those whose answers are awaited."""


class RayPool(Pool):
    """Ray actors, each with a worker of its own.

    Ray restarts and retries nothing by itself: attempts, budgets and replacement are the driver's, so that each has
    its line in the log. The actor's constructor does nothing; `setup` loads the network.
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
        """Connect; workers are started by `start`.

        Args:
            num_workers: default as many as there is room for, following nodes that come and go: one for each GPU, or
                two on each node where there is no GPU.
            gpus_per_worker: default 1 where there is a GPU; CPUs are shared out evenly.
            address: of a running cluster ("auto" or host:port). A Ray that this process uses already is used and left
                running; otherwise None starts Ray on this machine, and stops it at close.
            logs: a folder every node can write, for the workers' logs; None leaves them to Ray.
            beat_every_s: how often workers are asked how far they have come; default BEAT_EVERY_S.
        Raises:
            ClusterError: no such cluster, or this process uses another one.
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
        if self.now() > self.room_at + CAPACITY_EVERY_S and self._finds_head():  # nodes() would wait for it for ever
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
        """Raises ClusterError if Ray's head has been away for too long."""
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
        """As of `Pool`; Ray is stopped too if it was started here."""
        for name in list(self.handles):
            self.stop(name)
        if self.owns_ray:
            self.ray.shutdown()

    def _call(self, name: str, question: Question, call: Any) -> None:
        self.calls[call] = name, question
        self.handles[name].calls.add(call)

    def _events(self, name: str, question: Question, call: Any) -> list[PoolEvent]:
        """What an answer comes to; asks the next question where there is one."""
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
        """What setup, or a job, raised. A fault of the process, such as a broken CUDA context, ends its worker."""
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
        """The actor, its process, or its node is no more. Raises ClusterError where no other could do better."""
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
    """Resources of the nodes that are alive and can hold a worker."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    return [r for r in alive if r.get("CPU", 0) >= 1 and r.get("GPU", 0) >= gpus_per_worker]


def _room(nodes: list[dict[str, Any]], gpus_per_worker: float) -> int:
    """Workers the cluster has room for at the moment."""
    fitting = _fitting(nodes, gpus_per_worker)
    if gpus_per_worker:
        return sum(int(r["GPU"] / gpus_per_worker) for r in fitting)
    return sum(min(CPU_WORKERS, int(r["CPU"])) for r in fitting)


def _threads_per_worker(nodes: list[dict[str, Any]], num_workers: int, gpus_per_worker: float) -> int:
    """CPUs for each worker such that an even share of the workers fits on every node that can hold one."""
    fitting = [r["CPU"] for r in _fitting(nodes, gpus_per_worker)]
    return max(1, int(min(fitting) // -(-num_workers // len(fitting)))) if fitting else 1


def _resources(resources: dict[str, float]) -> str:
    return " and ".join(f"{resources.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
