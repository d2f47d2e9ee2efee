"""Tests that start Ray, a server or a browser carry a marker that says so; one that does not is failed here.

A pytest plugin. What a test starts is seen by an audit hook, in its fixtures too: a fixture that lives longer than the
test that set it up obliges every later test that uses it.
"""

import re
import sys
from collections.abc import Generator
from typing import Any

import pytest

FIXTURES = {"cluster": "ray", "dashboard": "ray", "ports": "server", "web": "server", "browser": "browser"}
"""Fixtures whose users are marked without saying so, by name."""

COMMANDS = {
    "ray": re.compile(
        r"/raylet |/gcs_server |/ray start |helpers/chaos\.py|ray\.cluster_utils"
        r"|-m rmpsweep (launch|verify|doctor) (?!.*(--inline|--help|--address))"
    ),
    "server": re.compile(r"mlflow server|moto\.server|gcp-storage-emulator start"),
    "browser": re.compile(r"chromedriver"),
}
"""Command lines that start each of them; with --address the command uses a cluster that something else has started."""

started: list[tuple[str, str]] = []
"""Marker and command of everything that this process has started."""

_obliges: dict[tuple[str, str], list[tuple[str, str]]] = {}
"""What each fixture has started, by where it is defined and its name."""


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        command = " ".join(map(str, arguments[1]))
        started.extend((marker, command) for marker, pattern in COMMANDS.items() if pattern.search(command))
    elif event == "socket.bind" and sys._getframe(1).f_globals.get("__name__") == "socketserver":
        started.append(("server", f"a server at {arguments[1]}"))


sys.addaudithook(_listen)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks tests by their fixtures, and leaves out `soak` unless -m names it."""
    for item in items:
        for marker in {FIXTURES[name] for name in FIXTURES.keys() & set(fixtures_of(item))}:
            item.add_marker(marker)
    if "soak" not in config.option.markexpr:
        long = [item for item in items if item.get_closest_marker("soak")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def fixtures_of(item: pytest.Item) -> list[str]:
    """The names of all fixtures that a test uses, by itself or through others."""
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
