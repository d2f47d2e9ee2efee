"""The driver is killed without warning at random moments: nothing committed is lost, nothing is computed twice."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers.commands import rmpsweep
from tests.helpers.results import tables, unit_files

pytestmark = pytest.mark.usefixtures("environment")
UNITS = 20


@pytest.mark.ray
@pytest.mark.soak
def test_five_kills_of_the_driver_lose_no_committed_unit_and_change_no_byte(write_sweep, tmp_path):
    results = tmp_path / "killed"
    options = ("--limit", 160, "--mlflow", "none", "--set", "data.shard_size=8", "--set", "time_steps=[4, 12, 600]")
    command = ("launch", write_sweep(), "--results", results, "--actors", 2, *options)
    generator = random.Random(7)
    committed: dict[str, int] = {}
    kills_with_progress = 0
    for _ in range(5):
        driver = subprocess.Popen(
            [sys.executable, "-m", "rmpsweep", *map(str, command)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        # between the start of this driver and its third unit, at any instant
        target, deadline = len(committed) + generator.randint(0, 3), time.monotonic() + 60
        while len(unit_files(results)) < target and driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(generator.uniform(0, 0.5))
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        now = unit_files(results)
        assert {name: now[name] for name in committed} == committed, "a committed unit was touched"
        kills_with_progress += len(now) > len(committed)
        committed = now
    assert kills_with_progress >= 2
    assert len(committed) < UNITS, "nothing was left to resume"
    finished = rmpsweep(*command)
    # actors of the last killed driver may have committed a unit after their driver's death
    assert 0 < finished["units_run"] <= UNITS - len(committed)
    after = unit_files(results)
    assert len(after) == UNITS
    undisturbed = tmp_path / "undisturbed"
    rmpsweep("launch", write_sweep(), "--results", undisturbed, "--inline", *options)
    assert tables(results) == tables(undisturbed)
    assert unit_files(results).keys() == unit_files(undisturbed).keys()
    for name in after:
        assert (results / "units" / name).read_bytes() == (undisturbed / "units" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "whole_group", "where"),
    [
        pytest.param(signal.SIGINT, True, "--inline", id="Ctrl-C inline"),
        pytest.param(
            signal.SIGINT,
            True,
            "--actors=2",
            id="Ctrl-C with Ray: a terminal signals every process",
            marks=(pytest.mark.ray, pytest.mark.soak),
        ),
        pytest.param(
            signal.SIGTERM, False, "--actors=2", id="SIGTERM to the driver", marks=(pytest.mark.ray, pytest.mark.soak)
        ),
    ],
)
def test_an_interrupt_finishes_units_in_flight_and_exits_130(write_sweep, tmp_path, signum, whole_group, where):
    results = tmp_path / "results"
    options = ("--limit", 80, "--mlflow", "none", "--set", "data.shard_size=4", "--set", "time_steps=[4, 12, 300]")
    command = ("launch", write_sweep(), "--results", results, where, *options)
    driver = subprocess.Popen(
        [sys.executable, "-m", "rmpsweep", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not unit_files(results) and time.monotonic() < deadline:
        time.sleep(0.02)
    (os.killpg if whole_group else os.kill)(driver.pid, signum)
    output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, output
    assert "the same command continues" in output
    assert not list((results / "units").glob(".*")), "a temporary file was left"
    left = rmpsweep("status", results)["units_left"]
    assert 0 < left < UNITS
    assert rmpsweep(*command)["units_run"] == left
