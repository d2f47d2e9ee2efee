"""Clusters of several nodes, which join, die, and lose one another while a launch runs.

Units last as long as the faults' file says at the moment, whatever else this machine does.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.helpers.chaos import START_S, LocalCluster, committed, kill, processes, title, wait_until
from tests.helpers.commands import run_here
from tests.helpers.faulty import SHARD_SIZE
from tests.helpers.results import tables

pytestmark = pytest.mark.ray
UNITS = 50
HOSTS = ("10.77.0.1", "10.77.0.2")


def arguments(sweep, results):
    options = ["--results", results, "--limit", UNITS * SHARD_SIZE, "--mlflow", "none"]
    return list(map(str, ["launch", sweep, *options]))


@pytest.fixture(scope="module")
def quiet(sweep, folder):
    """The tables of a run in this process."""
    code, _, errors = run_here([*arguments(sweep, folder / "quiet"), "--inline"])
    assert code == 0, errors
    return tables(folder / "quiet")


@contextmanager
def launched(log, *command):
    """A launch that runs, in a process of its own."""
    with open(log, "wb") as sink:
        driver = subprocess.Popen(list(map(str, command)), stdout=sink, stderr=sink, start_new_session=True)
    try:
        yield driver
    finally:
        kill_session(driver)


def kill_session(leader):
    """Everything that a process and its children have started."""
    while pids := [pid for pid, (_, session) in processes().items() if session == leader.pid]:
        kill(*pids)
        leader.poll()
    leader.wait()


def ended(results, worker):
    """How many jobs the workers whose host and process match the pattern say they have ended."""
    return sum(path.read_text().count(" ended ") for path in (results / "logs").glob(f"{worker}.log"))


def ended_on(cluster, node, results):
    """The same of the workers that run on a node."""
    return sum(ended(results, f"*-{pid}") for pid, (raylet, _) in cluster.workers().items() if raylet == node)


def run_until(driver, log, condition):
    """Wait for it; the launch must not end before."""
    wait_until(lambda: driver.poll() is not None or condition(), 150, log.read_text)
    assert driver.poll() is None, log.read_text()


def test_workers_follow_nodes_that_join_and_nodes_that_die(sweep, faults, quiet, tmp_path):
    results, log = tmp_path / "results", tmp_path / "log"
    faults.set(pause_s=1)
    with LocalCluster([1]) as cluster:
        command = [sys.executable, "-m", "rmpsweep", *arguments(sweep, results), "--address", cluster.address]
        with launched(log, *command) as driver:
            run_until(driver, log, lambda: committed(results) > 1)
            first = cluster.nodes[0]
            assert {node for node, _ in cluster.workers().values()} == {first}
            second = cluster.add()
            run_until(driver, log, lambda: ended_on(cluster, second, results) > 1)
            cluster.lose(first)
            faults.set(pause_s=0.1)
            assert UNITS - committed(results) > 1
            assert driver.wait(120) == 0, log.read_text()
        cluster.check_free()
    assert "its node is gone or cannot be reached" in log.read_text()
    assert tables(results) == quiet


@pytest.mark.soak
def test_launch_that_loses_the_head_says_so_and_goes_on_with_another(sweep, faults, quiet, tmp_path):
    results, log = tmp_path / "results", tmp_path / "log"
    faults.set(pause_s=1)
    with LocalCluster([1]) as cluster:
        command = [sys.executable, "-m", "rmpsweep", *arguments(sweep, results), "--address", cluster.address]
        with launched(log, *command) as driver:
            run_until(driver, log, lambda: committed(results) > 1)
            kill(*(pid for pid in cluster.pids() if "gcs_server" in title(pid)))
            assert driver.wait(55) == 4, log.read_text()  # Ray would end it after 60 s
        kill(*cluster.pids())  # Ray's agents do not notice
    assert f"Ray's head, {cluster.address}, has been away for 30 s" in log.read_text().replace("\n", " ")
    before = committed(results)
    assert before > 1
    faults.set()
    assert run_here([*arguments(sweep, results), "--inline"])[0] == 0
    assert committed(results) > before
    assert tables(results) == quiet


@contextmanager
def two_hosts():
    """Two network namespaces and a link between them: their names, and a function that cuts the link or heals it."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("making network namespaces needs root, and ip")
    names = [f"rmpsweep-{os.getpid()}-{i}" for i in range(2)]

    def ip(*words):
        done = subprocess.run(["ip", *words], capture_output=True, text=True)
        assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"

    with ExitStack() as stack:
        for name in names:
            if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
                pytest.skip("network namespaces cannot be made here")
            stack.callback(ip, "netns", "del", name)
        ip("-n", names[0], "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", names[1])
        for name, host in zip(names, HOSTS, strict=True):
            ip("-n", name, "addr", "add", f"{host}/24", "dev", "wire")
            ip("-n", name, "link", "set", "wire", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names, lambda state: ip("-n", names[1], "link", "set", "wire", state)


@contextmanager
def ray_on(names):
    """A head on the first host, a node on the second, one CPU each; everybody shares this disk."""
    folder = Path(tempfile.mkdtemp(prefix="nodes-"))
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": os.urandom(32).hex(),
        "RAY_health_check_initial_delay_ms": "500",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "3",
    }
    places = (
        ["--head", "--port=6379", "--include-dashboard=false", f"--temp-dir={folder}"],
        [f"--address={HOSTS[0]}:6379"],
    )
    started = []
    try:
        for name, host, place in zip(names, HOSTS, places, strict=True):
            log = folder / f"{host}.log"
            ray = [Path(sys.executable).with_name("ray"), "start", *place, f"--node-ip-address={host}"]
            with open(log, "wb") as sink:
                started.append(
                    subprocess.Popen(
                        ["ip", "netns", "exec", name, *ray, "--num-cpus=1", "--block"],
                        stdin=subprocess.DEVNULL,
                        stdout=sink,
                        stderr=sink,
                        env=environment,
                        start_new_session=True,
                    )
                )
            wait_until(lambda log=log: "Ray runtime started" in log.read_text(), START_S, log.read_text)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_AUTH_MODE", "token")
            patch.setenv("RAY_AUTH_TOKEN", environment["RAY_AUTH_TOKEN"])
            yield
    finally:
        for process in started:
            kill_session(process)
        shutil.rmtree(folder)


@pytest.mark.soak
def test_a_node_behind_a_cut_link_loses_only_its_unfinished_units(sweep, faults, quiet, tmp_path):
    results, log = tmp_path / "results", tmp_path / "log"
    here, there = (f"{host}-*" for host in HOSTS)
    faults.set(pause_s=0.5)
    with two_hosts() as (names, link), ray_on(names):
        command = [sys.executable, "-m", "rmpsweep", *arguments(sweep, results), "--address", f"{HOSTS[0]}:6379"]
        with launched(log, "ip", "netns", "exec", names[0], *command) as driver:
            run_until(driver, log, lambda: min(ended(results, here), ended(results, there)) > 1)
            link("down")
            time.sleep(1)
            link("up")
            before = ended(results, there)
            run_until(driver, log, lambda: ended(results, there) > before + 2)
            faults.set(pause_s=0.1, slow=(HOSTS[1], 600))
            time.sleep(2)  # by now the worker there is at a unit that it will not end
            link("down")
            before, left = ended(results, here), UNITS - committed(results)
            assert left > 0
            assert driver.wait(200) == 0, log.read_text()
            assert ended(results, here) - before >= left
    assert tables(results) == quiet
