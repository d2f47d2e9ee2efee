"""The events that a launch sends to its caller while it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rmpsweep.workers.events import Event as WorkEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """A sentence for people: what happens next, or a warning."""

    text: str

    def plain(self) -> dict[str, Any]:
        """The event as plain values, as `rmpsweep launch --json` prints it."""
        return {"event": "message", "text": self.text}


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexGrew:
    """The making of an index of the images has come further."""

    split: str
    done: int
    """The number of images indexed so far."""
    total: int | None
    """The number of images to index; None while it is not known."""

    def plain(self) -> dict[str, Any]:
        """The event as plain values, as `rmpsweep launch --json` prints it."""
        return {"event": "index", "split": self.split, "done": self.done, "total": self.total}


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochEnded:
    """An epoch has ended in the training of weights that were missing."""

    report: Any
    """The report on the epoch, as `rmpsweep.models.training` makes it."""

    def plain(self) -> dict[str, Any]:
        """The event as plain values, as `rmpsweep launch --json` prints it."""
        report = self.report
        return {"event": "epoch", "epoch": report.epoch, "epochs": report.epochs, "loss": report.loss}


Event = Message | IndexGrew | EpochEnded | WorkEvent
OnEvent = Callable[[Event], None]
