import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.helpers.commands import TINY, rmpsweep

if TYPE_CHECKING:
    from tests.helpers.chaos import LocalCluster
    from tests.helpers.faulty import Faults, Faulty

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # tests start some hundred processes: each would compile the package
os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels for GPUs run in Triton's interpreter here
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests are small: a thread pool costs more than it gives
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

pytest_plugins = ("tests.helpers.markers",)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small VGG trained on digits for a few epochs."""
    from rmpsweep.data import open_split
    from rmpsweep.models.recipe import Recipe
    from rmpsweep.models.training import train

    path = tmp_path_factory.mktemp("weights") / "vgg-small.safetensors"
    recipe = Recipe(name="t", network="vgg-small", source="digits", epochs=4, batch_size=32, dropout=0.0)
    train(recipe, *(open_split("digits", None, split, None) for split in ("train", "test")), path, lambda _: None)
    return path


@pytest.fixture
def write_sweep(weights: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the tiny sweep: five trials on digits."""

    def write(shard_size: int = 16) -> Path:
        path = tmp_path / f"tiny-{shard_size}.yaml"
        path.write_text(TINY.format(weights=weights, shard_size=shard_size))
        return path

    return write


@pytest.fixture(scope="session")
def finished(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the tiny sweep on 40 images: three units, of five trials and the ANN. To be read; see `results`.

    They were launched in this process and not logged; the sweep's file is gone.
    """
    home = tmp_path_factory.mktemp("finished")
    sweep = home / "tiny.yaml"
    sweep.write_text(TINY.format(weights=weights, shard_size=16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RMPSWEEP_CACHE", str(home / "cache"))
        rmpsweep("launch", sweep, "--results", home / "results", "--limit", 40, "--inline", "--mlflow", "none")
    sweep.unlink()
    return home / "results"


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished results that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "results"))


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own for this test and its subprocesses."""
    monkeypatch.setenv("RMPSWEEP_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> "Faulty":
    """The sweep of a network that misbehaves on demand."""
    from tests.helpers.faulty import prepare

    return prepare(tmp_path_factory.mktemp("faulty"))


@pytest.fixture(scope="session")
def cluster(faulty: "Faulty") -> "Iterator[LocalCluster]":
    """A Ray cluster that tests share and leave as it is: one node of two CPUs, no GPU."""
    from tests.helpers.chaos import LocalCluster

    with LocalCluster([2], faulty.environment) as cluster:
        yield cluster
        cluster.check_free()


@pytest.fixture(scope="module")
def connected(cluster: "LocalCluster") -> "Iterator[LocalCluster]":
    """The shared cluster, to which this process is connected: launches in it use the connection, and leave it open."""
    import ray

    from rmpsweep.workers.pools.connection import connect

    connect(cluster.address, 1, answer_s=None)
    yield cluster
    cluster.check_free()
    ray.shutdown()


@pytest.fixture(scope="module")
def faults(faulty: "Faulty") -> "Iterator[Faults]":
    """The faults of that network, none at first, for launches of this module and clusters that are started in it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in faulty.environment.items():
            patch.setenv(name, value)
        faulty.faults.set()
        yield faulty.faults
        faulty.faults.set()


@pytest.fixture(scope="module")
def sweep(faulty: "Faulty", faults: "Faults") -> Path:
    """The file of that network's sweep."""
    return faulty.sweep
