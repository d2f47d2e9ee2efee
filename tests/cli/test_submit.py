"""A launch sent to a cluster as a Ray Job."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.chaos import wait_until
from tests.helpers.commands import rmpsweep, run_here
from tests.helpers.results import tables
from tests.helpers.servers import free_ports

pytestmark = pytest.mark.usefixtures("environment")
RAY = Path(sys.executable).with_name("ray")


@pytest.fixture
def dashboard(monkeypatch, tmp_path):
    """The address of the dashboard of a cluster of one node."""
    monkeypatch.setenv("PATH", f"{RAY.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    port, *others = free_ports(5)
    names = ("port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
    log = tmp_path / "head.log"
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", "--dashboard-host=127.0.0.1", "--disable-usage-stats"]
    command += [f"--dashboard-port={port}"]
    command += [f"--{name}={number}" for name, number in zip(names, others, strict=True)]
    with log.open("w") as sink:
        head = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True)
    deadline = time.monotonic() + 90
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert time.monotonic() < deadline, log.read_text()
            assert head.poll() is None, log.read_text()
            time.sleep(0.5)
    yield f"http://127.0.0.1:{port}"
    head.send_signal(signal.SIGTERM)
    try:
        head.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(head.pid, signal.SIGKILL)


def test_the_same_launch_is_sent_once_and_runs_on_the_cluster(dashboard, write_sweep, finished, tmp_path):
    results = tmp_path / "results"
    command = ["launch", write_sweep(), "--results", results, "--limit", 40, "--mlflow", "none", "--actors", 1]

    def send():
        code, output, errors = run_here([*map(str, command), "--submit", "--address", dashboard, "--json"])
        assert code == 0, errors
        return json.loads(output)

    sent, again = send(), send()
    assert sent["is_new"]
    assert sent["submission_id"].startswith("rmpsweep-tiny-")
    assert (again["submission_id"], again["is_new"]) == (sent["submission_id"], False)
    wait_until((results / "report.html").exists, 120)
    assert rmpsweep("status", results)["units_left"] == 0
    assert tables(results) == tables(finished)


REFUSALS = [
    ((), 2, "--submit: got --address None, expected the dashboard's"),
    (("--address", "auto"), 2, "--submit: got --address auto, expected the dashboard's"),
    (("--address", "http://127.0.0.1:1"), 2, "--submit: got --results None, expected a place that every node reaches"),
    (("--address", "http://127.0.0.1:1", "--results", "/somewhere"), 4, "http://127.0.0.1:1: takes no jobs"),
    (
        (
            "--address",
            "http://127.0.0.1:1",
            "--results",
            "/somewhere",
            "--set",
            "mlflow.tracking_uri=http://me:secret@host:1",
        ),
        2,
        "mlflow.tracking_uri holds a password",
    ),
]


@pytest.mark.parametrize(("options", "code", "message"), REFUSALS)
def test_what_cannot_be_sent_is_refused_with_the_remedy(write_sweep, options, code, message):
    found, _, errors = run_here(["launch", str(write_sweep()), "--submit", *options])
    assert (found, message in errors) == (code, True), errors
