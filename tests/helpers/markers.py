"""A pytest plugin that orders tests, and fails those which start Ray, a server or a browser without the marker for it.

An audit hook sees what a test and its fixtures start. If a fixture lives longer than the test that set it up, every
later test that uses the fixture needs the marker too.

The tests of a file stay together, and those of all files that share a Ray cluster too. They come first: in a process
that has connected to another Ray meanwhile, workers of the first one no longer start. Then come files with long tests,
so that at the end no process waits for another one's long test.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

FIXTURES = {"cluster": "ray", "dashboard": "ray", "ports": "server", "web": "server", "browser": "browser"}
"""Name of a fixture -> the marker that every test which uses the fixture gets by itself."""

COMMANDS = {
    "ray": re.compile(
        r"/raylet |/gcs_server |/ray start |helpers/chaos\.py|ray\.cluster_utils"
        r"|-m rmpsweep (launch|verify|doctor) (?!.*(--inline|--help|--address))"
    ),
    "server": re.compile(r"mlflow server|moto\.server|gcp-storage-emulator start"),
    "browser": re.compile(r"chromedriver"),
}
"""Marker -> pattern of the command lines for which a test needs it."""

SECONDS = {"ray": 100, "server": 30, "browser": 30, "slow": 15}
"""Marker -> how long its tests take, in tenths of a second. Others take one tenth."""

SHARING = {
    "tests/checks/test_verify.py",
    "tests/pipeline/test_launch.py",
    "tests/pipeline/test_own.py",
    "tests/pipeline/test_watching.py",
    "tests/workers/test_hardship.py",
    "tests/workers/test_pools.py",
}
"""The files with tests that share a Ray cluster; to pytest-xdist they are one."""

started: list[tuple[str, str]] = []
"""(marker, command) of everything that this process has started."""

_obliges: dict[tuple[str, str], list[tuple[str, str]]] = {}
"""Where a fixture is defined, and its name -> what it has started."""


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        command = " ".join(map(str, arguments[1]))
        started.extend((marker, command) for marker, pattern in COMMANDS.items() if pattern.search(command))
    elif event == "socket.bind" and sys._getframe(1).f_globals.get("__name__") == "socketserver":
        started.append(("server", f"a server at {arguments[1]}"))


sys.addaudithook(_listen)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by their fixtures, and leave out tests marked `soak` unless -m names that marker."""
    for item in items:
        for marker in {FIXTURES[name] for name in FIXTURES.keys() & set(fixtures_of(item))}:
            item.add_marker(marker)
    paths = list(dict.fromkeys(item.path for item in items))
    order = {path: i for i, path in enumerate(sorted(paths, key=_longest_first(items)))}
    items.sort(key=lambda item: (not _shares_cluster(item), order[item.path]))
    if "soak" not in config.option.markexpr:
        long = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def _shares_cluster(item: pytest.Item) -> bool:
    return "cluster" in fixtures_of(item)


def _longest_first(items: list[pytest.Item]) -> Callable[[Path], float]:
    """A key that sorts files by about how long they take, which their tests' markers tell."""
    seconds: Counter[Path] = Counter()
    for item in items:
        markers = {mark.name for mark in item.iter_markers()}
        if "soak" not in markers:
            seconds[item.path] += max([1, *(SECONDS[name] for name in markers & SECONDS.keys())])
    return lambda path: -seconds[path]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With --dist loadfile, keep tests together that share the cluster, in the order of the collection."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = super()._split_scope(nodeid)
            return "those that share the cluster" if path in SHARING else path

    config.option.loadscopereorder = False
    return Together(config, log)


def fixtures_of(item: pytest.Item) -> list[str]:
    """The names of all fixtures that a test uses, directly or through other fixtures."""
    return list(getattr(item, "fixturenames", ()))


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
    before = len(started)
    try:
        return (yield)
    finally:
        if fixturedef.scope != "function" and started[before:]:
            _obliges[fixturedef.baseid, fixturedef.argname] = started[before:]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    own = item.stash[_BEFORE]
    inherited = [
        each
        for (baseid, name), those in _obliges.items()
        if name in fixtures_of(item) and item.nodeid.startswith(baseid)
        for each in those
    ]
    for marker, command in [*started[own:], *inherited]:
        if item.get_closest_marker(marker) is None:
            pytest.fail(f"the test starts {command[:200]!r}: mark it with @pytest.mark.{marker}", pytrace=False)
    return result


_BEFORE = pytest.StashKey[int]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_BEFORE] = len(started)
