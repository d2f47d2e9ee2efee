"""The environment of a run: versions, processor, git commit, and functions from outside the package."""

import hashlib
import importlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from rmpsweep.errors import InputError

_SOURCES: dict[str, str] = {}
"""Name of an imported module -> the SHA-256 of the source it was imported from."""


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that can change a result or a file."""
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
    """The number of processors that this process may use; schedulers and `taskset` can restrict it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def git() -> dict[str, Any] | None:
    """The "commit" of the checkout this package runs from, and whether the package is "dirty"; None outside a checkout.

    The package is dirty if any of its files differs from the commit.
    """
    where = Path(__file__).parent

    def run(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(where), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        run("ls-files", "--error-unmatch", __file__)
        return {"commit": run("rev-parse", "HEAD"), "dirty": bool(run("status", "--porcelain", "--", str(where)))}
    except (OSError, subprocess.CalledProcessError):
        return None


def find_function(spec: str, key: str, error: type[InputError]) -> Callable[..., Any]:
    """Import the function that "package.module:function" names; the module may be in the current directory.

    A module whose source has changed since it was imported is imported again.

    Args:
        spec: the name of the function.
        key: the key of the sweep file that holds `spec`, for messages.
        error: the class of the exception to raise.
    Raises:
        error: `spec` has another form, the module cannot be imported, or the module has no such function.
    """
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise error(f"{key}: got {spec!r}, expected 'package.module:function'")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = _imported(module_name)
    except Exception as reason:  # importing runs the user's module, which can raise anything
        raise error(
            f"{key}: {spec}: cannot import {module_name} ({type(reason).__name__}: {reason}); "
            "is it installed, or in the current directory?"
        ) from reason
    function = getattr(module, name, None)
    if not callable(function):
        found = ", ".join(each for each, value in vars(module).items() if callable(value) and each[0] != "_")
        raise error(f"{key}: {spec}: {module_name} has no function {name}; it has {found or 'none'}")
    return function  # type: ignore[no-any-return]


def source_digest(spec: str) -> str:
    """The SHA-256 (hex) of the source of a module that `find_function` has imported; empty if it has no file."""
    return _digest(sys.modules[spec.partition(":")[0]])


def _imported(name: str) -> ModuleType:
    importlib.invalidate_caches()
    module = importlib.import_module(name)
    digest = _digest(module)
    if _SOURCES.setdefault(name, digest) != digest:
        module = importlib.reload(module)
        _SOURCES[name] = digest
    return module


def _digest(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
