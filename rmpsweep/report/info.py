"""What a report is told beyond the tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rmpsweep.stats.sequential import Defeat


class SearchInfo(Protocol):
    """What the page says of an adaptive search; `rmpsweep.results.SearchFile` documents each value."""

    @property
    def error(self) -> float: ...
    @property
    def time_steps(self) -> Sequence[int]: ...
    @property
    def images(self) -> int: ...
    @property
    def over(self) -> bool: ...
    @property
    def stopped(self) -> Mapping[str, Sequence[Defeat]]: ...
    @property
    def added(self) -> Sequence[str]: ...
    @property
    def image_steps(self) -> int: ...
    @property
    def image_steps_of_grid(self) -> int: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportInfo:
    """What the page says beyond the tables."""

    name: str
    """Name of the sweep."""
    network: str
    dataset: str
    ann_correct: int
    """Images the ANN classifies correctly, of `ann_images`."""
    ann_images: int
    images_planned: int
    images_skipped: int
    """Of the split; they cannot be decoded, and are in no other number."""
    versions: Mapping[str, str]
    """Package or program -> version."""
    hardware: str
    sweep_yaml: str
    """Text of the resolved sweep."""
    quarantined: Sequence[tuple[str, str]] = ()
    """(unit, message) of each unit that failed for good."""
    warnings: Sequence[str] = ()
    calibration: Sequence[Mapping[str, Any]] = ()
    """Rows with rule, layer, channel and threshold."""
    input: str = ""
    """How images came in, where any did."""
    search: SearchInfo | None = None
    """None for a sweep that evaluates its whole grid."""

    @property
    def ann_accuracy(self) -> float:
        """Fraction in [0, 1]; 0 while the ANN has no images."""
        return self.ann_correct / self.ann_images if self.ann_images else 0.0


@dataclass(frozen=True, slots=True)
class Pictures:
    """Images to show, and what their classes are called.

    uris: image_id -> data URI; class_names: by label, empty where nobody says; missing: why there are no images, a
    sentence's end.
    """

    uris: Mapping[int, str] = field(default_factory=dict)
    class_names: Sequence[str] = ()
    missing: str = ""


Fetch = Callable[[Sequence[int]], Pictures]
"""image_ids -> pictures of them, or why there are none; raises nothing."""


def no_pictures(_: Sequence[int]) -> Pictures:
    """Where nobody knows where the images are."""
    return Pictures(missing="the report was made without them")
