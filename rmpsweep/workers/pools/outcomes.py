"""Turn errors into outcomes and messages, in the same way for all pools."""

from typing import Any

from rmpsweep.workers.protocol import Cause, Outcome


def failed_outcome(job: Any, error: Exception, detail: str, worker: str, log: str) -> Outcome:
    """Make the outcome of a job that raised an error."""
    message = f"{type(error).__name__}: {first_line(error)}{see(log)}"
    cause: Cause = "memory" if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" else ""
    return Outcome(
        job=job, kind="failed", error=error, message=message, detail=detail, cause=cause, worker=worker, log=log
    )


def first_line(error: object) -> str:
    """Return the first line of an error's message, or its type if it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def see(log: str) -> str:
    """Return the end of a message, which names the log to read; "" without a log."""
    return f" (log: {log})" if log else ""
