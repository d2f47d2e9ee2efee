"""Ask every node of a Ray cluster the same question, with a deadline."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmpsweep.errors import RmpsweepError
from rmpsweep.workers.pools.connection import connect
from rmpsweep.workers.pools.outcomes import first_line


@dataclass(frozen=True)
class Node:
    """A node of a cluster that is alive."""

    node_id: str
    host: str
    resources: Mapping[str, float]
    """The resources that Ray may assign, such as CPU and GPU; memory is in bytes."""

    @property
    def name(self) -> str:
        """The name for messages. It has the id too, because nodes on one machine differ in nothing else."""
        return f"{self.host} ({self.node_id[:6]})"


@dataclass(frozen=True)
class Answer:
    """The answer of a node, or the reason why there is none."""

    node: Node
    value: Any = None
    error: str = ""
    """Why the node gave no answer, in one line; "" if it gave one."""


class Nodes:
    """A connection to a cluster.

    `alive` has the nodes that were alive when the connection was made. `dashboard` is the host:port at which the
    dashboard listens, or "" if there is no dashboard.
    """

    def __init__(self, address: str | None = None) -> None:
        """Connect to Ray; a connection that this process has already is used and left open.

        Args:
            address: the address of a running cluster ("auto" or host:port); None starts Ray on this machine, and stops
                it at close.
        Raises:
            ClusterError: there is no such cluster, or it does not let this process in.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        self.ray = ray
        self.owns_ray = not ray.is_initialized()
        if self.owns_ray:
            connect(address, 1)
        self.alive = [
            Node(node["NodeID"], node["NodeManagerAddress"], node["Resources"]) for node in ray.nodes() if node["Alive"]
        ]
        context = ray.init("local", ignore_reinit_error=True, logging_level="error", configure_logging=False)
        self.dashboard: str = context.address_info.get("webui_url") or ""

    def ask(self, question: Callable[[], Any], deadline_s: float, nodes: Sequence[Node] | None = None) -> list[Answer]:
        """Call a function once on each node, on all at the same time, and wait no longer than the deadline.

        Args:
            question: the function. It and its return value must be picklable; an error it raises becomes the answer's
                `error`.
            nodes: the nodes to ask; default all that are alive.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        task = self.ray.remote(num_cpus=0, max_retries=0)(_call)
        calls = {}
        for node in self.alive if nodes is None else nodes:
            there = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
            calls[task.options(scheduling_strategy=there).remote(question)] = node
        ready = set(self.ray.wait(list(calls), num_returns=len(calls), timeout=deadline_s)[0]) if calls else set()
        answers = []
        for call, node in calls.items():
            if call in ready:
                answers.append(self._answer(call, node, deadline_s))
            else:
                self.ray.cancel(call, force=True)
                answers.append(Answer(node, error=f"no answer within {deadline_s:.0f} s"))
        return answers

    def close(self) -> None:
        """Disconnect from Ray, unless this process was connected to it before."""
        if self.owns_ray:
            self.ray.shutdown()

    def _answer(self, call: Any, node: Node, deadline_s: float) -> Answer:
        try:
            return Answer(node, self.ray.get(call, timeout=deadline_s))
        except self.ray.exceptions.RayTaskError as error:
            cause = error.cause or error
            said = isinstance(cause, RmpsweepError | OSError)
            return Answer(node, error=first_line(cause) if said else f"{type(cause).__name__}: {first_line(cause)}")
        except Exception as error:  # a node that dies, or an answer that cannot be unpickled here
            return Answer(node, error=f"{type(error).__name__}: {first_line(error)}")


def _call(question: Callable[[], Any]) -> Any:
    return question()
