"""A Ray cluster of several nodes on this machine, and a killer of its parts.

A process of its own, the keeper, runs the cluster. Run as a program, this file is the keeper: it starts the head, does
what each line of its input says, and answers each with a line. When the input ends, it stops the cluster. Everything
that the cluster starts belongs to the keeper's session, so that no process of the cluster is overlooked.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START_S = 120.0
QUICK_TO_NOTICE = {
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "5",
}
"""Settings with which Ray notices in 3 seconds instead of 20 that a node is gone. The time that a slow node has to
answer is left as it is."""
KINDS = {"actor": 5, "worker": 2, "raylet": 1, "node": 2, "driver": 2}
"""What is killed, and how often relative to the others.

actor: a process that computes a unit. worker: any of Ray's worker processes, also one that is starting, loading or
idle. raylet: a node's raylet alone, whose workers find out by themselves. node: every process of a node. driver: the
launch itself.
"""


def processes() -> dict[int, tuple[int, int]]:
    """Process id -> parent and session, for every process that is running."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                state, parent, _, session = file.read().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            found[int(pid)] = int(parent), int(session)
    return found


def title(pid: int) -> str:
    """The command line of a process; those of Ray's workers say what they do."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def kill(*pids: int) -> int:
    """Send SIGKILL to the processes, and return how many of them existed."""
    killed = 0
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
            killed += 1
        except ProcessLookupError:
            pass
    return killed


def wait_until(condition: Callable[[], Any], deadline_s: float = 60.0, what: Callable[[], Any] = lambda: "") -> Any:
    """Wait until `condition` returns something true, and return that."""
    deadline = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {deadline_s:.0f} s: {what() or condition}"
        time.sleep(0.05)
    return found


class LocalCluster:
    """A cluster with a head, which has no CPUs and to which drivers connect, and nodes that may die.

    `nodes` holds the process ids of the nodes' raylets. Leaving the context stops everything. Processes that are still
    running then are killed, and are an error.
    """

    def __init__(self, cpus: Sequence[int] = (1, 1, 1), environment: dict[str, str] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-"))  # short: the paths of sockets are limited
        self.environment = {**os.environ, **QUICK_TO_NOTICE, **(environment or {})}
        with open(self.folder / "keeper.log", "wb") as log:
            self.keeper = subprocess.Popen(
                [sys.executable, __file__, str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self.environment,
                start_new_session=True,
            )
        self.session = self.keeper.pid
        try:
            self.address: str = self._answer()
            self.nodes = [self.add(count, wait=False) for count in cpus]
            wait_until(lambda: self.resources()[0].get("CPU", 0) == sum(cpus), START_S)
        except BaseException:
            self._clean()
            raise

    def __enter__(self) -> "LocalCluster":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.keeper.communicate(timeout=60)
            wait_until(lambda: not self.pids(), 30, lambda: list(map(title, self.pids())))
        finally:
            self._clean()

    def _clean(self) -> None:
        while pids := self.pids():
            kill(*pids)
            self.keeper.poll()
        self.keeper.communicate()
        shutil.rmtree(self.folder)

    def _answer(self) -> Any:
        assert self.keeper.stdout is not None
        line = self.keeper.stdout.readline()
        assert line, "the cluster's keeper died:\n" + (self.folder / "keeper.log").read_text()
        return json.loads(line)

    def _ask(self, *request: Any) -> Any:
        assert self.keeper.stdin is not None
        self.keeper.stdin.write(json.dumps(request) + "\n")
        self.keeper.stdin.flush()
        return self._answer()

    def add(self, cpus: int = 1, wait: bool = True) -> int:
        """Add a node and return the process id of its raylet."""
        return int(self._ask("add", cpus, wait))

    def lose(self, node: int, whole: bool = True) -> None:
        """Kill a node without warning: all its processes at once, or all but its workers."""
        children = [pid for pid, (parent, _) in processes().items() if parent == node]
        kill(node, *(pid for pid in children if whole or not is_worker(title(pid))))
        self._ask("remove", node)
        self.nodes.remove(node)

    def resources(self) -> tuple[dict[str, float], dict[str, float]]:
        """The resources of all nodes together: the total, and what is free."""
        total, free = self._ask("resources")
        return total, free

    def pids(self) -> list[int]:
        """The ids of all running processes that the cluster has started."""
        return [pid for pid, (_, session) in processes().items() if session == self.session]

    def workers(self) -> dict[int, tuple[int, str]]:
        """Ray's worker processes: process id -> process id of the raylet, title."""
        found = {pid: (parent, title(pid)) for pid, (parent, session) in processes().items() if session == self.session}
        return {pid: (parent, name) for pid, (parent, name) in found.items() if is_worker(name)}

    def check_free(self, deadline_s: float = 60.0) -> None:
        """Check that all resources become free and that no actor is left."""

        def actors() -> list[str]:
            return [name for _, name in self.workers().values() if name.startswith("ray::Actor")]

        wait_until(lambda: self.resources()[0] == self.resources()[1], deadline_s, self.resources)
        wait_until(lambda: not actors(), deadline_s, actors)


def is_worker(name: str) -> bool:
    """Whether a process with this title is one of Ray's workers."""
    return name.startswith("ray::") and not name.startswith(("ray::DashboardAgent", "ray::RuntimeEnvAgent"))


@dataclass
class Harassed:
    """How a command went that was run until it succeeded."""

    kills: Counter[str] = field(default_factory=Counter)
    """Number of kills by kind."""
    exits: Counter[int] = field(default_factory=Counter)
    """Number of launches that ended by themselves, by exit code."""
    sessions: list[int] = field(default_factory=list)
    """The session of every launch."""
    seconds: float = 0.0

    @property
    def launches(self) -> int:
        """How often the command was started."""
        return len(self.sessions)


