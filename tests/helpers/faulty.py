"""A network that misbehaves in workers, on the units that a file says. Real workers, real losses; faults on demand.

The file is named by RMPSWEEP_FAULTS, which has to be in the environment of the cluster's nodes, and read anew for each
unit: {"setup": fault, "pause_s": seconds for every unit, "slow": [host, seconds for its units], "units": {key of its
first image: fault}, "inline": whether also without workers}.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

SHARD_SIZE = 8
SWEEP = """
name: faulty
network: {{module: "tests.helpers.faulty:network", weights: {weights}}}
data: {{source: digits, shard_size: {shard_size}}}
calibration: {{images: 8, time_steps: 4}}
grid: {{alpha: [0.5, 1.0]}}
time_steps: [2, 4]
"""


class Network(nn.Module):
    """Only the ANN misbehaves, which each unit evaluates once, not its conversion."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, images: Tensor) -> Tensor:
        if isinstance(images, Tensor) and images.dtype == torch.float32:  # is neither traced nor checked
            faults = read_faults()
            time.sleep(pause_s(faults))
            misbehave(faults.get("units", {}).get(key(images[0])))
        return self.layers(images)


def network() -> nn.Module:
    """The factory, for `network.module`."""
    misbehave(read_faults().get("setup"))
    return Network()


def in_worker() -> bool:
    """Whether this is one of Ray's processes."""
    return Path("/proc/self/cmdline").read_bytes().startswith(b"ray::")


def read_faults() -> dict[str, Any]:
    """As the file says at the moment; none outside workers, unless it says otherwise."""
    path = Path(os.environ.get("RMPSWEEP_FAULTS", "nowhere"))
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found if in_worker() or found.get("inline") else {}


def pause_s(faults: dict[str, Any]) -> float:
    """How long this worker's units take."""
    host, seconds = faults.get("slow") or ("", 0.0)
    if host:
        import ray

        if ray.util.get_node_ip_address() == host:
            return float(seconds)
    return float(faults.get("pause_s", 0.0))


def key(image: Tensor) -> str:
    """Of one image."""
    return hashlib.sha1(image.cpu().numpy().tobytes()).hexdigest()


def misbehave(fault: str | None) -> None:
    """Do it."""
    if fault == "exit":
        os._exit(1)
    elif fault == "hang":
        time.sleep(3600)
    elif fault == "raise":
        raise RuntimeError("a bad day")
    elif fault == "memory":
        raise MemoryError("cannot allocate 64 GB")
    elif fault == "grow":
        hog = []
        while len(hog) < 100:  # 6 GiB in 5 s
            hog.append(bytearray(b"x") * 2**26)
            time.sleep(0.05)
        time.sleep(3600)


class Faults:
    """What shall go wrong, from the test's side. number: of the unit, from 0."""

    def __init__(self, path: Path) -> None:
        from rmpsweep.data import image_order, open_split

        self.path = path
        self.split = open_split("digits", None, "test", None)
        self.order = image_order(self.split.num_images)

    def set(
        self,
        units: dict[int, str] | None = None,
        setup: str | None = None,
        pause_s: float = 0.0,
        slow: tuple[str, float] | None = None,
        inline: bool = False,
    ) -> None:
        """From now on this, and nothing else."""
        keys = {}
        for number, fault in (units or {}).items():
            images, _ = self.split.load(self.order[[number * SHARD_SIZE]])
            keys[key(images[0])] = fault
        aside = self.path.with_suffix(".new")
        faults = {"setup": setup, "pause_s": pause_s, "slow": slow, "units": keys, "inline": inline}
        aside.write_text(json.dumps(faults))
        aside.replace(self.path)


def write_sweep(folder: Path) -> Path:
    """The sweep of this network, with random weights."""
    from rmpsweep.models.weights import save_weights

    torch.manual_seed(0)
    weights = folder / "faulty.safetensors"
    save_weights(Network(), weights)
    path = folder / "faulty.yaml"
    path.write_text(SWEEP.format(weights=weights, shard_size=SHARD_SIZE))
    return path


@contextmanager
def prepared(folder: Path) -> Iterator[tuple[Path, Faults]]:
    """The sweep, and its faults, for launches here and on clusters that are started meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RMPSWEEP_CACHE", str(folder / "cache"))
        patch.setenv("RMPSWEEP_FAULTS", str(folder / "faults.json"))
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        yield write_sweep(folder), Faults(folder / "faults.json")
