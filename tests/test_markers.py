"""The guard of the markers, on a test file of its own in a pytest of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.markers import SHARING, fixtures_of

ROOT = Path(__file__).parents[1]
STARTS = "subprocess.run(['true', 'mlflow server'], check=True)"
FILE = f"""
import socketserver, subprocess
import pytest

@pytest.fixture(scope="module")
def shared():
    {STARTS}

@pytest.fixture
def cluster():
    subprocess.run(["true", "/raylet "], check=True)

@pytest.mark.server
def test_marked(): {STARTS}

def test_unmarked(): {STARTS}

@pytest.mark.server
def test_shared_and_marked(shared): pass

def test_shared_and_unmarked(shared): pass

def test_in_this_process(): socketserver.TCPServer(("127.0.0.1", 0), None).server_close()

@pytest.mark.server
def test_of_another_kind(cluster): pass

def test_by_its_fixture(cluster): pass

def test_without(): subprocess.run(["true", "-m rmpsweep launch x --inline"], check=True)

def test_by_a_command(): subprocess.run(["true", "-m rmpsweep launch x --json"], check=True)

@pytest.mark.soak
def test_long(): raise AssertionError
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", "ray", "server"])
def test_who_starts_something_without_its_marker_is_failed_and_soak_waits_to_be_named(tmp_path, kind):
    (tmp_path / "test_file.py").write_text(FILE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = ray\n    server\n    browser\n    soak\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.helpers.markers",
        "-p",
        "no:cacheprovider",
        "-rA",
        "-m",
        kind,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    outcomes = {
        line.partition("::")[2].partition(" ")[0]: line.partition(" ")[0]
        for line in done.stdout.splitlines()
        if line.startswith(("PASSED", "FAILED", "ERROR"))
    }
    ray = {"test_of_another_kind": "PASSED", "test_by_its_fixture": "PASSED"}
    server = {"test_marked": "PASSED", "test_shared_and_marked": "PASSED", "test_of_another_kind": "PASSED"}
    unmarked = dict.fromkeys(
        ["test_unmarked", "test_shared_and_unmarked", "test_in_this_process", "test_by_a_command"], "FAILED"
    )
    expected = {"ray": ray, "server": server, "": {**ray, **server, **unmarked, "test_without": "PASSED"}}
    assert outcomes == expected[kind], done.stdout


def test_the_files_that_share_the_cluster_are_known_and_come_first(request):
    items = request.session.items
    sharing = [item for item in items if "cluster" in fixtures_of(item)]
    assert {str(item.path.relative_to(ROOT)) for item in sharing} <= SHARING
    assert items[: len(sharing)] == sharing
