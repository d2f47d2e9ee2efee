"""A launch is killed at every kind of instant, or loses its disk or MLflow: the same command finishes what is left."""

import json
import os
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rmpsweep.storage import LOCK
from tests.helpers import mishaps, servers
from tests.helpers.commands import rmpsweep
from tests.helpers.disks import tmpfs
from tests.helpers.results import tables

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture(scope="module")
def server():
    with mishaps.serving() as server:
        yield server


KILLED = {
    # in the order a launch comes by: when it is killed
    "before the sweep has its name": "when_named('replace', True, 'sweep.yaml', die)",
    "the sweep has its name": "when_named('replace', False, 'sweep.yaml', die)",
    "half of the plan is written": "when_half_written('plan.json', die)",
    "the plan is written and has no name": "when_named('replace', True, 'plan.json', die)",
    "before the first run.json has its name": "when_named('replace', True, 'run.json', die)",
    "between two tables of thresholds": "when_named('replace', False, '.parquet', die)",
    "half of a unit is written": "when_half_written('.parquet', die)",
    "a unit is written and has no name": "when_named('link', True, '.parquet', die)",
    "a unit has its name": "when_named('link', False, '.parquet', die)",
    "one unit before the last": "when_named('link', False, '.parquet', die)",
    "before the launch is recorded": "when_named('replace', True, 'run.json', die)",
    "before any table": "when_named('replace', True, 'predictions.parquet', die)",
    "after the first table": "when_named('replace', False, 'predictions.parquet', die)",
    "half of the second table is written": "when_half_written('summary.parquet', die)",
    "before the third table": "when_named('replace', True, 'activity.parquet', die)",
    "before the report": "when_named('replace', True, 'report.html', die)",
    "MLflow has the sweep's run": "after_call('create_run', 1, die)",
    "MLflow has two trials' runs": "after_call('create_run', 2, die)",
    "in the middle of a trial's metrics": "after_call('log_batch', 2, die)",
    "MLflow has all metrics and no files": "after_call('log_artifact', 1, die)",
    "MLflow has everything": "when_named('replace', True, 'run.json', die)",
}


def check_whole(results):
    """Whatever has its final name can be read."""
    for path in results.rglob("*.parquet"):
        if not path.name.startswith("."):
            pq.read_table(pa.BufferReader(path.read_bytes()), page_checksum_verification=True)
    for path in results.glob("*.json"):
        json.loads(path.read_text())


