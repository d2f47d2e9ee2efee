"""The state of a sweep on disk: what has been found, what is missing, and what an adaptive search concludes."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rmpsweep.errors import TableError
from rmpsweep.pipeline.prepare import Planned
from rmpsweep.pipeline.search import SearchState, replay
from rmpsweep.results import Journal, Layout, read_thresholds, scan, thresholds_digest
from rmpsweep.sweep.plan import Plan, Unit, pending
from rmpsweep.terms import ANN
from rmpsweep.workers.jobs import EvaluationJob

Calibrations = Mapping[str, Mapping[str, Sequence[float]]]
"""calibration_id -> layer -> one threshold for the layer, or one for each of its channels."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Look(Planned):
    """A planned sweep and its state on disk. In an adaptive search, `plan` has the trials added and stopped so far."""

    calibrations: Calibrations
    """The thresholds found so far, of the planned trials."""
    journal: Journal
    """The unit files: those that count, and those that do not."""
    todo: tuple[Unit, ...]
    """The units that hold the missing cells; an adaptive search may need fewer of them."""
    search: SearchState | None
    """The state of the adaptive search; None for a sweep that evaluates its whole grid."""

    def __repr__(self) -> str:
        plan = self.plan
        return (
            f"<{self.sweep.name}: {len(plan.trials)} trials on {plan.limit} images, {self.cells_left:,} of "
            f"{plan.num_cells:,} cells left in {len(self.todo)} units>"
        )

    @property
    def cells_left(self) -> int:
        """The number of cells, (trial, image, time step) combinations, that are missing."""
        return sum(unit.num_cells for unit in self.todo)

    @property
    def image_steps_left(self) -> int:
        """The number of image-steps, images times time steps, that are still to be simulated."""
        return sum(unit.image_steps for unit in self.todo)

    def cut(self, workers: int, within: tuple[int, int] | None = None) -> tuple[Unit, ...]:
        """Cut the missing cells into units that this many workers can share.

        Args:
            within: restricts the units to the cells at positions [start, stop); None takes all cells.
        """
        return tuple(pending(self.plan, self.journal.done, workers, within))

    def jobs(self, units: Iterable[Unit]) -> list[EvaluationJob]:
        """Make jobs for workers from units. The thresholds of all their trials must be known."""
        trials = {
            trial.trial_id: (trial.setting, self.calibrations[trial.calibration_id])
            for trial in self.plan.trials
            if trial.calibration_id in self.calibrations
        }
        context = self.plan.context
        return [
            EvaluationJob(unit.unit_id(context), unit, context, {t: trials[t] for t, _ in unit.work if t != ANN})
            for unit in units
        ]


def look(planned: Planned, last: Journal | None = None) -> Look:
    """Read thresholds and unit files without writing anything. Files that are missing or damaged do not count.

    A unit file does not count while the thresholds of any planned trial in it are missing; it counts again once the
    same thresholds have been found.

    An adaptive search is replayed from the results, and may add trials to the plan. A scan checks the thresholds only
    of trials that its plan has. After the search has added trials, all unit files are therefore checked again with the
    grown plan, and the search is replayed again, until it adds no trial.

    Args:
        last: the journal of an earlier look by the same launch; unit files that it verified are not read again.
    Raises:
        StorageError: an object store cannot be reached.
    """
    plan, search = planned.plan, None
    while True:
        calibrations = read_calibrations(planned.layout, plan)
        last = scan(planned.layout, plan.context, _provenance(plan, calibrations), last)
        if planned.sweep.search is None:
            break
        search = replay(planned.sweep, plan, last.results)
        grown, plan = search.plan.trials != plan.trials, search.plan
        if not grown:
            break
    return Look(
        sweep=planned.sweep,
        layout=planned.layout,
        plan=plan,
        dataset=planned.dataset,
        calibrations=calibrations,
        journal=last,
        todo=tuple(pending(plan, last.done)),
        search=search,
    )


def read_calibrations(layout: Layout, plan: Plan) -> Calibrations:
    """Read the thresholds found so far. A table that is damaged or of another version counts as missing.

    Raises:
        StorageError: an object store cannot be reached. Its thresholds are not missing then: taking them to be missing
            would have everything computed again.
    """
    found = {}
    for calibration_id in dict.fromkeys(trial.calibration_id for trial in plan.trials):
        with contextlib.suppress(TableError):
            found[calibration_id] = read_thresholds(layout.thresholds(calibration_id))
    return found


def _provenance(plan: Plan, calibrations: Calibrations) -> dict[str, str]:
    digests = {key: thresholds_digest(values) for key, values in calibrations.items()}
    return {trial.trial_id: digests.get(trial.calibration_id, "unknown") for trial in plan.trials}
