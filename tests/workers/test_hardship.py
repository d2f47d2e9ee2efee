"""What can go wrong with a unit or a worker, and how the command ends then: real launches, on a real cluster.

Each of them keeps what was committed, and is finished by the same command once the trouble is over.
"""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.helpers.chaos import LocalCluster
from tests.helpers.commands import run_here
from tests.helpers.faulty import SHARD_SIZE
from tests.helpers.results import tables, unit_files

UNITS = 8
SHARED = ("--limit", UNITS * SHARD_SIZE, "--mlflow", "none", "--json")
LOST = r"worker-\d+ on [0-9a-f]{8}: "
LOG = r" \(log: (\S+)\)"


def launch_here(sweep, results, *options):
    """Launch in this process: exit code, document, what was said."""
    code, output, errors = run_here(list(map(str, ["launch", sweep, "--results", results, *SHARED, *options])))
    return code, json.loads(output) if output.strip() else {}, errors


@pytest.fixture(scope="module")
def quiet(faults, sweep, folder):
    """Of a run in which nothing goes wrong: the first half of its results, and all tables."""
    faults.set()
    folders = folder / "half", folder / "quiet"
    for results, images in zip(folders, (UNITS * SHARD_SIZE // 2, UNITS * SHARD_SIZE), strict=True):
        assert launch_here(sweep, results, "--inline", "--limit", images)[0] == 0
    return folders[0], tables(folders[1])


class Launcher:
    """Launches a sweep. last: the options it was given, with which it is finished in the end."""

    def __init__(self, sweep, results):
        self.sweep, self.results, self.last = sweep, results, ()

    def __call__(self, *options):
        self.last = options
        return launch_here(self.sweep, self.results, *options)


@pytest.fixture
def launch(sweep, quiet, faults, tmp_path):
    """A launcher on a directory with half of the results; at the end, without faults, the same command finishes."""
    launch = Launcher(sweep, tmp_path / "results")
    shutil.copytree(quiet[0], launch.results)
    before = unit_files(launch.results)
    yield launch
    committed = unit_files(launch.results)
    assert {name: committed.get(name) for name in before} == before
    faults.set()
    code, document, errors = launch(*launch.last)
    assert code == 0, errors
    assert document["units_run"] == UNITS - len(committed)
    after = unit_files(launch.results)
    assert {name: after[name] for name in committed} == committed
    assert tables(launch.results) == quiet[1]


def on(cluster, actors, *changes):
    """Options."""
    sets = [text for change in changes for text in ("--set", change)]
    return "--address", cluster.address, "--actors", actors, *sets


def test_units_that_crash_hang_or_exhaust_memory_are_given_up_and_the_others_done(launch, faults, connected):
    faults.set({4: "exit", 5: "hang", 6: "memory"})
    code, document, errors = launch(*on(connected, 2, "run.stall_deadline_s=4", "run.retries=0"))
    assert (code, document["units_run"], document["units_left"]) == (3, 1, 3), errors
    assert "3 units are missing; the same command tries them again" in errors
    for reason in (
        LOST + "its process died: The actor died unexpectedly.*" + LOG,
        r"worker-\d+ on \S+, process \d+: no progress for 4 s" + LOG,
        "MemoryError: cannot allocate 64 GB" + LOG,
    ):
        found = re.search(rf"^  ([0-9a-f]{{16}}) after 1 attempts: {reason}", errors, re.MULTILINE)
        assert found, errors
        assert all(f"begins {found[1]}" in Path(log).read_text() for log in found.groups()[1:])
    summary = document["summary"]
    assert {row["images"] for row in summary} == {(UNITS - 3) * SHARD_SIZE}
    assert {row["images_planned"] for row in summary} == {UNITS * SHARD_SIZE}


def test_a_worker_that_dies_while_it_loads_ends_the_command_after_three(launch, faults, connected):
    faults.set(setup="exit")
    code, document, errors = launch(*on(connected, 1))
    assert (code, document) == (4, {}), errors
    assert re.search(rf"error: no worker can be set up \(3 tries\): {LOST}its process died: .*{LOG}", errors), errors


def test_a_worker_that_loads_for_ever_ends_the_command(launch, faults, connected):
    faults.set(setup="hang")
    code, document, errors = launch(*on(connected, 1, "run.setup_deadline_s=1"))
    assert (code, document) == (4, {}), errors
    assert re.search(
        r"error: no worker can be set up \(3 tries\): worker worker-3 on \S+, process \d+ was not ready within 1 s",
        errors,
    ), errors
    launch.last = ("--inline",)  # a second is too short for any worker


def test_a_worker_that_cannot_load_ends_the_first_command_at_once(sweep, quiet, faults, connected, tmp_path):
    """What fails for every worker alike is not tried again. Then, of nine workers, the two that fit do everything."""
    faults.set(setup="raise")
    command = sweep, tmp_path / "results", *on(connected, 9)
    code, document, errors = launch_here(*command)
    assert (code, document) == (2, {}), errors
    assert "error: network.module: tests.helpers.faulty:network: the factory failed: RuntimeError: a bad day" in errors
    faults.set()
    code, document, errors = launch_here(*command)
    assert (code, document.get("units_run")) == (0, UNITS), errors
    assert tables(tmp_path / "results") == quiet[1]


def test_a_gpu_that_no_node_has_is_waited_for_until_the_deadline(launch, connected):
    code, document, errors = launch(*on(connected, 1, "run.gpus_per_actor=1", "run.schedule_deadline_s=3"))
    assert (code, document) == (4, {}), errors
    assert (
        "error: no worker was started within 3 s: "
        "each of 1 workers asks for 1 CPUs and 1 GPUs, the cluster has 2 CPUs and 0 GPUs"
    ) in errors
    launch.last = ("--inline",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "attempts", "message"),
    [
        (("--max-failures", 1), 2, "stopped: 2 attempts failed, more than --max-failures 1; "),
        (("--fail-fast", "--set", "run.retries=0"), 1, "stopped: [0-9a-f]{16} was given up, and --fail-fast is set; "),
    ],
)
def test_a_launch_that_shall_not_go_on_stops(launch, faults, options, attempts, message):
    faults.set(dict.fromkeys(range(UNITS // 2, UNITS), "raise"), inline=True)
    code, document, errors = launch("--inline", *options)
    assert (code, document["units_run"], document["units_left"]) == (3, 0, UNITS // 2), errors
    assert re.search(rf"error: {message}{UNITS // 2} units are missing; the same command tries them again", errors)
    assert errors.count("RuntimeError: a bad day") >= attempts


@pytest.mark.soak
def test_what_rays_memory_monitor_kills_is_given_up_as_out_of_memory(launch, faults):
    """Needs some gigabytes for a moment."""
    info = {line.split(":")[0]: int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines()}
    total, free = info["MemTotal"], info["MemAvailable"]
    if free < 8e6:
        pytest.skip("less than 8 GB of memory are free")
    faults.set({5: "grow"})
    with LocalCluster([2], {"RAY_memory_usage_threshold": f"{1 - (free - 3e6) / total:.3f}"}) as cluster:
        code, document, errors = launch(*on(cluster, 1))
        assert (code, document["units_run"], document["units_left"]) == (3, UNITS // 2 - 1, 1), errors
        reason = "out of memory, as Ray's monitor found: .*killed due to the node running low on memory"
        assert re.search(rf"^  [0-9a-f]{{16}} after 3 attempts: {LOST}{reason}", errors, re.MULTILINE), errors
        cluster.check_free()
    launch.last = ("--inline",)
