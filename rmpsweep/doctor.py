"""Can this machine run a sweep? One finding for each thing a launch needs, with a remedy where it lacks."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from rmpsweep import environment
from rmpsweep.data import cache_dir
from rmpsweep.driver import Driver
from rmpsweep.errors import RmpsweepError
from rmpsweep.storage import Location, ObjectPath
from rmpsweep.work import Limits

FREE_BYTES = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One check: what was found, and what to do where it is not ok."""

    check: str
    ok: bool
    detail: str
    remedy: str = ""


def examine(results: Location, mlflow_uri: str | None) -> list[Finding]:
    """Run every check; none raises."""
    checks: list[tuple[str, Callable[[], str], str]] = [
        ("packages", _packages, "pip install rmpsweep"),
        ("device", _device, ""),
        ("ray", _ray, "run with --inline, or repair the Ray installation"),
        ("results", lambda: _writable(results), "name another directory with --results"),
        ("cache", lambda: _writable(cache_dir()), "set RMPSWEEP_CACHE to a directory that can be written"),
    ]
    if mlflow_uri not in (None, "none"):
        checks.append(("mlflow", lambda: _mlflow(str(mlflow_uri)), "start the server, or name another with --mlflow"))
    return [_finding(*check) for check in checks]


def _finding(name: str, check: Callable[[], str], remedy: str) -> Finding:
    try:
        return Finding(name, True, check())
    except (RmpsweepError, OSError, ImportError, RuntimeError) as error:
        return Finding(name, False, str(error) or type(error).__name__, remedy)


def _packages() -> str:
    return ", ".join(f"{name} {version}" for name, version in environment.versions().items())


def _device() -> str:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{', '.join(gpus) or 'no GPU'}; {environment.hardware()}; {memory:.0f} GiB memory"


def _ray() -> str:
    from rmpsweep.pools import RayPool

    with contextlib.closing(RayPool(_Idle, 1, gpus_per_worker=0)) as pool:
        Driver(pool, Limits(schedule_s=60, setup_s=60, stall_s=60)).execute([_Ping()])
    return "an actor started and answered"


class _Idle:
    """A worker that only answers."""

    def __init__(self, threads: int | None, device: str | None) -> None:
        del threads, device

    def setup(self) -> str:
        return "ready"

    def beat(self) -> tuple[int, float]:
        return 0, 0.0

    def run(self, job: "_Ping") -> str:
        return job.job_id


class _Ping:
    """A job without work."""

    job_id, cost = "ping", 1.0

    def sparing(self) -> "_Ping":
        return self


def _writable(directory: Location) -> str:
    if isinstance(directory, ObjectPath):
        directory.check_bucket()
        _probe(directory)
        return f"{directory} can be written"
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    _probe(existing)
    free = shutil.disk_usage(existing).free
    if free < FREE_BYTES:
        raise OSError(f"{existing} has {free / 2**30:.2f} GiB free, expected at least {FREE_BYTES / 2**30:.0f}")
    return f"{existing} can be written, {free / 2**30:.0f} GiB free"


def _probe(directory: Location) -> None:
    probe = directory / f".rmpsweep-{uuid.uuid4().hex}"
    probe.write_bytes(b"probe")
    probe.unlink()


def _mlflow(uri: str) -> str:
    from rmpsweep.tracking import check_uri

    check_uri(uri)
    return uri
