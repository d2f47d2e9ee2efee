"""How Numba compiles: without the interpreter's lock, and kept on disk under a digest of what was compiled.

Numba itself compiles a function anew when its own file changes. The machine code also holds constants and intrinsics of
other files, so the cache lies in a folder that is named by the digest of them all.
"""

import hashlib
import inspect
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba

SOURCES = (
    "compiled.py",
    "cpu/kernels.py",
    "cpu/lanes.py",
    "encode.py",
    "kernels.py",
    "neuron.py",
    "numerics.py",
    "../terms.py",
)
"""The files of this package whose functions and constants end up in machine code."""


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function on its first call; later processes load it from the cache, where one can be written to."""
    folder = _cache_folder(Path(inspect.getfile(function)).parent)
    if folder is None:
        return numba.njit(nogil=True)(function)
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, folder
    try:
        return numba.njit(nogil=True, cache=True)(function)
    finally:
        numba.config.CACHE_DIR = before


@cache
def _cache_folder(package: Path) -> str | None:
    """The first that can be written to of those where Numba looks: NUMBA_CACHE_DIR, `__pycache__` beside the function's
    file, and the user's cache; None if there is none."""
    given = [Path(numba.config.CACHE_DIR)] if numba.config.CACHE_DIR else []
    user = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "numba"
    for folder in (*given, package / "__pycache__", user):
        try:
            (folder / _digest()).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder / _digest()).close()
        except OSError:
            continue
        return str(folder / _digest())
    return None


@cache
def _digest() -> str:
    """16 hex digits of the SHA-256 of the sources."""
    content = hashlib.sha256()
    for name in SOURCES:
        content.update(f"{name}\0".encode() + (Path(__file__).parent / name).read_bytes())
    return content.hexdigest()[:16]
