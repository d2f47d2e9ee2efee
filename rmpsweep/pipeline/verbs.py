"""The verbs of the main command, in order: prepare, inspect, train, calibrate, save, evaluate; then `publish`.

Each takes what the one before returned; none prints. torch and ray are imported by the verbs that need them.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rmpsweep import results as files
from rmpsweep.data import OnIndex, Skipped, absolute
from rmpsweep.errors import CalibrationError, DataError, InputError, ResultsError, StorageError
from rmpsweep.pipeline.search import Standing, document, replay
from rmpsweep.pipeline.weights import Weights, find_weights, train_recipe, with_transform
from rmpsweep.results import Journal, Layout, check_directory, discard_index, make_units, remove_orphans, scan
from rmpsweep.storage import Location, hold_lease, locate
from rmpsweep.sweep.file import dump_sweep, parse_sweep
from rmpsweep.sweep.plan import ANN, Facts, Plan, Trial, Unit, calibration_ids, make_plan, pending
from rmpsweep.sweep.schema import Sweep, parse_setting
from rmpsweep.sweep.thresholds import GivenThresholds, OwnRule, find_given
from rmpsweep.terms import Setting
from rmpsweep.tracking import without_password
from rmpsweep.workers.driver import Driver
from rmpsweep.workers.events import Execution, Limits, Listener, StageBegan
from rmpsweep.workers.jobs import CalibrationJob, EvaluationJob
from rmpsweep.workers.protocol import Pool, WorkerLike

Thresholds = Mapping[str, Mapping[str, Sequence[float]]]
"""calibration_id -> layer -> thresholds."""
ORPHAN_S = 600.0
"""A temporary file that old belongs to a writer that died."""


@dataclass(frozen=True)
class Prepared:
    """A sweep with everything it depends on found, and its plan.

    given: by `Setting.given_by`; skipped: images left out, known where the data were opened; search: where an adaptive
    search stands, None before the first look at its results.
    """

    sweep: Sweep
    layout: Layout
    weights: Weights
    plan: Plan
    dataset: str
    given: Mapping[str, GivenThresholds | OwnRule] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    search: Standing | None = None


@dataclass(frozen=True)
class Progress:
    """Where a sweep stands on disk: thresholds known, unit files that count, units to do (of an adaptive search: at
    most)."""

    thresholds: Thresholds
    journal: Journal
    todo: tuple[Unit, ...]


@contextlib.contextmanager
def working_on(results: str | Location, tell: Callable[[str], None], sweep: Sweep | None = None) -> Iterator[None]:
    """Hold the lease of a results directory: of two launches one waits, and `tell` gets the reason.

    Args:
        sweep: refuse the directory before anything is made in it, if it is not this sweep's.
    Raises:
        ResultsError, StorageError: the directory is another sweep's, or cannot be used.
    """
    layout = Layout(locate(results))
    if sweep is not None:
        check_directory(layout, sweep)
    with hold_lease(layout.root, tell):
        remove_orphans(layout, ORPHAN_S)
        if layout.root.is_dir():
            layout.progress.unlink(missing_ok=True)  # of a launch that was killed
        try:
            yield
        finally:
            discard_index(layout)


def results_of(sweep: Sweep) -> Path:
    """Where the results of a sweep lie unless another place is named."""
    return Path("results") / sweep.name


def prepare(
    sweep: Sweep,
    results: str | Location | None = None,
    limit: int | None = None,
    *,
    download: bool = False,
    on_index: OnIndex | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Open the data, find the weights, make the plan.

    Args:
        results: where the results lie or shall lie, as `storage.locate` takes it; default `results_of`.
        download: fetch data that is missing and can be fetched, and put the data's index into the results, where
            workers find it; else nothing is written but that index in the cache.
        on_index: told how the making of an index goes on.
        note: gets what a person should know of the data, a sentence each.

    Raises:
        DataError, NetworkError: data or weights are missing or unusable. ResultsError, StorageError: the
            directory is another sweep's, or cannot be written.
    """
    layout = Layout(locate(results or results_of(sweep)))
    sweep = with_transform(sweep)
    data = sweep.data
    if data.path is not None:
        labels = data.labels and absolute(data.labels)
        data = data.model_copy(update={"path": absolute(data.path), "labels": labels})
        sweep = sweep.model_copy(update={"data": data})
    check_directory(layout, sweep)
    split = data.open(data.split, download, layout.index, on_index)
    try:
        calibration = data.open(data.calibration_split, download, layout.index, on_index)
    except DataError as error:
        own = f"data.split={data.split}[512:] --set data.calibration_split={data.split}[:512]"
        raise DataError(f"calibration_split: {error}; or calibrate on images of your own split: --set {own}") from error
    weights = find_weights(sweep, download)
    given = find_given(sweep.settings())
    facts = Facts(
        weights.identity,
        split.fingerprint,
        calibration.fingerprint,
        split.num_images,
        calibration.num_images,
        {name: each.digest() for name, each in given.items()},
        len(split.skipped),
    )
    plan = make_plan(sweep, facts, limit)
    if download:
        for each in (split, calibration):
            each.keep_index(layout.index)
    for text in dict.fromkeys(split.notes + calibration.notes):
        note(text)
    return Prepared(sweep, layout, weights, plan, split.name, given, split.skipped)


