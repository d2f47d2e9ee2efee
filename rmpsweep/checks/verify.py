"""Verify results: compute some committed units again and compare them, bit for bit, with the files on disk.

That shows whether the files are what this code, these weights and these images give. Everything needed is read from the
results directory, and nothing is written into it. The units are drawn at random, and stand for all of them.
"""

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rmpsweep.errors import DataError, NetworkError, ResultsError, VerificationError
from rmpsweep.pipeline.compute import limits_of, open_pool
from rmpsweep.pipeline.look import look
from rmpsweep.pipeline.place import Place
from rmpsweep.pipeline.prepare import Planned, reopen
from rmpsweep.pipeline.weights import find_weights
from rmpsweep.results import UNIT_SCHEMA, RunRecord, UnitResult
from rmpsweep.storage import Location
from rmpsweep.sweep.plan import make_plan
from rmpsweep.terms import ANN
from rmpsweep.workers.driver import Driver
from rmpsweep.workers.events import Event, JobDone
from rmpsweep.workers.jobs import EvaluationJob, JobWorker
from rmpsweep.workers.state import Snapshot


@dataclass(frozen=True)
class UnitCheck:
    """The comparison of a unit on disk with the same unit computed again."""

    unit: str
    positions: tuple[int, int]
    """The unit's images are those from the first of these positions in the sweep's order up to, not including, the
    second."""
    rows: int
    """Number of predictions, one for each trial, image and T."""
    differ: Mapping[str, int]
    """Column of the predictions, "activity" or "provenance" -> number of entries that differ, if any do."""
    trials: tuple[str, ...]
    """Trial ids of the entries that differ."""

    def __str__(self) -> str:
        images = f"unit {self.unit} (images {self.positions[0]} to {self.positions[1] - 1} of the order)"
        if not self.differ:
            return f"{images}: equal, {self.rows} rows"
        counts = ", ".join(f"{count} {name}" for name, count in self.differ.items())
        return f"{images}: differs in {counts} of {self.rows} rows; trials {', '.join(self.trials)}"


@dataclass(frozen=True)
class Verification:
    """The result of a verification."""

    compared: tuple[UnitCheck, ...]
    failed: Mapping[str, str]
    """Unit id -> why the unit could not be computed."""
    committed: int
    """Number of units on disk."""
    left_out: int
    """How many of them hold trials that are no longer planned and whose settings are therefore unknown."""
    rejected: Mapping[str, str]
    """Name of a unit file that does not count -> why."""
    devices_then: tuple[str, ...]
    """The devices of the last launch."""
    devices_now: tuple[str, ...]
    """The devices of this computation."""
    numerics: tuple[str, ...]
    """The numerics of the planned trials, each once."""

    @property
    def differing(self) -> list[UnitCheck]:
        """The units that differ."""
        return [check for check in self.compared if check.differ]

    def summary(self) -> str:
        """The result in a sentence."""
        equal = len(self.compared) - len(self.differing)
        tried = len(self.compared) + len(self.failed)
        parts = [f"{equal} of {tried} units are equal bit for bit, of {self.committed} on disk"]
        if self.left_out:
            parts.append(f"{self.left_out} hold trials that are no longer planned, and cannot be computed again")
        if self.rejected:
            parts.append(f"{len(self.rejected)} unit files do not count, which status lists")
        return "; ".join(parts)

    def document(self) -> dict[str, Any]:
        """The result as plain values, for JSON."""
        equal = not self.differing and not self.failed
        return {"equal": equal, **asdict(self)}

    def check(self) -> None:
        """Raise VerificationError if units differ or could not be computed; the message names them."""
        if not self.differing and not self.failed:
            return
        lines = [str(check) for check in self.differing]
        lines += [f"unit {unit}: cannot be computed: {why}" for unit, why in self.failed.items()]
        then, now = (" and ".join(devices) or "unknown" for devices in (self.devices_then, self.devices_now))
        raise VerificationError(
            f"{self.summary()}\n" + "\n".join(f"  {line}" for line in lines) + f"\nComputed on {then}, again on {now}; "
            f"numerics {', '.join(self.numerics)}. float32, float64 and the ANN's own rows may differ between kinds of "
            "device. fixed16 and fixed8 do not: if these differ, a file was altered or a machine computes wrongly. To "
            "have a unit computed again, delete its file in units/ and launch again"
        )


@dataclass(frozen=True)
class VerificationJob:
    """A job that computes a unit and compares it with the result on disk. Nothing is committed."""

    job: EvaluationJob
    expected: UnitResult

    @property
    def job_id(self) -> str:
        """The unit's id."""
        return self.job.job_id

    @property
    def cost(self) -> float:
        """The image-steps of the unit."""
        return self.job.cost

    def sparing(self) -> "VerificationJob":
        """The same job with less memory: it computes one row of a batch at a time."""
        return replace(self, job=self.job.sparing())

    def run(self, worker: JobWorker) -> UnitCheck:
        """Evaluate the unit and compare the results."""
        return compare(self.job_id, self.expected, worker.evaluate(self.job))


