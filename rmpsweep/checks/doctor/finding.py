"""What a check comes to."""

from collections.abc import Callable
from dataclasses import dataclass

from rmpsweep.errors import RmpsweepError


@dataclass(frozen=True)
class Finding:
    """One check: what was found, and what to do where it is not ok."""

    check: str
    ok: bool
    detail: str
    remedy: str = ""


def look(check: str, into: Callable[[], str], remedy: str) -> Finding:
    """ok with what the function returns, or a problem with what it raises."""
    try:
        return Finding(check, True, into())
    except (RmpsweepError, OSError, ImportError, RuntimeError) as error:
        return Finding(check, False, str(error).strip() or type(error).__name__, remedy)
