"""The JSON files of a results directory as values: run.json, plan.json, search.json and progress.json.

The class for each file has `read` and `write`. `read` returns None if there is no file (without a plan.json it raises
ResultsError), and raises StorageError if the file cannot be read or has another form.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from rmpsweep.data.figures import InputFigures
from rmpsweep.errors import ResultsError, StorageError
from rmpsweep.results.layout import Layout
from rmpsweep.results.tables import read_json, write_json
from rmpsweep.stats.sequential import Defeat
from rmpsweep.storage import Location, write_atomic
from rmpsweep.sweep.plan import Facts, Plan, Trial
from rmpsweep.sweep.schema import parse_setting

BASELINE = "ANN baseline: "
"""Every warning about the ANN's accuracy begins with this."""
STALE_S = 60.0
"""A launch that has not written progress.json for this many seconds is taken to be gone."""


@contextlib.contextmanager
def _parsing(path: Location, what: str) -> Iterator[None]:
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise StorageError(f"{path}: not {what} of this version ({reason}); launch the sweep again") from error


# run.json


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchRecord:
    """One launch that computed something."""

    started: str
    """When the launch began, in UTC, such as 2026-01-31T12:00:00Z."""
    wall_s: float
    """How long the launch took, in seconds."""
    workers: int
    """How many workers worked at a time."""
    units: int
    """The number of units computed."""
    image_steps: int
    """The number of image-steps simulated."""
    worker_s: float
    """The seconds that workers spent on units, added over workers."""
    input: InputFigures | None = None
    """How fast the images came in; None for launches by versions that did not measure it."""
    interrupted: bool = False

    def document(self) -> dict[str, Any]:
        """Return the plain values that run.json holds."""
        plain = asdict(self)
        del plain["input"]
        return plain if self.input is None else plain | {"input": self.input.document()}

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """Make the record from the values that `document` returns."""
        figures = document.get("input")
        return cls(**{**document, "input": None if figures is None else InputFigures.read(figures)})


