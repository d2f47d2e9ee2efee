"""A launch looked at, and stopped, from outside while it runs: its units wait until the test lets them go on."""

import contextlib
import itertools
import json
import subprocess
import sys
import time

import pytest

from tests.helpers.chaos import wait_until
from tests.helpers.commands import rmpsweep, run_here

pytestmark = pytest.mark.ray
OPTIONS = ("--limit", 160, "--mlflow", "none")


@pytest.fixture
def launched(sweep, faults, cluster, tmp_path):
    """A launch whose two workers are at units that do not end: its process, its command, and where its results go."""
    results = tmp_path / "results"
    command = ("launch", sweep, "--results", results, *OPTIONS)
    faults.set(pause_s=3600)
    where = ("--address", cluster.address, "--actors", 2)
    with (tmp_path / "events").open("wb") as events:
        driver = subprocess.Popen(
            [sys.executable, "-m", "rmpsweep", *map(str, command + where), "--json"],
            stdout=subprocess.DEVNULL,
            stderr=events,
            start_new_session=True,
        )
    deadline = time.monotonic() + 90
    try:
        while not _runs(results) and driver.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield driver, command, results
    finally:
        faults.set()
        driver.kill()
        driver.wait()


def _runs(results):
    path = results / "progress.json"
    try:
        progress = json.loads(path.read_text())
    except FileNotFoundError:
        return False
    return progress["stage"] == "evaluating" and len(progress["in_flight"]) == 2


@contextlib.contextmanager
def _watching(results):
    """A process that watches the results, which does not outlive the test."""
    command = [sys.executable, "-m", "rmpsweep", "status", str(results), "--watch", "--every", "0.5", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        try:
            yield watching
        finally:
            watching.kill()


def _next_document(stream):
    """The next JSON document of a stream of them, None at its end."""
    text = ""
    for line in stream:
        text += line
        if line == "}\n":
            return json.loads(text)
    return None


def test_status_tells_what_is_in_flight_and_cancel_stops_it(launched, faults, tmp_path):
    driver, command, results = launched
    standing = rmpsweep("status", results)
    running = standing["running"]
    assert sum(running["workers"].values()) == 2
    assert len(running["in_flight"]) == running["workers"]["busy"]
    for flight in running["in_flight"]:
        assert flight["log"].startswith(str(results / "logs"))
        assert 0 <= flight["done"] <= 1
    in_flight = {row["trial_id"]: row["in_flight"] for row in standing["trials"]}
    expected = dict.fromkeys(in_flight, 0)
    for flight in running["in_flight"]:
        for trial, cells in flight["cells"].items():
            expected[trial] += cells
    assert all(0 <= in_flight[trial] <= expected[trial] for trial in in_flight)
    assert sum(in_flight.values()) > 0
    _, shown, _ = run_here(["status", str(results)])
    assert "evaluating for" in shown
    assert "workers: " in shown
    with _watching(results) as watching:
        seen = [_next_document(watching.stdout)]
        assert rmpsweep("cancel", results) == {"cancelled": True}
        events = tmp_path / "events"
        wait_until(lambda: "cancelled: units in flight" in events.read_text(), what=events.read_text)
        faults.set()
        assert driver.wait(90) == 130, events.read_text()
        while document := _next_document(watching.stdout):
            seen.append(document)
        assert watching.wait(timeout=30) == 0
    told = [json.loads(line) for line in events.read_text().splitlines()]
    assert "cancelled: units in flight are finished first" in [each.get("text") for each in told]
    assert [each["stage"] for each in told if each["event"] == "stage"] == ["starting", "calibrating", "evaluating"]
    done = {each["job"] for each in told if each["event"] == "done" and each["stage"] == "evaluating"}
    assert done == {path.stem for path in (results / "units").glob("*.parquet")}
    assert not (results / "progress.json").exists()
    assert not (results / "cancel").exists()
    assert [each["running"] is not None for each in seen] == [True] * (len(seen) - 1) + [False]
    left = rmpsweep("status", results)
    assert left["running"] is None
    assert seen[-1] == left
    for before, after in itertools.pairwise(seen):
        assert all(b["images"] <= a["images"] for b, a in zip(before["trials"], after["trials"], strict=True))
    covered = [row for row in left["trials"] if row["images"]]
    assert len(covered) > 0
    assert all(row["ci_low"] <= row["accuracy"] <= row["ci_high"] for row in covered)
    assert all(row["done"] == row["images"] * 2 for row in covered if row["trial_id"] != "ann")
    assert left["units_left"] > 0
    assert rmpsweep("cancel", results) == {"cancelled": False}
    assert rmpsweep(*command, "--inline")["units_left"] == 0