def reopen(results: Location) -> Prepared:
    """What was launched in a results directory, from the directory alone. Raises ResultsError, StorageError."""
    layout = Layout(results)
    saved = files.read_json(layout.plan)
    if saved is None or not layout.sweep.is_file():
        raise ResultsError(f"{results}: no sweep has been launched here; give a sweep's name or its results directory")
    sweep = parse_sweep(layout.sweep.read_text(encoding="utf-8"), str(layout.sweep))
    try:
        trials = tuple(Trial(t["trial_id"], t["calibration_id"], parse_setting(t["setting"])) for t in saved["trials"])
        plan = Plan(
            saved["context"],
            Facts(**saved["facts"]),
            trials,
            tuple(saved["time_steps"]),
            saved["limit"],
            saved["shard_size"],
            saved.get("stopped", {}),
        )
        return Prepared(sweep, layout, Weights(Path(), plan.facts.weights, None), plan, saved["dataset"])
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(
            f"{layout.plan}: not a plan of this version ({type(error).__name__}: {error}); launch the sweep again"
        ) from error


def train(prepared: Prepared, on_epoch: Callable[[Any], None]) -> Prepared:
    """Make the weights if they are missing, and plan again with their identity. Raises NetworkError, StorageError."""
    if prepared.weights.recipe is None:
        return prepared
    train_recipe(prepared.weights.recipe, prepared.weights.path, on_epoch)
    weights = find_weights(prepared.sweep)
    facts = replace(prepared.plan.facts, weights=weights.identity)
    return replace(prepared, weights=weights, plan=make_plan(prepared.sweep, facts, prepared.plan.limit))


def inspect(prepared: Prepared) -> Progress:
    """Read thresholds and unit files from disk; changes nothing. Files that cannot be read count as missing."""
    thresholds = read_calibrations(prepared)
    journal = scan(prepared.layout, prepared.plan.context, _provenance(prepared.plan, thresholds))
    return Progress(thresholds, journal, tuple(pending(prepared.plan, journal.done)))


def advance(prepared: Prepared, progress: Progress) -> tuple[Prepared, Progress]:
    """The same, with what an adaptive search concludes from the results; sweeps without one stay as they are."""
    if prepared.sweep.search is None:
        return prepared, progress
    standing = replay(prepared.sweep, prepared.plan, progress.journal.results)
    added = standing.plan.trials != prepared.plan.trials
    prepared = replace(prepared, plan=standing.plan, search=standing)
    if added:  # whose results are checked for the first time
        return advance(prepared, inspect(prepared))
    return prepared, replace(progress, todo=tuple(pending(prepared.plan, progress.journal.done)))