class Killer:
    """Kills parts of a cluster, and the launch that uses it, at random moments, and starts the same launch again."""

    def __init__(
        self,
        cluster: LocalCluster,
        generator: random.Random,
        pause_s: float = 1.0,
        say: Callable[[str], None] = lambda _: None,
        kinds: Sequence[str] = (),
    ) -> None:
        """Make a killer.

        Args:
            pause_s: mean time in seconds from the moment at which a kill may happen to the kill.
            say: called with a line of text about each kill and each exit.
            kinds: what to kill first, in this order; then, and by default from the start, chance decides.
        """
        self.kinds = list(kinds)
        self.cluster, self.generator, self.pause_s, self.say = cluster, generator, pause_s, say

    def harass(self, command: Iterable[object], results: Path, most: int, log: Path) -> Harassed:
        """Run a command again and again, with at most `most` kills, until it ends with exit code 0.

        A unit that is hit three times is quarantined (exit code 3), and workers that are hit again and again while they
        load are given up (exit code 4). Both are as they should be, and the same command then continues.
        """
        harassed, began, barren = Harassed(), time.monotonic(), 0
        while True:
            before = committed(results)
            code = self._launch(list(map(str, command)), results, most, log, harassed)
            if code == -signal.SIGKILL:
                continue
            harassed.exits[code] += 1
            if code == 0:
                harassed.seconds = time.monotonic() - began
                return harassed
            self.say(f"exit code {code}; {committed(results)} units committed")
            assert code in (3, 4), f"exit code {code}:\n{log.read_text()}"
            barren = barren + 1 if committed(results) == before else 0
            assert barren < 4, f"no progress in {barren} launches:\n{log.read_text()}"

    def _launch(self, command: list[str], results: Path, most: int, log: Path, harassed: Harassed) -> int:
        with open(log, "ab") as sink:
            driver = subprocess.Popen(
                [sys.executable, "-m", "rmpsweep", *command], stdout=sink, stderr=sink, start_new_session=True
            )
        harassed.sessions.append(driver.pid)
        deadline = time.monotonic() + 600
        try:
            while driver.poll() is None:
                assert time.monotonic() < deadline, f"a launch hangs:\n{log.read_text()}"
                if harassed.kills.total() >= most:
                    time.sleep(0.1)
                elif self._pause(driver, results):
                    kind = self.kinds[0] if self.kinds else self.generator.choices(list(KINDS), list(KINDS.values()))[0]
                    if self._strike(kind, driver):
                        self.kinds = self.kinds[1:]
                        harassed.kills[kind] += 1
                        self.say(f"{harassed.kills.total():4} {kind:6} {committed(results)} units committed")
            return driver.returncode
        finally:
            driver.kill()
            driver.wait()

    def _pause(self, driver: subprocess.Popen[bytes], results: Path) -> bool:
        """Wait for a random moment, mostly after one more unit is committed; return whether the launch still runs."""
        before, deadline = committed(results), time.monotonic() + 15
        if self.generator.random() < 0.6:
            while committed(results) <= before and driver.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
        moment = time.monotonic() + min(self.generator.expovariate(1 / self.pause_s), 5 * self.pause_s)
        while time.monotonic() < moment and driver.poll() is None:
            time.sleep(0.02)
        return driver.poll() is None

    def _strike(self, kind: str, driver: subprocess.Popen[bytes]) -> bool:
        """Kill something of this kind, and return whether there was such a thing."""
        if kind == "driver":
            driver.kill()
            return driver.wait() == -signal.SIGKILL
        if kind in ("node", "raylet"):
            self.cluster.lose(self.generator.choice(self.cluster.nodes), whole=kind == "node")
            self.cluster.nodes.append(self.cluster.add(wait=False))
            return True
        wanted = "ray::Actor.run" if kind == "actor" else "ray::"
        pids = sorted(pid for pid, (_, name) in self.cluster.workers().items() if name.startswith(wanted))
        return bool(pids) and kill(self.generator.choice(pids)) == 1


def committed(results: Path) -> int:
    """The number of unit files."""
    return sum(1 for _ in (results / "units").glob("*.parquet"))


def keep(folder: str) -> None:
    """Run the keeper, whose cluster keeps its files in `folder`."""
    parent = os.getppid()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # everything else that is printed goes to the log
    import ray
    from ray.cluster_utils import Cluster

    ray._private.utils.write_ray_address = lambda *_, **__: None  # others here must not take this cluster for theirs
    head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": folder}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = {}
    print(json.dumps(cluster.address), file=answers)
    for line in sys.stdin:
        verb, *values = json.loads(line)
        answer: Any = None
        if verb == "add":
            node = cluster.add_node(num_cpus=values[0], wait=values[1])
            answer = node.all_processes["raylet"][0].process.pid
            nodes[answer] = node
        elif verb == "remove":
            cluster.remove_node(nodes.pop(values[0]), allow_graceful=False)
        elif verb == "resources":
            answer = cluster.global_state.cluster_resources(), cluster.global_state.available_resources()
        print(json.dumps(answer), file=answers)
    if os.getppid() == parent:
        cluster.shutdown()
    if os.getppid() != parent:  # the process that asked for the cluster was killed, so nobody else cleans up
        kill(*(pid for pid, (_, session) in processes().items() if session == os.getsid(0) and pid != os.getpid()))
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    keep(sys.argv[1])
