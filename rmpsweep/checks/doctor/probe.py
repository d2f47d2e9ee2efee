"""What a machine can say of itself: asked here, and on every node by a task of Ray."""

import hashlib
import os
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

import rmpsweep
from rmpsweep import environment
from rmpsweep.data import cache_dir
from rmpsweep.models.registry import build_from_module
from rmpsweep.models.weights import file_sha256
from rmpsweep.storage import Location
from rmpsweep.sweep.schema import Sweep


@dataclass(frozen=True)
class Machine:
    """versions: package -> version, rmpsweep's with a digest of its files; gpus: that torch sees; free_bytes: where
    temporary files go, Ray's among them; token: whether Ray asks for one."""

    versions: dict[str, str]
    gpus: int
    free_bytes: int
    token: bool


def machine() -> Machine:
    """This machine."""
    import torch

    versions = environment.versions()
    del versions["mlflow"]  # only the driver logs
    versions["rmpsweep"] += f" ({source_digest()})"
    free = shutil.disk_usage(tempfile.gettempdir()).free
    token = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"  # Ray's processes hand it on
    return Machine(versions, torch.cuda.device_count(), free, token)


def source_digest() -> str:
    """8 hex digits of rmpsweep's own files: checkouts of one version may differ."""
    root = Path(rmpsweep.__file__).parent
    content = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return content.hexdigest()[:8]


def fingerprints(sweep: Sweep) -> tuple[str, str]:
    """Of the images evaluated and of those that calibrate. Raises DataError."""
    data = sweep.data
    first, second = (data.open(split) for split in (data.split, data.calibration_split))
    return first.fingerprint, second.fingerprint


def network_digest(module: str | None, weights: Path) -> str:
    """SHA-256 of the weights; a network of the user's is built once, too. Raises NetworkError."""
    if module is not None:
        build_from_module(module)
    return file_sha256(weights)


def nearest(directory: Path) -> Path:
    """The directory, or the nearest one above it that exists."""
    return next(path for path in (directory, *directory.absolute().parents) if path.exists())


def write_cache() -> str:
    """Write into the cache; where it is. Raises OSError."""
    directory = cache_dir()
    existing = nearest(directory)
    remove(existing, write(existing))
    return str(directory)


def write(directory: Location) -> str:
    """Write a file into a directory that exists; its name, which is what is in it. Raises OSError."""
    name = f".rmpsweep-{uuid.uuid4().hex}"
    (directory / name).write_bytes(name.encode())
    return name


def holds(directory: Location, name: str) -> bool:
    """Whether the file that `write` wrote is there. Raises StorageError."""
    try:
        return (directory / name).read_bytes() == name.encode()
    except FileNotFoundError:
        return False


def remove(directory: Location, name: str) -> None:
    """Remove the file that `write` wrote. Raises OSError."""
    (directory / name).unlink(missing_ok=True)
