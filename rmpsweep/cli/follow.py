"""Shows a launch while it runs."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from rmpsweep.cli.display import Display
from rmpsweep.pipeline.compute import Stop
from rmpsweep.pipeline.events import EpochEnded, Event, IndexGrew, Message

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Follower:
    """Shows the events of a launch. An instance is passed to the launch as `on_event`."""

    def __init__(self, display: Display) -> None:
        self.display, self.units = display, display.units()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Message():
                self.display.line(event.text)
            case IndexGrew():
                self.display.indexing(event.split, event.done, event.total)
            case EpochEnded():
                self.display.epoch(event.report)
            case _:
                self.units.event(event)

    @contextlib.contextmanager
    def stopping(self) -> Iterator[Stop]:
        """Within this context the first SIGINT or SIGTERM asks for a stop, and a second one raises KeyboardInterrupt.

        The value of the context is a function that says whether a stop was asked for.
        """
        asked = False

        def ask(signum: int, frame: FrameType | None) -> None:
            del signum, frame
            nonlocal asked
            if asked:
                raise KeyboardInterrupt
            asked = True
            self.display.line("stopping: units in flight are finished first; a second signal drops them")

        before = {each: signal.signal(each, ask) for each in SIGNALS}
        try:
            with self.units:
                yield lambda: asked
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
