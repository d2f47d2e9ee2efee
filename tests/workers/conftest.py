"""The sweep of a network that misbehaves on demand, once for each module that asks for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.faulty import Faults, prepared


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what the tests of a module share."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def faulty(folder: Path) -> Iterator[tuple[Path, Faults]]:
    """The sweep and its faults; launches and clusters started from now on find both in their environment."""
    with prepared(folder) as sweep_and_faults:
        yield sweep_and_faults


@pytest.fixture(scope="module")
def sweep(faulty: tuple[Path, Faults]) -> Path:
    return faulty[0]


@pytest.fixture(scope="module")
def faults(faulty: tuple[Path, Faults]) -> Faults:
    return faulty[1]
