"""Where a sweep is computed."""

from dataclasses import dataclass

from rmpsweep.errors import SweepError
from rmpsweep.sweep.schema import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """In this process, or on Ray. Raises SweepError for values that contradict each other."""

    inline: bool = False
    """In this process, without Ray."""
    actors: int | None = None
    """Ray actors, one network each; None leaves the number to the sweep or the cluster."""
    address: str | None = None
    """A Ray cluster, "auto" or host:port. None takes the Ray that this process uses already, or starts one here."""

    def __post_init__(self) -> None:
        if self.inline and (self.actors is not None or self.address is not None):
            raise SweepError("--inline runs in this process without Ray: give it, or --actors and --address, not both")
        if self.actors is not None and self.actors < 1:
            raise SweepError(f"--actors: got {self.actors}, expected at least 1")

    def __str__(self) -> str:
        return "this process" if self.inline else f"Ray, {self.address or 'started here'}"

    def workers(self, run: Run) -> int | None:
        """How many workers there will be; None where the cluster decides."""
        return 1 if self.inline else self.actors or run.actors
