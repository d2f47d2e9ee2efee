"""Every node of a Ray cluster, asked the same question under a deadline."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmpsweep.errors import RmpsweepError
from rmpsweep.workers.pools.connection import connect
from rmpsweep.workers.pools.outcomes import first_line


@dataclass(frozen=True)
class Node:
    """A node that is alive. resources: what Ray may give out, memory in bytes."""

    node_id: str
    host: str
    resources: Mapping[str, float]

    @property
    def name(self) -> str:
        """For messages: nodes of one machine differ in their ids only."""
        return f"{self.host} ({self.node_id[:6]})"


@dataclass(frozen=True)
class Answer:
    """What a node said; error: why it said nothing, in one line."""

    node: Node
    value: Any = None
    error: str = ""


class Nodes:
    """A connection to a cluster. alive: its nodes; dashboard: host:port where it listens, "" where there is none."""

    def __init__(self, address: str | None = None) -> None:
        """Connect.

        Args:
            address: of a running cluster ("auto" or host:port); None starts Ray on this machine, and stops it at close.
        Raises:
            ClusterError: no such cluster, or it does not let this process in.
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
        """Call the function once on each node, all at the same time; none is waited for longer than the deadline.

        Args:
            question: with its answer, it has to survive pickling; what it raises becomes an answer's error.
            nodes: which; default all.
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
        """Disconnect; stop Ray if it was started here."""
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