def cut(prepared: Prepared, progress: Progress, workers: int, within: tuple[int, int] | None = None) -> Progress:
    """The same, what is left (within some positions) cut into units that so many workers can share."""
    return replace(progress, todo=tuple(pending(prepared.plan, progress.journal.done, workers, within)))


def read_calibrations(prepared: Prepared) -> Thresholds:
    """The thresholds found so far; a table that cannot be read counts as missing."""
    thresholds = {}
    for calibration_id in dict.fromkeys(trial.calibration_id for trial in prepared.plan.trials):
        with contextlib.suppress(StorageError):
            thresholds[calibration_id] = files.read_thresholds(prepared.layout.thresholds(calibration_id))
    return thresholds


def check_network(prepared: Prepared) -> None:
    """Build, load and convert the network once, before any cluster time is spent, and fit given thresholds to it.

    Raises:
        NetworkError, DataError, CalibrationError: what a worker would find.
    """
    from rmpsweep.workers.loading import check_given, load_network, open_evaluated

    split = open_evaluated(prepared.sweep, prepared.layout.index)
    _, net = load_network(prepared.sweep, prepared.weights.path, split)
    for setting in prepared.sweep.settings():
        if setting.given_by:
            check_given(net, prepared.given[setting.given_by], setting, prepared.sweep.data)


def open_pool(
    prepared: Prepared,
    *,
    inline: bool = False,
    actors: int | None = None,
    address: str | None = None,
    logs: bool = True,
) -> Pool:
    """Where the workers will run; logs: whether they write theirs into the results. Raises ClusterError."""
    from rmpsweep.workers.pools import InlinePool, RayPool

    make_worker = functools.partial(
        _make_worker,
        prepared.sweep,
        prepared.weights.path.absolute(),
        prepared.layout.root.absolute(),
        prepared.plan.facts,
    )
    if inline:
        return InlinePool(make_worker)
    run = prepared.sweep.run
    folder = prepared.layout.logs
    return RayPool(
        make_worker,
        actors or run.actors,
        address=address,
        gpus_per_worker=run.gpus_per_actor,
        logs=folder.absolute() if logs and isinstance(folder, Path) else None,
        beat_every_s=min(5.0, run.stall_deadline_s / 3),
    )


def limits(sweep: Sweep, max_failures: int | None = None, *, fail_fast: bool = False) -> Limits:
    """When a launch gives up."""
    run = sweep.run
    return Limits(
        retries=run.retries,
        max_failures=max_failures,
        fail_fast=fail_fast,
        schedule_s=run.schedule_deadline_s,
        setup_s=run.setup_deadline_s,
        stall_s=run.stall_deadline_s,
    )


def calibrate(
    prepared: Prepared,
    known: Thresholds,
    driver: Driver,
    listener: Listener = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Thresholds, list[str]]:
    """Find the thresholds that are not known yet; nothing is written.

    Returns:
        All thresholds, and warnings of those found now.
    Raises:
        CalibrationError, or another InputError: what a worker found. KeyboardInterrupt: stopped before the end.
    """
    missing = {t.calibration_id: t.setting for t in prepared.plan.trials if t.calibration_id not in known}
    calibration = prepared.sweep.calibration
    ids = calibration_ids(prepared.plan.facts.num_calibration_images, calibration.images, calibration.seed)
    jobs = [
        CalibrationJob(key, setting, tuple(ids.tolist()), prepared.given.get(setting.given_by or ""))
        for key, setting in missing.items()
    ]
    execution = driver.execute(jobs, listener, stop, StageBegan(stage="calibrating", jobs=len(jobs)))
    if execution.interrupted:
        raise KeyboardInterrupt
    for bad in execution.quarantined:
        rule = rule_name(bad.outcome.job.setting)
        if isinstance(bad.outcome.error, InputError):
            raise type(bad.outcome.error)(f"calibration {rule}: {bad.outcome.error}")
        raise CalibrationError(f"calibration {rule} failed {bad.attempts} times: {bad.outcome.message}")
    found = {outcome.job.job_id: outcome.report.value for outcome in execution.outcomes}
    notes = [
        f"{rule_name(outcome.job.setting)}: {warning}"
        for outcome in execution.outcomes
        for warning in outcome.report.warnings
    ]
    return {**known, **found}, notes


