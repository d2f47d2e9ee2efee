"""Compiles functions with Numba. They run without the interpreter's lock, and their machine code is cached on disk.

Numba itself compiles a function anew only when the function's own file changes. The machine code also contains
constants and intrinsics from other files, so the cache is a folder named after the digest of them all.
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
    "cpu/gather.py",
    "cpu/kernels.py",
    "cpu/lanes.py",
    "cpu/strips.py",
    "cpu/update.py",
    "encode.py",
    "kernels.py",
    "neuron.py",
    "numerics.py",
    "../terms.py",
)
"""The files of this package whose functions and constants end up in machine code."""


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function on its first call.

    If the cache can be written to, later processes load the function from there.
    """
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
    """Return the cache folder, or None if there is no place for it.

    The folder lies in the first place that can be written to of those where Numba looks: NUMBA_CACHE_DIR, `__pycache__`
    beside the function's file, and the user's cache.
    """
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
    """Return the first 16 hex digits of the SHA-256 of the sources."""
    content = hashlib.sha256()
    for name in SOURCES:
        content.update(f"{name}\0".encode() + (Path(__file__).parent / name).read_bytes())
    return content.hexdigest()[:16]
