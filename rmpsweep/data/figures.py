"""Figures of image input: how fast images came in, and whether the engine waited for them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

WAIT_WORTH_SAYING, WAIT_WORTH_SAYING_S = 0.1, 10.0
"""`InputFigures.advice` warns if the engine waited for more than this fraction of its time, and for more than this many
seconds in all."""


@dataclass
class InputFigures:
    """The figures of one job, or the sum over several jobs."""

    images_decoded: int = 0
    images_cached: int = 0
    """Images that were taken from the cache of decoded images instead."""
    decode_s: float = 0.0
    """Seconds that all decoding threads together spent reading and decoding images."""
    wait_s: float = 0.0
    """Seconds that the engine waited for images."""
    busy_s: float = 0.0
    """Seconds that the engine worked on images."""

    def __add__(self, other: "InputFigures") -> "InputFigures":
        return InputFigures(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    @property
    def decoded_images_per_s(self) -> float | None:
        """Images that one thread decodes per second; None if no image was decoded."""
        return self.images_decoded / self.decode_s if self.decode_s else None

    @property
    def wait_fraction(self) -> float | None:
        """The fraction of its time, in [0, 1], that the engine waited for images; None if no time was counted."""
        total = self.wait_s + self.busy_s
        return self.wait_s / total if total else None

    def document(self) -> dict[str, Any]:
        """The figures as JSON values, along with the rates that follow from them.

        Figures that `read` took from a document give the same document again.
        """
        kept = {name: round(value, 4) for name, value in asdict(self).items()}
        rounded = InputFigures(**kept)
        return kept | {"decoded_images_per_s": rounded.decoded_images_per_s, "wait_fraction": rounded.wait_fraction}

    @classmethod
    def read(cls, document: Mapping[str, Any] | None) -> Self:
        """Read figures from a document; None, from launches that did not count, gives zeros."""
        return cls(**{each.name: document[each.name] for each in fields(cls)}) if document else cls()

    def __str__(self) -> str:
        """The figures in one line; empty if no image came in."""
        said = []
        if self.decoded_images_per_s is not None:
            said.append(
                f"{self.images_decoded:,} images decoded at {self.decoded_images_per_s:.3g} per second and thread"
            )
        if self.images_cached:
            said.append(f"{self.images_cached:,} taken from the cache")
        if said and self.wait_fraction is not None:
            said.append(f"the engine waited for input {self.wait_fraction:.1%} of the time")
        return ", ".join(said)

    def advice(self) -> str | None:
        """What to do about an engine that waited a lot; None if it did not."""
        fraction = self.wait_fraction
        if fraction is None or fraction <= WAIT_WORTH_SAYING or self.wait_s <= WAIT_WORTH_SAYING_S:
            return None
        return (
            f"the engine waited for input {fraction:.0%} of the time: give every actor more CPU cores (fewer actors "
            "on a node), keep decoded images with run.decoded_cache_gb, or store the images smaller"
        )
