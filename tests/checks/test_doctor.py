"""doctor on this machine and on clusters: what is well says so, and what is wrong is a finding with a remedy."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import ray

from rmpsweep.checks.doctor import ANSWER_S
from rmpsweep.checks.doctor.cluster import FREE_BYTES, agree, compare_machines, judge_dashboard
from rmpsweep.checks.doctor.probe import Machine
from rmpsweep.errors import ClusterError
from rmpsweep.workers.pools.connection import connect
from rmpsweep.workers.pools.nodes import Answer, Node
from tests.helpers.commands import run_here

pytestmark = pytest.mark.usefixtures("environment")

CLUSTER = """
import ctypes, os, subprocess, sys
from ray.cluster_utils import Cluster

disk, dashboard_port = sys.argv[1:]
head = {"num_cpus": 1, "include_dashboard": True, "dashboard_host": "0.0.0.0", "dashboard_port": int(dashboard_port)}
cluster = Cluster(initialize_head=True, head_node_args=head)
os.environ["RMPSWEEP_CACHE"] = "/proc/nowhere"
poor = cluster.add_node(num_gpus=1, memory=200 << 20)
del os.environ["RMPSWEEP_CACHE"]
silent = cluster.add_node()
apart = ctypes.CDLL(None).unshare(0x20000) == 0  # mounts from here on are those of the last node alone
if apart:
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=True)
cluster.add_node()
raylet = silent.all_processes["raylet"][0].process.pid
print("up", cluster.address, raylet, int(apart), flush=True)
sys.stdin.read()
cluster.shutdown()
"""
"""A head whose dashboard is open to the network; a node with a GPU that does not exist, little memory and no
cache; a node to be stopped; and a node with a disk of its own in the place of `disk`."""


@dataclass(frozen=True)
class Cluster:
    """raylet: process of the node to be stopped; apart: whether the last node has its own disk (needs privileges)."""

    address: str
    dashboard: str
    raylet: int
    apart: bool


@contextlib.contextmanager
def running(disk: Path) -> Iterator[Cluster]:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    patient = {"RAY_health_check_failure_threshold": "1000"}  # a node that is stopped counts as alive
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", **patient}
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, str(disk), str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = next((line for line in process.stdout if line.startswith("up ")), None)
        assert line is not None, process.stderr and process.stderr.read()
        _, address, raylet, apart = line.split()
        yield Cluster(address, f"{address.partition(':')[0]}:{port}", int(raylet), apart == "1")
    finally:
        process.communicate(timeout=60)


def doctor(*arguments: object, expected: int) -> dict[str, dict[str, Any]]:
    """Run the command in a process of its own, as Ray needs it; findings by name."""
    command = [sys.executable, "-m", "rmpsweep", "doctor", *map(str, arguments), "--json"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == expected, done.stdout + done.stderr
    return {finding["check"]: finding for finding in json.loads(done.stdout)}


def problems(findings: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, finding in findings.items() if not finding["ok"]}


@pytest.mark.ray
def test_every_node_of_a_cluster_is_looked_at_and_what_is_wrong_with_one_is_said(
    write_sweep, weights, tmp_path, monkeypatch
):
    """One of four nodes is stopped. The others have as long as they need: time is up once all but one have answered."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    disk = tmp_path / "disk"
    disk.mkdir()
    copy = disk / weights.name
    copy.write_bytes(weights.read_bytes())
    wait, waits = ray.wait, []

    def wait_for_all_but_one(calls, num_returns, timeout):
        assert num_returns == len(calls)
        if len(calls) == 4:
            wait(calls, num_returns=3, timeout=timeout)
            waits.append(timeout)
            timeout = 1
        return wait(calls, num_returns=num_returns, timeout=timeout)

    with running(disk) as cluster:
        monkeypatch.setattr(ray, "wait", wait_for_all_but_one)
        os.kill(cluster.raylet, signal.SIGSTOP)
        try:
            options = ("--address", cluster.address, "--results", disk / "results", "--set", f"network.weights={copy}")
            code, output, errors = run_here(["doctor", *map(str, (write_sweep(), *options)), "--json"])
        finally:
            os.kill(cluster.raylet, signal.SIGCONT)
        assert code == 4, errors
        found = {finding["check"]: finding for finding in json.loads(output)}
        expected = {"nodes", "node GPUs", "node memory", "node cache", "dashboard"}
        assert problems(found) == expected | ({"node results", "node weights"} if cluster.apart else set())
        assert "4 nodes, 4 CPUs, 1 GPUs" in found["ray"]["detail"]
        assert waits == [ANSWER_S], "only the first question goes to the node that is silent"
        assert found["nodes"]["detail"].startswith("1 of 4 nodes: ")
        assert f"no answer within {ANSWER_S:.0f} s" in found["nodes"]["detail"]
        for name in ("node versions", "node space", "node data"):
            assert found[name]["detail"].startswith("3 nodes: "), found[name]
        for name, message in (
            ("node GPUs", "Ray counts 1 GPUs, torch sees 0"),
            ("node memory", "0.20 GiB, expected at least 1"),
            ("node cache", "/proc/.rmpsweep-"),
            *(
                [("node results", "it has a disk of its own"), ("node weights", f"{copy}: cannot be read")]
                if cluster.apart
                else []
            ),
        ):
            assert found[name]["detail"].startswith("1 of 3 nodes: "), found[name]
            assert message in found[name]["detail"]
            assert found[name]["remedy"]
        assert found["dashboard"]["detail"].startswith(f"{cluster.dashboard} takes jobs from whoever reaches it")
        assert "RAY_AUTH_MODE=token" in found["dashboard"]["remedy"]
        assert sorted(path.name for path in disk.iterdir()) == [copy.name]

        host, _, port = cluster.dashboard.partition(":")
        with pytest.raises(ClusterError, match=r"no Ray cluster has answered within 3 s; .*not the dashboard's"):
            connect(f"{host}:{port}", 1, answer_s=3)


