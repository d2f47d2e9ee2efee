"""The jobs that workers do: calibrations, and evaluations of a unit into a committed file; without torch and ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from rmpsweep.data.figures import InputFigures
from rmpsweep.results import Layout, commit_unit
from rmpsweep.sweep.plan import Unit
from rmpsweep.sweep.thresholds import GivenThresholds, OwnRule
from rmpsweep.terms import Setting
from rmpsweep.workers import protocol

if TYPE_CHECKING:
    from rmpsweep.workers.worker import Worker

Thresholds = Mapping[str, Sequence[float]]
"""Layer -> its threshold, or one for each of its channels."""
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class Job(protocol.Job, Protocol[Result_co]):
    """What `Worker.run` runs; pickled where the worker is in another process."""

    def run(self, worker: "Worker") -> Result_co:
        """Do it with the worker's network and images; what it returns becomes `JobReport.value`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobReport(Generic[Result]):
    """What a worker says of a job that is done."""

    value: Result
    """What the job's `run` returned."""
    seconds: float
    warnings: tuple[str, ...] = ()
    input: InputFigures = field(default_factory=InputFigures)
    """How the images of a unit came in; zeros where none was evaluated."""


@dataclass(frozen=True)
class CalibrationJob:
    """Find the thresholds of a setting on some images of the calibration split, or take those of a file."""

    job_id: str
    setting: Setting
    image_ids: tuple[int, ...]
    given: GivenThresholds | OwnRule | None = None

    @property
    def cost(self) -> float:
        """Roughly the number of passes over an image."""
        return len(self.image_ids) * self.setting.rule.cost

    def sparing(self) -> "CalibrationJob":
        """It keeps within the memory plan as it is."""
        return self

    def run(self, worker: "Worker") -> Thresholds:
        """The thresholds. Raises CalibrationError, DataError."""
        return worker.calibrate(self)


@dataclass(frozen=True)
class EvaluationJob:
    """Evaluate a unit."""

    job_id: str
    unit: Unit
    context: str
    trials: Mapping[str, tuple[Setting, Thresholds]]
    """trial_id -> its setting and thresholds."""
    batch_size: int | None = None
    """Rows, None for the sweep's."""

    @property
    def cost(self) -> float:
        """Image-steps; something where the ANN is evaluated alone."""
        return float(max(1, self.unit.image_steps))

    def sparing(self) -> "EvaluationJob":
        """One row at a time."""
        return replace(self, batch_size=1)

    def run(self, worker: "Worker") -> None:
        """Commit the unit's file. Raises CalibrationError, DataError, StorageError."""
        commit_unit(Layout(worker.spec.results), worker.evaluate(self))
