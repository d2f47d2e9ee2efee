"""What a run ran on and with: versions, processor, commit."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any


def versions() -> dict[str, str]:
    """Of Python and of the packages that can change a result or a file."""
    packages = ("rmpsweep", "torch", "torchvision", "ray", "mlflow", "pyarrow", "numpy")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}}


def hardware() -> str:
    """This machine's processor and core count."""
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = (line.partition(":") for line in cpuinfo.read_text().splitlines())
        model = next((value.strip() for key, _, value in lines if key.strip() == "model name"), "")
    return f"{os.cpu_count()} cores, {model or platform.processor() or platform.machine()}"


def usable_cpus() -> int:
    """Processors this process may use, which schedulers and `taskset` restrict."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def git() -> dict[str, Any] | None:
    """Commit of the checkout this package runs from, None outside one."""
    where = Path(__file__).parent

    def run(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(where), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        run("ls-files", "--error-unmatch", __file__)
        return {"commit": run("rev-parse", "HEAD"), "dirty": bool(run("status", "--porcelain", "--", str(where)))}
    except (OSError, subprocess.CalledProcessError):
        return None
