"""How Numba compiles: without the interpreter's lock, kept on disk where there is a place for it."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(function: Callable[..., Any]) -> Any:
    """Compile on first use; later processes find it in `__pycache__`, in NUMBA_CACHE_DIR or in the user's cache."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # none of these can be written to
        return njit(nogil=True)(function)
