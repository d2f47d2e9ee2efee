"""The jobs that workers run: find thresholds, or evaluate a unit and commit its file.

Importing this file loads neither torch nor ray.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from rmpsweep.data.figures import InputFigures
from rmpsweep.results import Layout, UnitResult, commit_unit
from rmpsweep.sweep.plan import Unit
from rmpsweep.sweep.thresholds import GivenThresholds, OwnRule
from rmpsweep.terms import Setting
from rmpsweep.workers import protocol

Thresholds = Mapping[str, Sequence[float]]
"""Layer -> its threshold (one value), or one for each of its channels. "input" -> Λ_0."""
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class JobWorker(Protocol):
    """What a job uses of the worker that runs it."""

    layout: Layout
    """Where the results of the sweep lie."""

    def calibrate(self, job: "CalibrationJob") -> Thresholds:
        """Find the thresholds. Raises CalibrationError, DataError."""

    def evaluate(self, job: "EvaluationJob") -> UnitResult:
        """Evaluate the unit; nothing is written. Raises CalibrationError, DataError."""


class Job(protocol.Job, Protocol[Result_co]):
    """A job that `Worker.run` can run. It is pickled if the worker is in another process."""

    def run(self, worker: JobWorker) -> Result_co:
        """Do the job with the worker's network and images. The return value becomes `JobReport.value`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobReport(Generic[Result]):
    """The report of a worker on a job that is done."""

    value: Result
    """What the job's `run` returned."""
    seconds: float
    """How long the job took."""
    warnings: tuple[str, ...] = ()
    input: InputFigures = field(default_factory=InputFigures)
    """How fast the images of a unit came in; zeros for a job that evaluates none."""


@dataclass(frozen=True)
class CalibrationJob:
    """Find the thresholds of a setting on images of the calibration split, or check those that a file gives."""

    job_id: str
    """The calibration_id."""
    setting: Setting
    image_ids: tuple[int, ...]
    """The images to calibrate on, in order."""
    given: GivenThresholds | OwnRule | None = None
    """The thresholds of a file, or a rule from outside the package; None for the rules of the package."""

    @property
    def cost(self) -> float:
        """Roughly the number of passes over single images."""
        return len(self.image_ids) * self.setting.rule.cost

    def sparing(self) -> "CalibrationJob":
        """Return the job itself: calibration keeps to its memory plan already."""
        return self

    def run(self, worker: JobWorker) -> Thresholds:
        """Return the thresholds. Raises CalibrationError, DataError."""
        return worker.calibrate(self)


@dataclass(frozen=True)
class EvaluationJob:
    """Evaluate a unit and commit its file."""

    job_id: str
    """The unit_id."""
    unit: Unit
    context: str
    """The identity of network, data and engine (`Plan.context`)."""
    trials: Mapping[str, tuple[Setting, Thresholds]]
    """trial_id -> its setting and thresholds; the ANN has none."""
    batch_size: int | None = None
    """The number of rows simulated together; None for the sweep's own."""

    @property
    def cost(self) -> float:
        """The number of image-steps, at least 1: the ANN alone has none."""
        return float(max(1, self.unit.image_steps))

    def sparing(self) -> "EvaluationJob":
        """Return the same job with a batch of one row."""
        return replace(self, batch_size=1)

    def run(self, worker: JobWorker) -> None:
        """Evaluate the unit and commit its file. Raises CalibrationError, DataError, StorageError."""
        commit_unit(worker.layout, worker.evaluate(self))