def logged(uri):
    """Run name -> status, params and last metrics, of all runs that there are."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    return sorted((run.info.run_name, run.info.status, run.data.params, run.data.metrics) for run in runs)


def comparable(results):
    """Every file that equal results have in common."""
    names = [*results.glob("units/*"), *results.glob("calibration/*"), results / "plan.json", results / "sweep.yaml"]
    return {str(path.relative_to(results)): path.read_bytes() for path in names} | tables(results)


@pytest.mark.slow
def test_a_driver_killed_at_every_point_loses_nothing_and_the_same_command_finishes(server, write_sweep, tmp_path):
    results = tmp_path / "killed"
    command = ["launch", write_sweep(), "--results", results, "--limit", 40, "--inline"]
    most_orphans = 0
    for point, where in KILLED.items():
        before = {path.name for path in results.glob("units/[!.]*")}
        code, said = server.run(where, *command)
        assert code == -signal.SIGKILL, f"{point}: {said}"
        check_whole(results)
        assert before <= {path.name for path in results.glob("units/[!.]*")}, point
        most_orphans = max(most_orphans, len(list(results.rglob(".*.tmp"))))
    assert most_orphans >= 6, "nothing was left to clean up"
    assert rmpsweep(*command)["units_run"] == 0
    undisturbed = tmp_path / "undisturbed"
    rmpsweep("launch", write_sweep(), "--results", undisturbed, "--limit", 40, "--inline")
    assert comparable(results) == comparable(undisturbed)
    uris = [f"sqlite:///{each / 'mlflow.db'}" for each in (results, undisturbed)]
    assert logged(uris[0]) == logged(uris[1])
    assert len(logged(uris[0])) == 6
    assert [path for path in results.rglob(".*") if path.suffix == ".tmp" or path.name == LOCK] == []


@pytest.mark.slow
def test_young_orphans_are_left_to_their_writers_until_the_sweep_is_complete(server, write_sweep, tmp_path):
    results = tmp_path / "results"
    command = ("launch", write_sweep(), "--results", results, "--limit", 20, "--inline", "--mlflow", "none")
    server.run("when_named('link', False, '.parquet', die)", *command)
    (young,) = results.glob("units/.*.tmp")
    old = young.with_name(".0123.parquet.4567.tmp")
    old.write_bytes(b"")
    os.utime(old, (0, 0))
    code, _ = server.run("when_named('link', True, '.parquet', die)", *command)
    assert code == -signal.SIGKILL
    left = set(results.glob("units/.*.tmp"))
    assert (young in left, old in left) == (True, False)
    rmpsweep(*command)
    assert list(results.glob("units/.*")) == []


DISKS = {
    # what happens after the first unit: (what it is made of, what is said, how it is mended)
    "it is full": ("fill('{disk}')", "the disk is full: free space, or name another folder", "rm {disk}/ballast"),
    "its units are read-only": (
        "run_command('mount --bind {disk}/results/units {disk}/results/units && "
        "mount -o remount,bind,ro {disk}/results/units')",
        "the file system is read-only: mount it so that it can be written",
        "umount {disk}/results/units",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("trouble", "said", "remedy"), DISKS.values(), ids=DISKS)
def test_a_disk_that_fails_ends_the_launch_soon_and_the_same_command_finishes(
    server, write_sweep, tmp_path, finished, trouble, said, remedy
):
    with tmpfs(tmp_path / "disk", "64m") as disk:
        results = disk / "results"
        command = ("launch", write_sweep(), "--results", results, "--limit", 40, "--inline", "--mlflow", "none")
        began = time.monotonic()
        where = f"when_named('link', False, '.parquet', {trouble.format(disk=disk)})"
        code, output = server.run(where, *command)
        assert (code, said in output, "the same command continues" in output) == (4, True, True), output
        assert time.monotonic() - began < 60
        assert len(list(results.glob("units/[!.]*"))) == 1
        subprocess.run(remedy.format(disk=disk), shell=True, check=True)
        assert rmpsweep(*command)["units_run"] == 2
        assert tables(results) == tables(finished)


@pytest.mark.slow
def test_results_that_go_away_and_come_back_are_waited_for(server, write_sweep, tmp_path, finished):
    results = tmp_path / "results"
    command = ("launch", write_sweep(), "--results", results, "--limit", 40, "--inline", "--mlflow", "none")
    where = f"when_named('link', False, '.parquet', take_away('{results}', 4))"
    code, output = server.run(where, *command)
    assert code == 0, output
    assert tables(results) == tables(finished)
    assert rmpsweep(*command)["units_run"] == 0


def test_too_little_space_is_said_before_anything_is_computed(server, write_sweep, tmp_path):
    with tmpfs(tmp_path / "disk", "12m") as disk:
        command = ("launch", write_sweep(), "--results", disk / "results", "--limit", 40, "--mlflow", "none")
        code, output = server.run("", *command)
        assert code == 4, output
        for part in ("the 440 missing results take about 17 MB", "and ", "has 13 MB free", "lower --limit or the grid"):
            assert part in output
        assert list(disk.iterdir()) == []


@pytest.mark.server
@pytest.mark.soak
def test_an_mlflow_server_that_dies_in_the_middle_is_said_and_the_same_command_finishes(
    server, write_sweep, tmp_path, finished
):
    port = servers.free_port()
    uri = f"http://127.0.0.1:{port}"
    mlflow = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    mlflow += ["--backend-store-uri", f"sqlite:///{tmp_path}/s.db", "--artifacts-destination", f"{tmp_path}/files"]
    start = (mlflow, f"{uri}/health", tmp_path / "log")
    results = tmp_path / "results"
    command = ("launch", write_sweep(), "--results", results, "--limit", 40, "--inline", "--mlflow", uri)
    with servers.serving(*start, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false") as process:
        began = time.monotonic()
        code, output = server.run(f"after_call('create_run', 3, lambda: os.killpg({process.pid}, 9))", *command)
    assert (code, f"MLflow at {uri} cannot be used" in output, "The results themselves are safe" in output) == (
        4,
        True,
        True,
    ), output
    assert time.monotonic() - began < 120
    assert tables(results) == tables(finished)
    with servers.serving(*start, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"):
        assert rmpsweep(*command)["units_run"] == 0
        assert [status for _, status, _, _ in logged(uri)] == ["FINISHED"] * 6
