"""The result of a check."""

from collections.abc import Callable
from dataclasses import dataclass

from rmpsweep.errors import RmpsweepError


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str
    """Name of the check."""
    ok: bool
    detail: str
    """What was found."""
    remedy: str = ""
    """What to do if the check is not ok."""


def look(check: str, into: Callable[[], str], remedy: str) -> Finding:
    """Make a finding: ok with the text that the function returns, or a problem with the error that it raises."""
    try:
        return Finding(check, True, into())
    except (RmpsweepError, OSError, ImportError, RuntimeError) as error:
        return Finding(check, False, str(error).strip() or type(error).__name__, remedy)
