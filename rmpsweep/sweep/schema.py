"""What a sweep file may say, as frozen pydantic models, and the settings of the trials that it describes."""

import functools
import itertools
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    create_model,
    model_validator,
)

from rmpsweep.data import (
    DEFAULT_TRANSFORMS,
    SOURCES,
    TRANSFORMS,
    ImageSplit,
    OnBadImage,
    OnIndex,
    Transform,
    is_source,
    open_split,
)
from rmpsweep.data.transforms import KEYS, WEIGHTS
from rmpsweep.models.external import is_external
from rmpsweep.models.recipe import Recipe
from rmpsweep.models.registry import NAMES, is_known
from rmpsweep.models.weights import SUFFIXES
from rmpsweep.storage import Location
from rmpsweep.terms import THRESHOLD_METHODS, Encoding, Setting, parse_rule


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _threshold(value: Any) -> Any:
    try:
        parse_rule(value)
    except ValueError:
        raise ValueError(f"expected one of {', '.join(THRESHOLD_METHODS)}") from None
    return value


_SETTING = TypeAdapter(Setting)


def parse_setting(values: Mapping[str, Any]) -> Setting:
    """Make a setting from plain values, such as JSON. Raises ValueError."""
    return _SETTING.validate_python(values)


def _axis(value: Any) -> Any:
    """Turn a list, a single value, {start, stop, num} or {logspace: {start, stop, num}} into a list."""
    if not isinstance(value, dict):
        values = value if isinstance(value, list) else [value]
        if any(isinstance(each, bool) for each in values):
            raise ValueError("expected numbers or words, not true or false")
        return values
    log = set(value) == {"logspace"}
    given = value["logspace"] if log else value
    if not isinstance(given, dict) or set(given) != {"start", "stop", "num"}:
        raise ValueError("expected a list, {start, stop, num} or {logspace: {start, stop, num}}")
    start, stop, num = (given[key] for key in ("start", "stop", "num"))
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (start, stop))
    if not numbers or not isinstance(num, int) or num < 1:
        raise ValueError("expected numbers start and stop, and num an integer >= 1")
    if log and not (start > 0 and stop > 0):
        raise ValueError("expected start and stop > 0 for logspace")
    fractions = [i / max(num - 1, 1) for i in range(num)]
    points = [start * (stop / start) ** f if log else start + (stop - start) * f for f in fractions]
    return [float(f"{point:.12g}") for point in points]


