import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels for GPUs run in Triton's interpreter here
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests are small: a thread pool costs more than it gives
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
sys.path.insert(0, str(Path(__file__).parent / "engine"))

LONGEST = (
    "test_resume.py", "test_chaos.py", "test_hardship.py", "test_crash_points.py", "test_pools.py", "test_launch.py",
    "test_triton.py", "test_doctor.py", "test_object_store.py", "test_tutorial.py", "test_watching.py", "test_nodes.py",
    "test_exactness.py", "test_verify.py", "test_packings.py", "test_submit.py", "test_lease.py",
)  # fmt: skip
"""Files that take longest are begun first, so that both processes of `make test` end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


TINY = """
name: tiny
network: {{name: vgg-small, weights: {weights}}}
data: {{source: digits, shard_size: {shard_size}}}
calibration: {{images: 32, time_steps: 8}}
grid:
  - {{reset: [soft, hard], alpha: [0.5, 1.0], threshold: [vin_max]}}
  - {{encoding: poisson, seed: [1], threshold: [activation_p99.9], granularity: channel, alpha: [0.7]}}
time_steps: [4, 12]
run: {{batch_size: 32}}
"""


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


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own for this test and its subprocesses."""
    monkeypatch.setenv("RMPSWEEP_CACHE", str(tmp_path / "cache"))


def rmpsweep(*arguments: object, expected: int = 0) -> dict[str, Any]:
    """Run the command with --json, with Ray in a process of its own; its document."""
    command = [*map(str, arguments), "--json"]
    if "--inline" in command or command[0] != "launch":
        code, output, errors = run_here(command)
    else:
        done = subprocess.run([sys.executable, "-m", "rmpsweep", *command], capture_output=True, text=True, timeout=240)
        code, output, errors = done.returncode, done.stdout, done.stderr
    assert code == expected, f"exit {code}\n{output}\n{errors}"
    return json.loads(output) if output.strip() else {}


def run_here(command: list[str]) -> tuple[int, str, str]:
    """Run the command in this process: exit code, standard output, standard error."""
    from rmpsweep.cli import main

    output, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(errors):
        patch.setattr(sys, "argv", ["rmpsweep", *command])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
    return code, output.getvalue(), errors.getvalue()