def rule_name(setting: Setting) -> str:
    """A threshold rule as people read it."""
    return f"{setting.threshold} by {setting.granularity}"


def save(prepared: Prepared, thresholds: Thresholds, warnings: Sequence[str] = ()) -> None:
    """Write what was launched, where it changed: resolved sweep, plan, thresholds. The first write of a launch."""
    layout, plan = prepared.layout, prepared.plan
    files.write_text(layout.sweep, dump_sweep(without_secret(prepared.sweep)))
    make_units(layout)
    files.write_json(layout.plan, plan_json(prepared))
    if prepared.search is not None:
        files.write_json(layout.search, document(prepared.sweep, prepared.search))
    else:
        layout.search.unlink(missing_ok=True)
    if prepared.skipped:
        files.write_csv(layout.skipped, [asdict(image) for image in prepared.skipped])
    else:
        layout.skipped.unlink(missing_ok=True)
    run = files.read_json(layout.run) or {"created_ms": int(time.time() * 1000), "launches": []}
    run["warnings"] = list(dict.fromkeys([*run.get("warnings", []), *warnings]))
    files.write_json(layout.run, run)
    for calibration_id, values in thresholds.items():
        path = layout.thresholds(calibration_id)
        if any(t.calibration_id == calibration_id for t in plan.trials):
            files.write_thresholds(path, values)


def evaluate(
    prepared: Prepared, progress: Progress, driver: Driver, listener: Listener, stop: Callable[[], bool]
) -> Execution:
    """Compute the missing units."""
    trials = {t.trial_id: (t.setting, progress.thresholds[t.calibration_id]) for t in prepared.plan.trials}
    context = prepared.plan.context
    jobs = [
        EvaluationJob(unit.unit_id(context), unit, context, {t: trials[t] for t, _ in unit.work if t != ANN})
        for unit in progress.todo
    ]
    image_steps = sum(unit.image_steps for unit in progress.todo)
    return driver.execute(jobs, listener, stop, StageBegan(stage="evaluating", jobs=len(jobs), image_steps=image_steps))


def _make_worker(
    sweep: Sweep, weights: Path, results: Location, facts: Facts, threads: int | None, device: str | None
) -> WorkerLike:
    from rmpsweep.workers.worker import Worker, WorkerSpec

    return Worker(WorkerSpec(sweep, weights, results, facts.data, facts.calibration_data, threads, device))


def _provenance(plan: Plan, thresholds: Thresholds) -> dict[str, str]:
    digests = {key: files.thresholds_digest(values) for key, values in thresholds.items()}
    return {t.trial_id: digests.get(t.calibration_id, "unknown") for t in plan.trials}


def without_secret(sweep: Sweep) -> Sweep:
    """Without a tracking URI that holds a password: what is written to disk and shown must not."""
    uri = sweep.mlflow.tracking_uri
    if uri is None or without_password(uri) == uri:
        return sweep
    return sweep.model_copy(update={"mlflow": sweep.mlflow.model_copy(update={"tracking_uri": None})})


def plan_json(prepared: Prepared) -> dict[str, Any]:
    """What plan.json holds; `reopen` reads it."""
    plan = prepared.plan
    return {
        "context": plan.context,
        "dataset": prepared.dataset,
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
