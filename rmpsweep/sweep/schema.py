"""What a sweep file may say, as frozen models, and the settings of the trials it describes."""

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
    """A setting from plain values, such as JSON. Raises ValueError."""
    return _SETTING.validate_python(values)


def _axis(value: Any) -> Any:
    """A list, a single value, {start, stop, num} or {logspace: {start, stop, num}} -> a list."""
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
"""One axis for each field of Setting, every combination a trial."""


class Network(_Model):
    """`name` as in the registry or `module` as package.module:factory; weights, or a recipe to make them.

    weights: a file, or for the networks of a library the name of weights that it publishes.
    """

    name: str | None = None
    module: str | None = None
    weights: Path | None = None
    train: Recipe | None = None

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
        """What tables call it."""
        return self.name or str(self.module)

    @property
    def published(self) -> str | None:
        """The name of weights published by the network's library; None where weights are a file."""
        named = self.weights is not None and is_external(str(self.name)) and self.weights.suffix not in SUFFIXES
        return str(self.weights) if named else None


def _kind(value: Any) -> str:
    return WEIGHTS if isinstance(value, str) else "mapping"


class Data(_Model):
    """The images evaluated, and the split whose images calibrate; a shard is `shard_size` images.

    transform: a preset's name or the source's own becomes the fields it stands for; `weights` waits for
    `trained.with_transform`.
    labels: a file that says the labels of the images of a folder; on_bad_image: what to do about images that cannot be
    decoded: nothing is computed, or they are left out, counted and listed.
    """

    source: str
    path: str | None = None
    labels: str | None = None
    split: str = "test"
    transform: (
        Annotated[
            Annotated[Transform, Tag("mapping")] | Annotated[Literal["weights"], Tag(WEIGHTS)], Discriminator(_kind)
        ]
        | None
    ) = None
    on_bad_image: OnBadImage = "fail"
    shard_size: Annotated[int, Field(ge=1)] = 128
    calibration_split: str = "train"

    @model_validator(mode="before")
    @classmethod
    def _named_transform(cls, value: Any) -> Any:
        """Equal transforms are equal, however they are named."""
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
        """A split of this source, as `rmpsweep.data.open_split` opens it. Raises DataError, StorageError."""
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
    """The first `images` of a seeded permutation of the calibration split, for `time_steps`; encoding: the trial's."""

    images: Annotated[int, Field(ge=1)] = 128
    time_steps: Annotated[int, Field(ge=1)] = 64
    encoding: Encoding | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class Run(_Model):
    """How it runs; changes no result. actors: default one per GPU, or two on a machine without.

    batch_size: rows (image x trial) simulated together, default from the free memory; decoded_cache_gb: decoded images
    kept on every node, 0 for none; retries: per unit, after its first attempt. Deadlines in seconds: until any worker
    runs, for one to load, for a unit without progress.
    """

    actors: Annotated[int, Field(ge=1)] | None = None
    gpus_per_actor: Annotated[float, Field(ge=0)] | None = None
    retries: Annotated[int, Field(ge=0)] = 2
    batch_size: Annotated[int, Field(ge=1)] | None = None
    decoded_cache_gb: Annotated[float, Field(ge=0)] = 0.0
    schedule_deadline_s: Annotated[float, Field(gt=0)] = 900.0
    setup_deadline_s: Annotated[float, Field(gt=0)] = 600.0
    stall_deadline_s: Annotated[float, Field(gt=0)] = 600.0


class Mlflow(_Model):
    """Where results are logged; default a database in the results directory, experiment named after the sweep."""

    tracking_uri: str | None = None
    experiment: str | None = None


def _grids(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


TimeStep = Annotated[int, Field(ge=1, le=2**24, strict=True)]


def _ascending(values: tuple[int, ...]) -> tuple[int, ...]:
    if any(a >= b for a, b in itertools.pairwise(values)):
        raise ValueError("expected ascending time steps without repeats")
    return values


class Search(_Model):
    """Trials of the grid that are worse than the best at all of `time_steps` are stopped early, as `search` tells.

    time_steps: default all of the sweep's; error: probability at most that the best trial is stopped; first_images:
    evaluated by all before any is stopped; refine: how often the spacing of α is halved between trials that were not.
    """

    time_steps: Annotated[tuple[TimeStep, ...], Field(min_length=1), AfterValidator(_ascending)] | None = None
    error: Annotated[float, Field(gt=0, lt=1)] = 0.05
    first_images: Annotated[int, Field(ge=1)] = 100
    refine: Annotated[int, Field(ge=0)] = 0


class Sweep(_Model):
    """A sweep file, resolved; search: evaluate the grid adaptively, None for all of it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    network: Network
    data: Data
    calibration: Calibration = Calibration()
    grid: Annotated[tuple[Grid, ...], BeforeValidator(_grids), Field(min_length=1)]
    time_steps: Annotated[tuple[TimeStep, ...], Field(min_length=1), AfterValidator(_ascending)]
    search: Search | None = None
    run: Run = Run()
    mlflow: Mlflow = Mlflow()

    @model_validator(mode="after")
    def _searchable(self) -> "Sweep":
        wanted = self.search.time_steps or () if self.search else ()
        if unknown := [t for t in wanted if t not in self.time_steps]:
            raise ValueError(f"search.time_steps: got {unknown}, expected some of time_steps {list(self.time_steps)}")
        return self

    def settings(self) -> tuple[Setting, ...]:
        """The setting of every trial, in grid order, without repeats."""
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
    """The same without its seed where nothing is drawn."""
    return setting if setting.encoding == "poisson" else replace(setting, seed=0)
