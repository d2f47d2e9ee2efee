"""No failures, then constant failures, as Ray tests itself: what comes out is the same, to the byte."""

import os
import random
import sys
import time
from collections import Counter

import pyarrow.parquet as pq
import pytest

from tests.helpers.chaos import KINDS, Killer, LocalCluster, processes
from tests.helpers.commands import rmpsweep
from tests.helpers.results import tables

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("environment")]
CELLS = 5 * 3 + 1
"""Of an image: five trials at three time steps, and the ANN."""
SHORT_KILLS = ("actor", "raylet", "driver")
"""Those that no other test sees to: test_nodes kills a node, test_hardship lets workers die."""
SOAK_KILLS = int(os.environ.get("RMPSWEEP_SOAK_KILLS", "200"))


@pytest.fixture
def prepared(write_sweep, tmp_path):
    """Arguments of a launch of units of some tenths of a second."""

    def arguments(name, images, steps):
        return (
            "launch",
            write_sweep(8),
            "--results",
            tmp_path / name,
            "--limit",
            images,
            "--mlflow",
            "none",
            "--set",
            f"time_steps=[4, 12, {steps}]",
        )

    return arguments


def on(cluster):
    """The options for an actor on each node."""
    return "--address", cluster.address, "--actors", len(cluster.nodes)


def check(command, results, quiet, images):
    """Everything is there once and as in the quiet run, and nothing else; how many temporary files there were.

    What a killed writer has left is removed by a later launch, once it is old enough to be nobody's.
    """
    assert tables(results) == tables(quiet)
    rows = pq.read_table(results / "predictions.parquet", columns=["trial_id", "image_id", "time_steps"]).to_pylist()
    cells = Counter(tuple(row.values()) for row in rows)
    assert (len(cells), set(cells.values())) == (images * CELLS, {1})
    temporary = [path for path in results.rglob("*") if path.name.startswith(".")]
    for path in temporary:
        os.utime(path, (0, 0))
    assert rmpsweep(*command)["units_run"] == 0
    hidden = [path.name for path in results.rglob("*") if path.name.startswith(".")]
    assert hidden == []
    assert {path.name for path in results.iterdir()} - {"logs"} == {path.name for path in quiet.iterdir()} - {"logs"}
    return len(temporary)


def test_a_few_kills_change_no_byte(prepared, tmp_path):
    images, steps = 120, 1500
    rmpsweep(*prepared("quiet", images, steps), "--inline")
    with LocalCluster([1, 1]) as cluster:
        command = prepared("killed", images, steps)
        killer = Killer(cluster, random.Random(4), pause_s=0.2, kinds=SHORT_KILLS)
        here = (*command, *on(cluster))
        harassed = killer.harass(here, tmp_path / "killed", len(SHORT_KILLS), tmp_path / "log")
        cluster.check_free()
    check((*command, "--inline"), tmp_path / "killed", tmp_path / "quiet", images)
    assert not left_of(harassed)
    assert harassed.kills == Counter(SHORT_KILLS), harassed


def left_of(harassed):
    """Processes that its launches have left."""
    return [pid for pid, (_, session) in processes().items() if session in harassed.sessions]


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_constant_failures_change_no_byte(prepared, tmp_path):
    """As many kills as asked for, in as many runs as it takes; prints what was killed and how long everything took."""
    images, steps, began = 400, 600, time.monotonic()

    def say(text):
        print(f"{time.monotonic() - began:7.1f} s  {text}", file=sys.stderr, flush=True)

    rows, kills = [], Counter()
    with LocalCluster() as cluster:
        say("the cluster is up")

        def run_quietly(name):
            started = time.monotonic()
            rmpsweep(*prepared(name, images, steps), *on(cluster))
            rows.append([name, *[0] * len(KINDS), 0, 1, 0, 0, 0, time.monotonic() - started])
            say(f"{name}: {rows[-1][-1]:.1f} s")

        run_quietly("quiet")
        while kills.total() < SOAK_KILLS:
            seed = len(rows)
            results = tmp_path / f"run {seed}"
            command = (*prepared(results.name, images, steps), *on(cluster))
            killer = Killer(cluster, random.Random(seed), say=say)
            harassed = killer.harass(command, results, SOAK_KILLS, tmp_path / f"{seed}.log")
            temporary = check(command, results, tmp_path / "quiet", images)
            cluster.check_free()
            assert not left_of(harassed)
            kills += harassed.kills
            rows.append(
                [
                    f"seed {seed}",
                    *(harassed.kills[kind] for kind in KINDS),
                    harassed.kills.total(),
                    harassed.launches,
                    harassed.exits[3],
                    harassed.exits[4],
                    temporary,
                    harassed.seconds,
                ]
            )
            say(f"{results.name}: {harassed}; {temporary} temporary files")
        run_quietly("quiet again")
        assert tables(tmp_path / "quiet") == tables(tmp_path / "quiet again")
    head = ["run", *KINDS, "kills", "launches", "exit 3", "exit 4", "temporary", "seconds"]
    sums = [sum(row[i] for row in rows[1:-1]) for i in range(1, len(head))]
    print("\n")
    for row in (head, *rows, ["in all", *sums]):
        print("".join(f"{value:>12.1f}" if isinstance(value, float) else f"{value!s:>12}" for value in row))
