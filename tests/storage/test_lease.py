"""One launch at a time on a results directory: processes that wait, die, or have no locks; two launches at once."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rmpsweep.errors import StorageError
from rmpsweep.storage import LOCK, hold_lease
from tests.helpers.disks import tmpfs
from tests.helpers.results import tables

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from rmpsweep.storage import hold_lease
with hold_lease(Path(sys.argv[1]), print):
    child = subprocess.Popen(["sleep", "60"])  # as Ray's processes outlive a killed driver for a while
    print("held", child.pid, flush=True)
    sys.stdin.readline()
child.kill()
"""


@contextlib.contextmanager
def holding(root):
    """Another process that holds the lease until its standard input ends, and its child's process id."""
    command = [sys.executable, "-c", HOLDER, str(root)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        said, child = holder.stdout.readline().split()
        assert said == "held"
        yield holder, int(child)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGKILL)
        holder.kill()
        holder.wait()
        for pipe in (holder.stdin, holder.stdout):
            pipe.close()


@pytest.mark.slow
def test_a_second_launch_is_told_who_holds_the_lease_and_goes_on_when_it_is_free(tmp_path):
    root, told = tmp_path / "results", []
    with holding(root) as (holder, _):
        (root / "sweep.yaml").write_text("")
        threading.Timer(1.5, holder.stdin.close).start()
        began = time.monotonic()
        with hold_lease(root, told.append):
            waited = time.monotonic() - began
            assert holder.wait(10) == 0
    assert 1 < waited < 10
    (line,) = told
    assert line.startswith(f"{root}: process {holder.pid} on "), line
    assert line.endswith("is at work here; waiting until it ends"), line
    assert [path.name for path in root.iterdir()] == ["sweep.yaml"]


def test_a_killed_holder_frees_its_lease_at_once_although_its_child_lives_on(tmp_path):
    root, told = tmp_path / "results", []
    with holding(root) as (holder, child):
        holder.kill()
        holder.wait()
        began = time.monotonic()
        with hold_lease(root, told.append):
            assert time.monotonic() - began < 0.5
            os.kill(child, 0)  # is alive
    assert told == []
    assert not root.exists() or list(root.iterdir()) == []


def test_a_directory_stays_only_if_something_was_put_in_it(tmp_path):
    root = tmp_path / "a" / "b" / "results"
    with hold_lease(root, print):
        assert [path.name for path in root.iterdir()] == [LOCK]
    assert list(tmp_path.iterdir()) == []
    with hold_lease(root, print):
        (root / "sweep.yaml").write_text("")
    assert [path.name for path in root.iterdir()] == ["sweep.yaml"]
    with pytest.raises(KeyError), hold_lease(root, print):
        raise KeyError
    assert [path.name for path in root.iterdir()] == ["sweep.yaml"]


def test_a_lease_of_a_directory_that_was_removed_takes_nothing_from_the_next(tmp_path):
    root = tmp_path / "results"
    with hold_lease(root, print):
        (root / LOCK).unlink()
        (root / LOCK).write_text("another one's")
    assert (root / LOCK).read_text() == "another one's"


COUNTER = """
import sys, time
from pathlib import Path
import rmpsweep.storage.lease as module
module.POLL_S = 0.002
root = Path(sys.argv[1])
for _ in range(40):
    with module.hold_lease(root, lambda line: None):
        path = root.parent / "count"
        number = int(path.read_text())
        time.sleep(0.0005)
        path.write_text(str(number + 1))
"""


def test_many_take_turns_and_never_two_at_a_time(tmp_path):
    (tmp_path / "count").write_text("0")
    command = [sys.executable, "-c", COUNTER, str(tmp_path / "results")]
    for process in [subprocess.Popen(command) for _ in range(4)]:
        assert process.wait(60) == 0
    assert (tmp_path / "count").read_text() == "160"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["count"]


def test_a_folder_that_its_holder_removes_while_it_is_being_made_is_made_again(tmp_path, monkeypatch):
    """pathlib finds that the folder exists, and then that it is none: it has just been removed."""
    root, make, met = tmp_path / "results", os.mkdir, []

    def met_once(path, *options):
        if not met:
            met.append(path)
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        make(path, *options)

    monkeypatch.setattr(os, "mkdir", met_once)
    with hold_lease(root, print):
        assert (root / LOCK).is_file()
    assert met == [root]
    assert not root.exists()


def test_a_lock_that_its_holder_removes_while_it_is_being_taken_does_not_count(tmp_path, monkeypatch):
    sound, calls = fcntl.flock, []

    def flock(descriptor, operation):
        if not calls:
            (tmp_path / LOCK).unlink()
        calls.append(operation)
        sound(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with hold_lease(tmp_path, print):
        assert len(calls) == 2
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_warned_of_and_used(tmp_path, monkeypatch, number):
    def no_locks(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    told = []
    with hold_lease(tmp_path, told.append):
        assert told == [f"warning: {tmp_path}: its file system has no locks: start no second launch on it meanwhile"]


def test_a_read_only_directory_can_be_read_from_and_one_below_a_file_is_refused(tmp_path):
    with tmpfs(tmp_path / "disk") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with hold_lease(disk, print):
            pass
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/r: cannot be used .*; name another folder with --results"):
        hold_lease(tmp_path / "file" / "r", print).__enter__()


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_a_launch_that_waits_can_be_interrupted(write_sweep, tmp_path):
    root = tmp_path / "results"
    with holding(root):
        command = [sys.executable, "-m", "rmpsweep", "launch", str(write_sweep()), "--results", str(root), "--inline"]
        waiting = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert waiting.stdout.readline().endswith("is at work here; waiting until it ends\n")
        waiting.send_signal(signal.SIGINT)
        said, _ = waiting.communicate(timeout=10)
        assert (waiting.returncode, "Traceback" in said) == (130, False), said
        assert [path.name for path in root.iterdir()] == [LOCK]


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_two_launches_at_once_both_end_well_with_one_result(write_sweep, finished, tmp_path):
    from mlflow import MlflowClient

    results = tmp_path / "results"
    options = ["--limit", "40", "--inline", "--json"]
    command = [sys.executable, "-m", "rmpsweep", "launch", str(write_sweep()), "--results", str(results), *options]
    drivers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = [(*driver.communicate(timeout=200), driver.returncode) for driver in drivers]
    assert [code for _, _, code in ended] == [0, 0], ended
    assert sorted(json.loads(output)["units_run"] for output, _, _ in ended) == [0, 3]
    (waited,) = [errors for _, errors, _ in ended if "is at work here; waiting until it ends" in errors]
    assert "nothing to do: every result is there, merged, reported and logged" in waited
    client = MlflowClient(f"sqlite:///{results / 'mlflow.db'}")
    assert len(client.search_runs([each.experiment_id for each in client.search_experiments()])) == 6
    assert tables(results) == tables(finished)
    assert not [path for path in Path(results).rglob(".*") if path.name == LOCK or path.suffix == ".tmp"]
