"""What a report is given besides the tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rmpsweep.stats.sequential import Defeat


class SearchInfo(Protocol):
    """What the page reads of an adaptive search; `rmpsweep.results.SearchFile` documents each value."""

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
    """What the page shows besides the tables."""

    name: str
    """Name of the sweep."""
    network: str
    dataset: str
    ann_correct: int
    """How many of `ann_images` images the ANN classifies correctly."""
    ann_images: int
    images_planned: int
    images_skipped: int
    """Number of images of the split that cannot be decoded; no other number includes them."""
    versions: Mapping[str, str]
    """Package or program -> version."""
    hardware: str
    sweep_yaml: str
    """The resolved sweep as YAML."""
    quarantined: Sequence[tuple[str, str]] = ()
    """(unit id, message) of each unit that failed for good."""
    warnings: Sequence[str] = ()
    calibration: Sequence[Mapping[str, Any]] = ()
    """Rows with rule, layer, channel and threshold."""
    input: str = ""
    """How fast images were read and decoded, in words; "" if none were."""
    search: SearchInfo | None = None
    """The adaptive search; None for a sweep that evaluates its whole grid."""

    @property
    def ann_accuracy(self) -> float:
        """The ANN's accuracy, a fraction in [0, 1]; 0 while the ANN has not been evaluated."""
        return self.ann_correct / self.ann_images if self.ann_images else 0.0


@dataclass(frozen=True, slots=True)
class Pictures:
    """Images to show, and the names of classes."""

    uris: Mapping[int, str] = field(default_factory=dict)
    """image_id -> data URI."""
    class_names: Sequence[str] = ()
    """The names of the classes by label; empty if they are not known."""
    missing: str = ""
    """Why there are no images, as the end of a sentence; "" if there are."""


Fetch = Callable[[Sequence[int]], Pictures]
"""A function: image_ids -> pictures of these images, or why there are none. It must not raise."""


def no_pictures(_: Sequence[int]) -> Pictures:
    """The `Fetch` for reports without images."""
    return Pictures(missing="the report was made without them")