@dataclass(frozen=True, kw_only=True, slots=True)
class QuarantinedUnit:
    """A unit that was given up in the last launch."""

    unit: str
    positions: tuple[int, int]
    """The positions [start, stop) of the unit's images in the sweep's order."""
    cells: Mapping[str, int]
    """trial_id -> the number of its cells in the unit, which are missing."""
    attempts: int
    """The number of attempts that counted against the unit's retries."""
    message: str
    """What went wrong in the last attempt, in one line."""
    detail: str
    """The traceback."""
    log: str
    """The path of the worker's log; "" if it has none."""

    def document(self) -> dict[str, Any]:
        """Return the plain values that run.json holds."""
        return asdict(self) | {"positions": list(self.positions), "cells": dict(self.cells)}

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """Make the record from the values that `document` returns."""
        start, stop = document["positions"]
        return cls(**{**document, "positions": (start, stop)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How fast the last launch was."""

    rate: float
    """Image-steps per second and busy worker."""
    workers: int
    around_s: float
    """Seconds that passed in addition to the work on units."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """run.json: the launches in a results directory, where they ran, and their outcome."""

    created_ms: int
    """When the sweep was first launched, in milliseconds since the epoch."""
    launches: tuple[LaunchRecord, ...] = ()
    """The launches that computed something, in order."""
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package -> version. This field and those up to `quarantined` are of the last launch that computed something."""
    git: Mapping[str, Any] | None = None
    """The commit, and whether files differed from it; None outside a checkout."""
    hardware: str = ""
    devices: tuple[str, ...] = ()
    quarantined: tuple[QuarantinedUnit, ...] = ()
    published: str | None = None
    """The digest of what tables, report and MLflow runs were made from; None while these may be out of date."""

    @classmethod
    def read(cls, layout: Layout) -> Self | None:
        """Read the record of a results directory; None if there is none."""
        document = read_json(layout.run)
        if document is None:
            return None
        with _parsing(layout.run, "a record"):
            return cls(
                created_ms=document["created_ms"],
                launches=tuple(LaunchRecord.parse(each) for each in document["launches"]),
                warnings=tuple(document.get("warnings", ())),
                versions=document.get("versions", {}),
                git=document.get("git"),
                hardware=document.get("hardware", ""),
                devices=tuple(document.get("devices", ())),
                quarantined=tuple(QuarantinedUnit.parse(each) for each in document.get("quarantined", ())),
                published=document.get("published"),
            )

    @classmethod
    def of(cls, layout: Layout) -> Self:
        """Read the record of a results directory, or make a new one if there is none."""
        return cls.read(layout) or cls(created_ms=int(time.time() * 1000))

    def write(self, layout: Layout) -> None:
        """Write the record, unless the file holds it already."""
        write_json(layout.run, self.document())

    def document(self) -> dict[str, Any]:
        """Return the plain values that run.json holds."""
        document: dict[str, Any] = {
            "created_ms": self.created_ms,
            "launches": [launch.document() for launch in self.launches],
            "warnings": list(self.warnings),
        }
        if self.launches:
            document |= {
                "versions": dict(self.versions),
                "git": self.git,
                "hardware": self.hardware,
                "devices": list(self.devices),
                "quarantined": [unit.document() for unit in self.quarantined],
            }
        return document if self.published is None else document | {"published": self.published}

    def with_warnings(self, notes: Sequence[str]) -> Self:
        """Return the record with further warnings. A warning that it has already is not repeated."""
        return replace(self, warnings=tuple(dict.fromkeys([*self.warnings, *notes])))

    def with_baseline_warnings(self, found: Sequence[str]) -> Self:
        """Return the record with these warnings about the ANN's accuracy in place of those from earlier results."""
        others = [note for note in self.warnings if not note.startswith(BASELINE)]
        return replace(self, warnings=(*others, *found))

    @property
    def baseline_warnings(self) -> list[str]:
        """The warnings about the ANN's accuracy."""
        return [note for note in self.warnings if note.startswith(BASELINE)]

    def inputs(self) -> list[InputFigures]:
        """Return how fast the images came in, for each launch that computed units."""
        return [launch.input or InputFigures() for launch in self.launches if launch.units]

    def pace(self) -> Pace | None:
        """Return the pace of the last launch that simulated something; None if there is none."""
        last = next((launch for launch in reversed(self.launches) if launch.image_steps), None)
        if last is None:
            return None
        around_s = max(0.0, last.wall_s - last.worker_s / last.workers)
        return Pace(rate=last.image_steps / last.worker_s, workers=last.workers, around_s=around_s)


# plan.json


_FACTS = {"data": "data_fingerprint", "calibration_data": "calibration_fingerprint"}
"""Key in plan.json -> field of `Facts`, where the two differ."""
_FACTS_IN_FILE = {field: key for key, field in _FACTS.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanFile:
    """plan.json: the trials that were launched, and what their results depend on."""

    plan: Plan
    dataset: str
    """The name of the evaluated split in the tables."""

    @classmethod
    def read(cls, layout: Layout) -> Self:
        """Read the plan of a results directory. Raises ResultsError if no sweep has been launched there."""
        document = read_json(layout.plan)
        if document is None or not layout.sweep.is_file():
            raise ResultsError(
                f"{layout.root}: no sweep has been launched here; give a sweep's name or its results directory"
            )
        with _parsing(layout.plan, "a plan"):
            plan = Plan(
                context=document["context"],
                facts=Facts(**{_FACTS.get(key, key): value for key, value in document["facts"].items()}),
                trials=tuple(
                    Trial(each["trial_id"], each["calibration_id"], parse_setting(each["setting"]))
                    for each in document["trials"]
                ),
                time_steps=tuple(document["time_steps"]),
                limit=document["limit"],
                shard_size=document["shard_size"],
                stopped=document.get("stopped", {}),
            )
            return cls(plan=plan, dataset=document["dataset"])

    def write(self, layout: Layout) -> None:
        """Write the plan, unless the file holds it already."""
        write_json(layout.plan, self.document())

    def document(self) -> dict[str, Any]:
        """Return the plain values that plan.json holds. The digest of what was published covers them in this order."""
        plan = self.plan
        return {
            "context": plan.context,
            "dataset": self.dataset,
            "facts": {_FACTS_IN_FILE.get(key, key): value for key, value in asdict(plan.facts).items()},
            "limit": plan.limit,
            "shard_size": plan.shard_size,
            "stopped": dict(plan.stopped),
            "time_steps": list(plan.time_steps),
            "trials": [
                {"trial_id": t.trial_id, "calibration_id": t.calibration_id, "setting": asdict(t.setting)}
                for t in plan.trials
            ],
        }


# search.json


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One round of a search: the running trials were evaluated up to `images`, then some of them were stopped."""

    images: int
    """The number of images at the end of the round."""
    running: int
    """The number of trials that ran in the round."""
    stopped: tuple[str, ...]
    """The trials that were stopped at the end of the round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchFile:
    """search.json: the rule of an adaptive search, its rounds, and which trials were stopped, when and why."""

    error: float
    """The probability that the best trial is stopped is at most this."""
    time_steps: tuple[int, ...]
    """The T of interest, at which trials are compared."""
    images: int
    """The number of images on which a trial is evaluated if it is never stopped."""
    over: bool
    """Whether the search has ended."""
    rounds: tuple[Round, ...]
    stopped: Mapping[str, tuple[Defeat, ...]]
    """trial_id -> its defeats, one for each T of interest."""
    added: tuple[str, ...]
    """The ids of the trials that refinement has added."""
    image_steps: int
    """The image-steps of the search: images x time steps of every trial up to where it is evaluated."""
    image_steps_of_grid: int
    """The image-steps that the whole grid would have taken."""

    @classmethod
    def read(cls, layout: Layout) -> Self | None:
        """Read the search of a results directory; None if there is none."""
        document = read_json(layout.search)
        if document is None:
            return None
        with _parsing(layout.search, "a search"):
            known = {
                "time_steps": tuple(document["time_steps"]),
                "rounds": tuple(Round(**{**each, "stopped": tuple(each["stopped"])}) for each in document["rounds"]),
                "stopped": {
                    trial: tuple(Defeat(**each) for each in defeats) for trial, defeats in document["stopped"].items()
                },
                "added": tuple(document["added"]),
            }
            return cls(**{**document, **known})

    def write(self, layout: Layout) -> None:
        """Write the search, unless the file holds it already."""
        write_json(layout.search, asdict(self))


# progress.json


@dataclass(frozen=True, kw_only=True, slots=True)
class FlightRecord:
    """A job that a worker is doing."""

    job: str
    worker: str
    place: str
    """Host and process of the worker."""
    log: str
    seconds: float
    """Seconds since the job began."""
    silent_s: float
    """Seconds since the job was last seen to make progress."""
    done: float
    """The fraction that is done, in [0, 1]."""
    copy: bool
    """Whether another worker was doing the same job when this one began."""
    cells: Mapping[str, int]
    """trial_id -> the number of its cells in the job; empty for a calibration."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorRecord:
    """A job that was lost with its worker, or that was given up."""

    job: str
    worker: str
    message: str
    log: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressFile:
    """progress.json: the state of the running launch, written every few seconds."""

    stage: str
    """One of "starting", "calibrating" and "evaluating"."""
    written: float
    """When the file was written, in UNIX time."""
    began: float
    """When the stage began, in UNIX time."""
    image_steps: int
    """The image-steps of this stage; 0 if the stage does not count them."""
    image_steps_done: int
    image_steps_per_s: float
    eta_s: int | None
    """The estimated seconds to the end of the stage; None if they cannot be estimated."""
    jobs_waiting: int
    jobs_done: int
    jobs_retried: int
    jobs_quarantined: int
    workers_lost: int
    input: InputFigures
    """How fast the images of this stage have come in so far."""
    workers: Mapping[str, int]
    """State -> the number of workers that are in it."""
    in_flight: tuple[FlightRecord, ...]
    """The jobs that have run longest, the longest first."""
    last_errors: tuple[ErrorRecord, ...]

    @classmethod
    def read(cls, layout: Layout) -> Self | None:
        """Read what the running launch has written last.

        Returns:
            None if there is no file, or if it is older than STALE_S, since its launch is then taken to be gone.
        Raises:
            StorageError: the file cannot be read, or is of another version.
        """
        document = read_json(layout.progress)
        if document is None:
            return None
        with _parsing(layout.progress, "the progress of a launch"):
            if time.time() - document["written"] > STALE_S:
                return None
            known = {
                "input": InputFigures.read(document["input"]),
                "in_flight": tuple(FlightRecord(**each) for each in document["in_flight"]),
                "last_errors": tuple(ErrorRecord(**each) for each in document["last_errors"]),
            }
            return cls(**{**document, **known})

    def write(self, layout: Layout) -> None:
        """Write the file. Raises StorageError at once if the storage is away."""
        write_atomic(layout.progress, json.dumps(self.document(), indent=2).encode(), patience_s=0.0)

    def document(self) -> dict[str, Any]:
        """Return the plain values that progress.json holds."""
        return asdict(self) | {"input": self.input.document()}
