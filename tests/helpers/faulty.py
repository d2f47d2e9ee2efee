"""A network that misbehaves in real workers, on the units that a file names.

The variable RMPSWEEP_FAULTS, which has to be in the environment of the cluster's nodes, names the file. The file is
read again for each unit: {"setup": fault, "pause_s": seconds for every unit, "slow": [host, seconds for units on that
host], "units": {key of the unit's first image: fault}, "inline": whether to misbehave in the test's own process too}.
A unit that pauses goes on as soon as the file says that it has paused long enough.
"""

import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """A network whose ANN, which each unit evaluates once, misbehaves; its conversion does not."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, images: Tensor) -> Tensor:
        if isinstance(images, Tensor) and images.dtype == torch.float32:  # neither traced nor checked by `convert`
            faults = read_faults()
            pause()
            misbehave(faults.get("units", {}).get(key(images[0])))
        return self.layers(images)


def network() -> nn.Module:
    """The factory that `network.module` names."""
    misbehave(read_faults().get("setup"))
    return Network()


def in_worker() -> bool:
    """Whether this is one of Ray's processes."""
    return Path("/proc/self/cmdline").read_bytes().startswith(b"ray::")


def read_faults() -> dict[str, Any]:
    """Read the faults that the file names at the moment; outside workers there are none unless "inline" is true."""
    path = Path(os.environ.get("RMPSWEEP_FAULTS", "nowhere"))
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found if in_worker() or found.get("inline") else {}


def pause() -> None:
    """Pause for as long as the file says by then."""
    began = time.monotonic()
    while (left := began + pause_s(read_faults()) - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))


def pause_s(faults: dict[str, Any]) -> float:
    """How long each unit of this worker pauses, in seconds."""
    host, seconds = faults.get("slow") or ("", 0.0)
    if host:
        import ray

        if ray.util.get_node_ip_address() == host:
            return float(seconds)
    return float(faults.get("pause_s", 0.0))


def key(image: Tensor) -> str:
    """The key of an image."""
    return hashlib.sha1(image.cpu().numpy().tobytes()).hexdigest()


def misbehave(fault: str | None) -> None:
    """Commit a fault."""
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
    """What a test lets go wrong."""

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
        """Set the faults from now on, in place of earlier ones.

        Args:
            units: number of the unit, from 0 -> its fault.
            setup: a fault while the network is built.
            pause_s: how long every unit pauses, in seconds.
            slow: a host, and how long the units on this host pause instead, in seconds.
            inline: whether there are faults in the test's own process too.
        """
        keys = {}
        for number, fault in (units or {}).items():
            images, _ = self.split.load(self.order[[number * SHARD_SIZE]])
            keys[key(images[0])] = fault
        aside = self.path.with_suffix(".new")
        faults = {"setup": setup, "pause_s": pause_s, "slow": slow, "units": keys, "inline": inline}
        aside.write_text(json.dumps(faults))
        aside.replace(self.path)


def write_sweep(folder: Path) -> Path:
    """Write a sweep of this network, and random weights for it."""
    from rmpsweep.models.weights import save_weights

    torch.manual_seed(0)
    weights = folder / "faulty.safetensors"
    save_weights(Network(), weights)
    path = folder / "faulty.yaml"
    path.write_text(SWEEP.format(weights=weights, shard_size=SHARD_SIZE))
    return path


@dataclass(frozen=True)
class Faulty:
    """The sweep of this network, its faults, and the environment in which launches and clusters find both."""

    sweep: Path
    faults: Faults
    environment: dict[str, str]


def prepare(folder: Path) -> Faulty:
    """Write a sweep, and say where its faults will be."""
    path = folder / "faults.json"
    environment = {
        "RMPSWEEP_CACHE": str(folder / "cache"),
        "RMPSWEEP_FAULTS": str(path),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    return Faulty(write_sweep(folder), Faults(path), environment)
