"""A launch looked at, and stopped, from outside while it runs."""

import itertools
import json
import subprocess
import sys
import time

import pytest

from tests.helpers.commands import rmpsweep, run_here

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("environment")]
OPTIONS = ("--limit", 160, "--mlflow", "none", "--set", "data.shard_size=8", "--set", "time_steps=[4, 12, 2000]")


@pytest.fixture
def launched(write_sweep, tmp_path):
    """A launch with two workers that evaluates units: its process, its command, and where its results go."""
    results = tmp_path / "results"
    command = ("launch", write_sweep(), "--results", results, "--actors", 2, *OPTIONS)
    driver = subprocess.Popen(
        [sys.executable, "-m", "rmpsweep", *map(str, command), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 90
    while not _runs(results) and driver.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield driver, command, results
    driver.kill()
    driver.communicate()


def _runs(results):
    path = results / "progress.json"
    try:
        progress = json.loads(path.read_text())
    except FileNotFoundError:
        return False
    return progress["stage"] == "evaluating" and progress["in_flight"]


def _next_document(stream):
    """The next JSON document of a stream of them, None at its end."""
    text = ""
    for line in stream:
        text += line
        if line == "}\n":
            return json.loads(text)
    return None


def test_status_tells_what_is_in_flight_and_cancel_stops_it(launched):
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
    watching = subprocess.Popen(
        [sys.executable, "-m", "rmpsweep", "status", str(results), "--watch", "--every", "0.5", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    first = _next_document(watching.stdout)
    assert rmpsweep("cancel", results) == {"cancelled": True}
    _, events = driver.communicate(timeout=90)
    assert driver.returncode == 130, events
    told = [json.loads(line) for line in events.splitlines()]
    assert "cancelled: units in flight are finished first" in [each.get("text") for each in told]
    assert [each["stage"] for each in told if each["event"] == "stage"] == ["starting", "calibrating", "evaluating"]
    done = {each["job"] for each in told if each["event"] == "done" and each["stage"] == "evaluating"}
    assert done == {path.stem for path in (results / "units").glob("*.parquet")}
    assert not (results / "progress.json").exists()
    assert not (results / "cancel").exists()
    seen = [first]
    while document := _next_document(watching.stdout):
        seen.append(document)
    assert watching.wait(timeout=30) == 0
    watching.stdout.close()
    assert [each["running"] is not None for each in seen] == [True] * (len(seen) - 1) + [False]
    left = rmpsweep("status", results)
    assert left["running"] is None
    assert seen[-1] == left
    for before, after in itertools.pairwise(seen):
        assert all(b["images"] <= a["images"] for b, a in zip(before["trials"], after["trials"], strict=True))
    covered = [row for row in left["trials"] if row["images"]]
    assert len(covered) > 0
    assert all(row["ci_low"] <= row["accuracy"] <= row["ci_high"] for row in covered)
    assert all(row["done"] == row["images"] * 3 for row in covered if row["trial_id"] != "ann")
    assert left["units_left"] > 0
    assert rmpsweep("cancel", results) == {"cancelled": False}
    assert rmpsweep(*command)["units_left"] == 0