@pytest.mark.ray
def test_a_machine_that_can_run_a_sweep_has_no_problem_and_nothing_is_left_behind(write_sweep, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    found = doctor(write_sweep(), "--results", place / "new" / "results", expected=0)
    assert problems(found) == set()
    assert re.search(r"; [1-9]\d* GiB memory$", found["device"]["detail"])
    assert "digits/test: 500 images, digits/train: 1,297 images" in found["data"]["detail"]
    assert "vgg-small: its weights fit" in found["network"]["detail"]
    assert found["space"]["detail"].startswith("enough for 5,500 results")
    assert "launch makes it" in found["mlflow"]["detail"]
    assert found["node weights"]["detail"].startswith("1 node: ")
    assert list(place.iterdir()) == []


NOT_THERE = ("--address", "127.0.0.1:1")


@pytest.mark.parametrize(
    ("options", "names", "message"),
    [
        ((), "ray", "Ray on 127.0.0.1:1 cannot be used"),
        (("--results", "/proc/results"), "results space mlflow", "/proc"),
        (("--set", "network.weights=nowhere.safetensors"), "weights", "nowhere.safetensors: no such file"),
        (("--set", "network.name=resnet20"), "network", "does not fit the network"),
        (("--set", "data.split=val"), "data", "got 'val'"),
        (("--set", "grid.threshold=['file:none.json']"), "plan", "none.json"),
        (("--mlflow", "http://127.0.0.1:1"), "mlflow", "http://127.0.0.1:1: cannot be reached"),
        (("--mlflow", "sqlite:///{tmp_path}/noise.db"), "mlflow", "noise.db cannot be used"),
        (("--mlflow", "file:/tmp/runs"), "mlflow", "MLflow no longer keeps runs in directories"),
    ],
)
def test_what_cannot_be_used_is_a_finding_within_seconds(options, names, message, write_sweep, tmp_path):
    (tmp_path / "noise.db").write_bytes(b"no database at all " * 100)
    chosen = [option.format(tmp_path=tmp_path) for option in options]
    if "--results" not in chosen:
        chosen += ["--results", str(tmp_path / "results")]
    began = time.monotonic()
    code, output, _ = run_here(["doctor", str(write_sweep()), *NOT_THERE, *chosen, "--json"])
    assert code == 4
    found = {finding["check"]: finding for finding in json.loads(output)}
    assert problems(found) == {"ray", *names.split()}
    assert all(message in found[name]["detail"] for name in names.split())
    assert time.monotonic() - began < 30


HERE = Machine({"python": "3.11.7", "ray": "2.60.0", "rmpsweep": "0.1.0 (01234567)"}, 0, 2 * FREE_BYTES, False)


def answers(*machines: Machine) -> list[Answer]:
    nodes = [Node(f"{i:06}abc", f"10.0.0.{i}", {"CPU": 8.0, "GPU": 2.0, "memory": 64 << 30}) for i in range(9)]
    return [Answer(node, machine) for node, machine in zip(nodes, machines, strict=False)]


def test_nodes_are_held_against_this_machine():
    good = replace(HERE, gpus=2)
    assert all(finding.ok for finding in compare_machines(HERE, answers(good, good)))
    other = replace(good, versions={"python": "3.11.9", "rmpsweep": "0.1.0 (89abcdef)"})
    blind, full = replace(good, gpus=1), replace(good, free_bytes=FREE_BYTES // 2)
    found = {finding.check: finding for finding in compare_machines(HERE, answers(good, other, blind, full))}
    assert found["node versions"].detail == (
        "1 of 4 nodes: 10.0.0.1 (000001): python 3.11.9, here 3.11.7, ray missing, here 2.60.0, "
        "rmpsweep 0.1.0 (89abcdef), here 0.1.0 (01234567)"
    )
    assert found["node GPUs"].detail == "1 of 4 nodes: 10.0.0.2 (000002): Ray counts 2 GPUs, torch sees 1"
    assert found["node space"].detail == "1 of 4 nodes: 10.0.0.3 (000003): 0.50 GiB, expected at least 1"
    assert found["node memory"].ok


def test_of_many_bad_nodes_a_few_are_named():
    found = agree("check", answers(*[HERE] * 9), lambda answer: "is bad", "", "mend them")
    assert found.detail.startswith("9 of 9 nodes: 10.0.0.0 (000000): is bad; ")
    assert found.detail.endswith("10.0.0.3 (000003): is bad; and 5 more")


@pytest.mark.parametrize(
    ("address", "mode", "token", "ok", "message"),
    [
        ("", "", True, True, "there is none; a token is asked for"),
        ("127.0.0.1:8265", "disabled", False, True, "whoever reaches Ray's ports can run code"),
        ("[::1]:8265", "disabled", True, True, "which only its own machine reaches"),
        ("localhost:8265", "", True, True, "which only its own machine reaches"),
        ("10.0.0.1:8265", "", False, True, "not reached from here"),
        ("10.0.0.1:8265", "token", True, True, "with a token"),
        ("10.0.0.1:8265", "disabled", False, False, "ShadowRay, CVE-2023-48022"),
        ("head.example.org:8265", "disabled", True, False, "ShadowRay, CVE-2023-48022"),
    ],
)
def test_a_dashboard_that_takes_jobs_from_strangers_is_a_problem(address, mode, token, ok, message):
    found = judge_dashboard(address, mode, token)
    assert (found.ok, message in found.detail) == (ok, True)
    assert found.remedy or token
