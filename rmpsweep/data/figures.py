"""How fast images came in, and whether the engine waited for them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

WAIT_WORTH_SAYING, WAIT_WORTH_SAYING_S = 0.1, 10.0
"""A larger part of the time, and more seconds in all, are worth a warning."""


@dataclass
class InputFigures:
    """Of one job, or of several added up.

    images_decoded, images_cached: decoded, and taken from the cache; decode_s: seconds of all decoding threads
    together, reading included; wait_s, busy_s: seconds the engine waited for images, and worked on them.
    """

    images_decoded: int = 0
    images_cached: int = 0
    decode_s: float = 0.0
    wait_s: float = 0.0
    busy_s: float = 0.0

    def __add__(self, other: "InputFigures") -> "InputFigures":
        return InputFigures(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    @property
    def decoded_images_per_s(self) -> float | None:
        """Of one thread; None where nothing was decoded."""
        return self.images_decoded / self.decode_s if self.decode_s else None

    @property
    def wait_fraction(self) -> float | None:
        """Of the engine's time, in [0, 1]; None where there was none."""
        total = self.wait_s + self.busy_s
        return self.wait_s / total if total else None

    def document(self) -> dict[str, Any]:
        """As JSON values, with what follows from them; of what `read` gives, the same again."""
        kept = {name: round(value, 4) for name, value in asdict(self).items()}
        rounded = InputFigures(**kept)
        return kept | {"decoded_images_per_s": rounded.decoded_images_per_s, "wait_fraction": rounded.wait_fraction}

    @classmethod
    def read(cls, document: Mapping[str, Any] | None) -> Self:
        """What `document` gave; nothing for None, of launches that did not count."""
        return cls(**{each.name: document[each.name] for each in fields(cls)}) if document else cls()

    def __str__(self) -> str:
        """One line; empty where no image came in."""
        said = []
        if self.decoded_images_per_s is not None:
            said.append(
                f"{self.images_decoded:,} images decoded at {self.decoded_images_per_s:.3g} a second and thread"
            )
        if self.images_cached:
            said.append(f"{self.images_cached:,} taken from the cache")
        if said and self.wait_fraction is not None:
            said.append(f"the engine waited for input {self.wait_fraction:.1%} of the time")
        return ", ".join(said)

    def advice(self) -> str | None:
        """What to do where the engine waited much; else None."""
        fraction = self.wait_fraction
        if fraction is None or fraction <= WAIT_WORTH_SAYING or self.wait_s <= WAIT_WORTH_SAYING_S:
            return None
        return (
            f"the engine waited for input {fraction:.0%} of the time: give every actor more CPU cores (fewer actors "
            "on a node), keep decoded images with run.decoded_cache_gb, or store the images smaller"
        )
