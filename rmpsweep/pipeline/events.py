"""What a launch tells its caller while it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rmpsweep.workers.events import Event as WorkEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A sentence for people: what happens next, or a warning."""

    text: str

    def plain(self) -> dict[str, Any]:
        """The JSON line of `--json`."""
        return {"event": "message", "text": self.text}


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexGrew:
    """An index of the images is being made."""

    split: str
    done: int
    """Images so far."""
    total: int | None
    """None while nobody knows how many there are."""

    def plain(self) -> dict[str, Any]:
        """The JSON line of `--json`."""
        return {"event": "index", "split": self.split, "done": self.done, "total": self.total}


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochEnded:
    """An epoch of the training of missing weights has ended."""

    report: Any
    """What `rmpsweep.models.training` says of it."""

    def plain(self) -> dict[str, Any]:
        """The JSON line of `--json`."""
        report = self.report
        return {"event": "epoch", "epoch": report.epoch, "epochs": report.epochs, "loss": report.loss}


Event = Message | IndexGrew | EpochEnded | WorkEvent
OnEvent = Callable[[Event], None]
