import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests are small: a thread pool costs more than it gives
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
sys.path.insert(0, str(Path(__file__).parent / "engine"))

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
    """Run the command with --json in a process of its own; its document."""
    command = [sys.executable, "-m", "rmpsweep", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == expected, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout) if done.stdout.strip() else {}
