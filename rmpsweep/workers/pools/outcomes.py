"""What every pool makes of an error."""

from collections.abc import Callable
from typing import Any

from rmpsweep.workers.events import Cause, Outcome

MakeWorker = Callable[[int | None, str | None], Any]
"""Given CPU threads (None: torch's default) and device (None: a GPU if any), makes a worker with `setup`, `run` and
`beat`."""


def failed_outcome(job: Any, error: Exception, detail: str, worker: str, log: str) -> Outcome:
    """Of a job that raised."""
    message = f"{type(error).__name__}: {first_line(error)}{see(log)}"
    cause: Cause = "memory" if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" else ""
    return Outcome(job, "failed", None, error, message, detail, cause, worker, log)


def first_line(error: object) -> str:
    """What a message says of an error."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def see(log: str) -> str:
    """Where to read on."""
    return f" (log: {log})" if log else ""
