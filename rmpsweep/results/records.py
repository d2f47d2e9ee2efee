"""The JSON files of a results directory as values: run.json, plan.json, search.json and progress.json.

Each record has `read` and `write`. Reading returns None where there is no file, and raises StorageError for a file that
cannot be read or has another form.
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
"""A launch that has not written progress.json for this long is taken to be gone."""


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
    """UTC, as 2026-01-31T12:00:00Z."""
    wall_s: float
    workers: int
    """How many worked at a time."""
    units: int
    image_steps: int
    worker_s: float
    """Seconds that workers spent on units, added up."""
    input: InputFigures | None = None
    """How the images came in; None for launches of versions that did not count it."""
    interrupted: bool = False

    def document(self) -> dict[str, Any]:
        """Plain values, as in run.json."""
        plain = asdict(self)
        del plain["input"]
        return plain if self.input is None else plain | {"input": self.input.document()}

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `document`."""
        figures = document.get("input")
        return cls(**{**document, "input": None if figures is None else InputFigures.read(figures)})


@dataclass(frozen=True, kw_only=True, slots=True)
class QuarantinedUnit:
    """A unit that was given up in the last launch."""

    unit: str
    positions: tuple[int, int]
    """The unit's images: positions [start, stop) of the sweep's order."""
    cells: Mapping[str, int]
    """trial_id -> (image, time step) combinations that are missing."""
    attempts: int
    message: str
    detail: str
    """The traceback."""
    log: str

    def document(self) -> dict[str, Any]:
        """Plain values, as in run.json."""
        return asdict(self) | {"positions": list(self.positions), "cells": dict(self.cells)}

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `document`."""
        start, stop = document["positions"]
        return cls(**{**document, "positions": (start, stop)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How fast the last launch was."""

    rate: float
    """Image-steps per second of a worker that is at work."""
    workers: int
    around_s: float
    """Seconds that passed besides the work on units."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """run.json: what has been launched in a results directory, where it ran and what came of it."""

    created_ms: int
    """When the sweep was first launched, ms since the epoch."""
    launches: tuple[LaunchRecord, ...] = ()
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package -> version; this and the following fields are those of the last launch that computed something."""
    git: Mapping[str, Any] | None = None
    """Commit and whether files differed from it; None outside a checkout."""
    hardware: str = ""
    devices: tuple[str, ...] = ()
    quarantined: tuple[QuarantinedUnit, ...] = ()
    published: str | None = None
    """Digest of the results that tables, report and MLflow were made from; None while they may be of others."""

    @classmethod
    def read(cls, layout: Layout) -> Self | None:
        """The record in a results directory."""
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
        """The record in a results directory, or a new one where none has been written."""
        return cls.read(layout) or cls(created_ms=int(time.time() * 1000))

    def write(self, layout: Layout) -> None:
        """Write the record, unless it is there already."""
        write_json(layout.run, self.document())

    def document(self) -> dict[str, Any]:
        """Plain values, as in run.json."""
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
        """The record with further warnings; a warning that it has already is not repeated."""
        return replace(self, warnings=tuple(dict.fromkeys([*self.warnings, *notes])))

    def with_baseline_warnings(self, found: Sequence[str]) -> Self:
        """The record with these warnings about the ANN's accuracy in place of those about other results."""
        others = [note for note in self.warnings if not note.startswith(BASELINE)]
        return replace(self, warnings=(*others, *found))

    @property
    def baseline_warnings(self) -> list[str]:
        """The warnings about the ANN's accuracy."""
        return [note for note in self.warnings if note.startswith(BASELINE)]

    def inputs(self) -> list[InputFigures]:
        """How images came in, for each launch that computed something."""
        return [launch.input or InputFigures() for launch in self.launches if launch.units]

    def pace(self) -> Pace | None:
        """The pace of the last launch that simulated something; None before there was one."""
        last = next((launch for launch in reversed(self.launches) if launch.image_steps), None)
        if last is None:
            return None
        around_s = max(0.0, last.wall_s - last.worker_s / last.workers)
        return Pace(rate=last.image_steps / last.worker_s, workers=last.workers, around_s=around_s)


