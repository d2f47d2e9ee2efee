"""Where a sweep is computed."""

from dataclasses import dataclass

from rmpsweep.errors import SweepError
from rmpsweep.sweep.schema import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where workers run: in this process or on Ray. Values that contradict each other raise SweepError."""

    inline: bool = False
    """Whether to compute in this process, without Ray."""
    actors: int | None = None
    """The number of Ray actors, each of which holds one network; None leaves it to the sweep or the cluster."""
    address: str | None = None
    """The Ray cluster, "auto" or host:port. None uses the Ray of this process, or starts one on this machine."""

    def __post_init__(self) -> None:
        if self.inline and (self.actors is not None or self.address is not None):
            raise SweepError("--inline runs in this process without Ray: give it, or --actors and --address, not both")
        if self.actors is not None and self.actors < 1:
            raise SweepError(f"--actors: got {self.actors}, expected at least 1")

    def __str__(self) -> str:
        return "this process" if self.inline else f"Ray, {self.address or 'started here'}"

    def workers(self, run: Run) -> int | None:
        """The number of workers that will run; None where the cluster decides."""
        return 1 if self.inline else self.actors or run.actors