def compare(unit_id: str, on_disk: UnitResult, computed: UnitResult) -> UnitCheck:
    """Compare the result of a unit on disk with a computed one, entry by entry."""
    differ: Counter[str] = Counter()
    trials: set[str] = set()
    owners = on_disk.predictions["trial_id"].to_numpy()
    for name in UNIT_SCHEMA.names:
        unequal = on_disk.predictions[name].to_numpy() != computed.predictions[name].to_numpy()
        differ[name] += int(np.count_nonzero(unequal))
        trials |= set(owners[unequal].tolist())
    theirs, ours = ({(each.trial_id, each.layer): each for each in r.activity} for r in (on_disk, computed))
    if all(trial != ANN for trial, _ in theirs):  # units of earlier versions do not hold the ANN's operations
        ours = {key: each for key, each in ours.items() if key[0] != ANN}
    for key in theirs.keys() | ours.keys():
        if theirs.get(key) != ours.get(key):
            differ["activity"] += 1
            trials.add(key[0])
    changed = {t for t, digest in computed.provenance.items() if on_disk.provenance.get(t) != digest}
    differ["provenance"] += len(changed)
    unit = on_disk.unit
    return UnitCheck(
        unit_id,
        (unit.start, unit.stop),
        on_disk.predictions.num_rows,
        {name: count for name, count in differ.items() if count},
        tuple(sorted(trials | changed)),
    )


def verify_units(results: Location, units: int, seed: int, tell: Callable[[str], None], place: Place) -> Verification:
    """Draw committed units at random, compute them again, and compare them with the files. Nothing is written.

    Args:
        units: how many units to draw; if there are fewer, all of them are verified.
        seed: seed of the random draw.
        tell: called with a line of text for each unit that was compared.
        place: where the units are computed.
    Returns:
        What was compared. Units that differ or cannot be computed raise nothing here; `Verification.check` does.
    Raises:
        ResultsError: no sweep has been launched here, no committed unit has planned trials alone, or another version of
            the engine computed the results.
        NetworkError, DataError: the weights or the images are missing, or are not those of the results.
        StorageError: the results or remote images cannot be read.
        ClusterError: no worker can be started.
    """
    now = look(reopen(results))
    weights = _weights_of(now)
    known = {trial.trial_id for trial in now.plan.trials} | {ANN}
    committed = now.journal.results
    candidates = [result for result in committed if all(trial in known for trial, _ in result.unit.work)]
    if not candidates:
        raise ResultsError(f"{now.layout.units}: no unit is committed that could be verified; launch the sweep")
    candidates.sort(key=lambda result: result.unit.unit_id(result.context))
    drawn = random.Random(seed).sample(candidates, min(units, len(candidates)))
    drawn.sort(key=lambda result: (result.unit.start, result.unit.work))
    evaluations = now.jobs(result.unit for result in drawn)
    jobs = [VerificationJob(job, result) for job, result in zip(evaluations, drawn, strict=True)]

    def listener(event: Event | Snapshot) -> None:
        if isinstance(event, JobDone):
            tell(str(event.report.value))

    with contextlib.closing(open_pool(now, weights, place, logs=False)) as pool:
        driver = Driver(pool, limits_of(now.sweep))
        execution = driver.execute(jobs, listener)
    run = RunRecord.read(now.layout)
    found = {outcome.job.job_id: outcome.report.value for outcome in execution.outcomes}
    return Verification(
        compared=tuple(found[job.job_id] for job in jobs if job.job_id in found),
        failed={bad.outcome.job.job_id: bad.outcome.message for bad in execution.quarantined},
        committed=len(committed),
        left_out=len(committed) - len(candidates),
        rejected=now.journal.rejected,
        devices_then=run.devices if run else (),
        devices_now=tuple(sorted(set(driver.devices))),
        numerics=tuple(sorted({trial.setting.numerics for trial in now.plan.trials})),
    )


def _weights_of(planned: Planned) -> Path:
    """Return the weights file. Raises an error if weights, images or engine are not those of the results."""
    sweep, facts, data = planned.sweep, planned.plan.facts, planned.sweep.data
    split = data.open(data.split, index=planned.layout.index)
    if split.fingerprint != facts.data_fingerprint:
        raise DataError(
            f"{data.path or data.source}: split {data.split!r} has the fingerprint {split.fingerprint[:16]}, but the "
            f"results in {planned.layout.root} are of images with {facts.data_fingerprint[:16]}; put those back"
        )
    weights = find_weights(sweep)
    if weights.identity != facts.weights or not weights.path.is_file():
        got = f"have the SHA-256 {weights.identity[:16]}" if weights.path.is_file() else "are not there"
        raise NetworkError(
            f"{weights.path}: the weights {got}, but the results in {planned.layout.root} are of weights with "
            f"{facts.weights[:16]}; put those back"
        )
    if make_plan(sweep, facts).context != planned.plan.context:
        raise ResultsError(
            f"{planned.layout.plan}: the results are of another version of the engine than this one; verify them with "
            "the version that run.json names"
        )
    return weights.path