def _unrepeated(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise ValueError("expected values without repeats")
    return values


_KINDS: dict[str, Any] = get_type_hints(Setting, include_extras=True)
_KINDS["threshold"] = Annotated[str, BeforeValidator(_threshold)]


def _axis_type(kind: Any) -> Any:
    values: Any = tuple[kind, ...]
    return Annotated[values, BeforeValidator(_axis), Field(min_length=1), AfterValidator(_unrepeated)]


_AXES: dict[str, Any] = {field.name: (_axis_type(_KINDS[field.name]), (field.default,)) for field in fields(Setting)}
Grid: Any = create_model("Grid", __base__=_Model, **_AXES)
"""The model of a grid. It has one axis for each field of Setting, and every combination of values is a trial."""


class Network(_Model):
    """The network: exactly one of `name` and `module`, with weights, a recipe to train them, or both."""

    name: str | None = None
    """The name of a network in the registry."""
    module: str | None = None
    """A factory from outside the package, as "package.module:factory"."""
    weights: Path | None = None
    """A file or, for the networks of a library, the name of weights that the library publishes."""
    train: Recipe | None = None
    """The recipe that trains the weights where they are missing."""

    @model_validator(mode="after")
    def _complete(self) -> "Network":
        if (self.name is None) == (self.module is None):
            raise ValueError("expected exactly one of name and module")
        if self.name is not None and not is_known(self.name):
            raise ValueError(f"name: got {self.name!r}, expected one of {NAMES}")
        if self.weights is None and self.train is None:
            raise ValueError("expected weights (a file), or train (a recipe that makes them)")
        if self.train is not None and self.train.network != self.name:
            raise ValueError(f"train: the recipe trains {self.train.network!r}, not {self.name or self.module!r}")
        if self.train is not None and is_external(str(self.name)):
            raise ValueError(f"train: recipes train constrained networks, not {self.name!r}; name its weights")
        return self

    @property
    def label(self) -> str:
        """The name of the network in tables."""
        return self.name or str(self.module)

    @property
    def published(self) -> str | None:
        """The name of weights that the network's library publishes; None if they are a file or a recipe makes them."""
        named = self.weights is not None and is_external(str(self.name)) and self.weights.suffix not in SUFFIXES
        return str(self.weights) if named else None


def _kind(value: Any) -> str:
    return WEIGHTS if isinstance(value, str) else "mapping"


class Data(_Model):
    """The images to evaluate, and the images to calibrate on."""

    source: str
    """A name in SOURCES, or a factory from outside the package, as "package.module:factory"."""
    path: str | None = None
    """Where the images are; None for a source that needs no path."""
    labels: str | None = None
    """The file with the labels of a folder of images; None if the labels need no file or it lies beside the images."""
    split: str = "test"
    """The split to evaluate."""
    transform: (
        Annotated[
            Annotated[Transform, Tag("mapping")] | Annotated[Literal["weights"], Tag(WEIGHTS)], Discriminator(_kind)
        ]
        | None
    ) = None
    """The transform of the pixels. The name of a transform, or None for the source's own, is replaced by the fields
    that it stands for; "weights" stays until `pipeline.weights.with_transform` replaces it."""
    on_bad_image: OnBadImage = "fail"
    """What to do if images cannot be decoded. "fail": compute nothing. "skip": leave them out, count and list them."""
    shard_size: Annotated[int, Field(ge=1)] = 128
    """The largest number of images in a shard."""
    calibration_split: str = "train"
    """The split whose images calibrate."""

    @model_validator(mode="before")
    @classmethod
    def _named_transform(cls, value: Any) -> Any:
        """Replace the name of a transform by its fields, so that equal transforms compare equal."""
        if not isinstance(value, dict):
            return value
        name = value.get("transform")
        name = DEFAULT_TRANSFORMS.get(str(value.get("source"))) if name is None else name
        if not isinstance(name, str) or name == WEIGHTS:
            return value
        if name not in TRANSFORMS:
            raise ValueError(
                f"transform: got {name!r}, expected one of {', '.join(TRANSFORMS)}, {WEIGHTS}, or a mapping of {KEYS}"
            )
        return {**value, "transform": TRANSFORMS[name]}

    @model_validator(mode="after")
    def _known(self) -> "Data":
        if not is_source(self.source):
            raise ValueError(f"source: got {self.source!r}, expected one of {', '.join(SOURCES)}")
        return self

    def open(
        self, split: str, download: bool = False, index: Location | None = None, on_index: OnIndex | None = None
    ) -> ImageSplit:
        """Open a split of this source, as `rmpsweep.data.open_split` does. Raises DataError, StorageError."""
        return open_split(
            self.source,
            self.path,
            split,
            self.transform,
            download,
            labels=self.labels,
            on_bad_image=self.on_bad_image,
            index=index,
            on_index=on_index,
        )


class Calibration(_Model):
    """How thresholds are found."""

    images: Annotated[int, Field(ge=1)] = 128
    """The number of images: the first ones of a permutation of the calibration split."""
    time_steps: Annotated[int, Field(ge=1)] = 64
    """The number of time steps, for rules that simulate."""
    encoding: Encoding | None = None
    """The encoding, for rules that simulate; None for that of the trial."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """The seed of the permutation, and of Poisson spikes."""


class Run(_Model):
    """How the sweep runs. In fixed numerics, nothing here changes a result.

    In floating point, results may depend on the kind of device and, for networks that run node by node, on batch_size.
    """

    actors: Annotated[int, Field(ge=1)] | None = None
    """The number of Ray actors; None for as many as fit on the GPUs or, without GPUs, two on each node."""
    gpus_per_actor: Annotated[float, Field(ge=0)] | None = None
    """The GPUs, or the fraction of one, for each actor; None for 1 if the cluster has any, else 0."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How often a unit is tried again after its first attempt has failed."""
    batch_size: Annotated[int, Field(ge=1)] | None = None
    """The number of rows, pairs of a trial and an image, simulated together; None chooses it by the free memory."""
    decoded_cache_gb: Annotated[float, Field(ge=0)] = 0.0
    """The gigabytes of decoded images kept on each node; 0 keeps none."""
    schedule_deadline_s: Annotated[float, Field(gt=0)] = 900.0
    """Seconds within which some worker must run."""
    setup_deadline_s: Annotated[float, Field(gt=0)] = 600.0
    """Seconds within which a worker must have loaded."""
    stall_deadline_s: Annotated[float, Field(gt=0)] = 600.0
    """Seconds that a unit may go without progress."""


class Mlflow(_Model):
    """Where the results are logged."""

    tracking_uri: str | None = None
    """The tracking URI, or "none"; None for a database in the results directory."""
    experiment: str | None = None
    """The name of the experiment; None for the name of the sweep."""


def _grids(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


TimeStep = Annotated[int, Field(ge=1, le=2**24, strict=True)]


def _ascending(values: tuple[int, ...]) -> tuple[int, ...]:
    if any(a >= b for a, b in itertools.pairwise(values)):
        raise ValueError("expected ascending time steps without repeats")
    return values


class Search(_Model):
    """An adaptive search, which stops trials once they are shown to be worse than the best (`pipeline.search`)."""

    time_steps: Annotated[tuple[TimeStep, ...], Field(min_length=1), AfterValidator(_ascending)] | None = None
    """The T of interest: a trial is stopped once it has been beaten at all of them. None for all T of the sweep."""
    error: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """The probability that the best trial is stopped is at most this."""
    first_images: Annotated[int, Field(ge=1)] = 100
    """The number of images on which every trial is evaluated before any can be stopped."""
    refine: Annotated[int, Field(ge=0)] = 0
    """How often the spacing of α is halved between neighbouring trials that were not stopped."""


class Sweep(_Model):
    """A sweep file, checked and with every default filled in."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    network: Network
    data: Data
    calibration: Calibration = Calibration()
    grid: Annotated[tuple[Grid, ...], BeforeValidator(_grids), Field(min_length=1)]
    """One grid or several, whose trials are taken together."""
    time_steps: Annotated[tuple[TimeStep, ...], Field(min_length=1), AfterValidator(_ascending)]
    search: Search | None = None
    """How the grid is evaluated adaptively; None evaluates all of it."""
    run: Run = Run()
    mlflow: Mlflow = Mlflow()

    @model_validator(mode="after")
    def _searchable(self) -> "Sweep":
        wanted = self.search.time_steps or () if self.search else ()
        if unknown := [t for t in wanted if t not in self.time_steps]:
            raise ValueError(f"search.time_steps: got {unknown}, expected some of time_steps {list(self.time_steps)}")
        return self

    def settings(self) -> tuple[Setting, ...]:
        """Return the setting of every trial, in the order of the grid, without repeats."""
        return _expanded(self.grid)


@functools.lru_cache(maxsize=8)
def _expanded(grids: tuple[Grid, ...]) -> tuple[Setting, ...]:
    found: dict[Setting, None] = {}
    for grid in grids:
        axes = grid.model_dump()
        for values in itertools.product(*axes.values()):
            found[_canonical(Setting(**dict(zip(axes, values, strict=True))))] = None
    return tuple(found)


def _canonical(setting: Setting) -> Setting:
    """Return the setting with seed 0 if its encoding draws nothing at random."""
    return setting if setting.encoding == "poisson" else replace(setting, seed=0)
