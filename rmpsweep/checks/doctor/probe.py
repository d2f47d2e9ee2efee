"""Questions about a machine, which are asked here and, as Ray tasks, on every node of a cluster."""

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
    """What a machine reports about itself."""

    versions: dict[str, str]
    """Package -> version; rmpsweep's version includes a digest of its files."""
    gpus: int
    """Number of GPUs that torch sees."""
    free_bytes: int
    """Free space for temporary files, where Ray keeps its own too."""
    token: bool
    """Whether Ray asks for a token."""


def machine() -> Machine:
    """Describe this machine."""
    import torch

    versions = environment.versions()
    del versions["mlflow"]  # only the driver logs
    versions["rmpsweep"] += f" ({source_digest()})"
    free = shutil.disk_usage(tempfile.gettempdir()).free
    token = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"  # Ray's processes hand the variable on
    return Machine(versions, torch.cuda.device_count(), free, token)


def source_digest() -> str:
    """Digest of rmpsweep's own files, 8 hex digits, since checkouts of one version may differ."""
    root = Path(rmpsweep.__file__).parent
    content = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return content.hexdigest()[:8]


def fingerprints(sweep: Sweep) -> tuple[str, str]:
    """Fingerprints of the evaluated split and of the calibration split. Raises DataError."""
    data = sweep.data
    first, second = (data.open(split) for split in (data.split, data.calibration_split))
    return first.fingerprint, second.fingerprint


def network_digest(module: str | None, weights: Path) -> str:
    """SHA-256 of the weights file. A network of the user's own module is also built once. Raises NetworkError."""
    if module is not None:
        build_from_module(module)
    return file_sha256(weights)


def nearest(directory: Path) -> Path:
    """Return the directory, or the nearest parent that exists."""
    return next(path for path in (directory, *directory.absolute().parents) if path.exists())


def write_cache() -> str:
    """Write a file into the cache, remove it, and return the cache's path. Raises OSError."""
    directory = cache_dir()
    existing = nearest(directory)
    remove(existing, write(existing))
    return str(directory)


def write(directory: Location) -> str:
    """Write a file into an existing directory and return its name, which is also its content. Raises OSError."""
    name = f".rmpsweep-{uuid.uuid4().hex}"
    (directory / name).write_bytes(name.encode())
    return name


def holds(directory: Location, name: str) -> bool:
    """Whether the directory holds the file that `write` wrote. Raises OSError, StorageError."""
    try:
        return (directory / name).read_bytes() == name.encode()
    except FileNotFoundError:
        return False


def remove(directory: Location, name: str) -> None:
    """Remove the file that `write` wrote, if it exists. Raises OSError."""
    (directory / name).unlink(missing_ok=True)