# plan.json


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanFile:
    """plan.json: the trials that were launched, and what their results depend on."""

    plan: Plan
    dataset: str
    """What tables call the evaluated split."""

    @classmethod
    def read(cls, layout: Layout) -> Self:
        """The plan in a results directory. Raises ResultsError where no sweep has been launched."""
        document = read_json(layout.plan)
        if document is None or not layout.sweep.is_file():
            raise ResultsError(
                f"{layout.root}: no sweep has been launched here; give a sweep's name or its results directory"
            )
        with _parsing(layout.plan, "a plan"):
            plan = Plan(
                context=document["context"],
                facts=Facts(**document["facts"]),
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
        """Write the plan, unless it is there already."""
        write_json(layout.plan, self.document())

    def document(self) -> dict[str, Any]:
        """Plain values, as in plan.json; the digest of what was published covers them in this order."""
        plan = self.plan
        return {
            "context": plan.context,
            "dataset": self.dataset,
            "facts": asdict(plan.facts),
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
    """One round of a search: the trials that ran were evaluated up to `images`, then some of them were stopped."""

    images: int
    running: int
    stopped: tuple[str, ...]
    """Trials that did not go on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchFile:
    """search.json: the rule of an adaptive search, its rounds, and which trials were stopped, when and why."""

    error: float
    """At most the probability that the best trial is stopped."""
    time_steps: tuple[int, ...]
    """The T at which trials are compared."""
    images: int
    """Images that trials which are not stopped are evaluated on."""
    over: bool
    rounds: tuple[Round, ...]
    stopped: Mapping[str, tuple[Defeat, ...]]
    """trial_id -> its defeats, one for each T."""
    added: tuple[str, ...]
    """Trials that refinement made."""
    image_steps: int
    """What the search takes: images x time steps of every trial as far as it is evaluated."""
    image_steps_of_grid: int

    @classmethod
    def read(cls, layout: Layout) -> Self | None:
        """The search in a results directory."""
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
        """Write the search, unless it is there already."""
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
    """Since it began."""
    silent_s: float
    """Seconds since it was last seen to move."""
    done: float
    """Fraction in [0, 1]."""
    copy: bool
    """Whether another worker does the same job."""
    cells: Mapping[str, int]
    """trial_id -> (image, time step) combinations; empty for a calibration."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorRecord:
    """An attempt that failed or lost its worker."""

    job: str
    worker: str
    message: str
    log: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressFile:
    """progress.json: how the launch that runs stands, written every few seconds."""

    stage: str
    """"starting", "calibrating" or "evaluating"."""
    written: float
    """UNIX time, as is `began`, when the stage began."""
    began: float
    image_steps: int
    """Of this stage; 0 where they are not counted."""
    image_steps_done: int
    image_steps_per_s: float
    eta_s: int | None
    jobs_waiting: int
    jobs_done: int
    jobs_retried: int
    jobs_quarantined: int
    workers_lost: int
    input: InputFigures
    """How images came in so far."""
    workers: Mapping[str, int]
    """State -> how many workers are in it."""
    in_flight: tuple[FlightRecord, ...]
    """The jobs that have run longest."""
    last_errors: tuple[ErrorRecord, ...]

    @classmethod
    def read(cls, layout: Layout) -> Self | None:
        """What the launch that runs has written last; None where none runs."""
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
        """Write the file at once. Raises StorageError: the storage is away, which is not waited for."""
        write_atomic(layout.progress, json.dumps(self.document(), indent=2).encode(), patience_s=0.0)

    def document(self) -> dict[str, Any]:
        """Plain values, as in progress.json."""
        return asdict(self) | {"input": self.input.document()}
