"""Find everything that a sweep depends on, and make its plan."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rmpsweep.aside import Aside, Lost
from rmpsweep.data import OnIndex, Skipped, absolute
from rmpsweep.errors import DataError, NetworkError, RmpsweepError
from rmpsweep.pipeline.weights import Weights, find_weights, train_recipe, with_transform
from rmpsweep.results import Layout, PlanFile, check_directory, discard_index, remove_orphans
from rmpsweep.storage import Location, hold_lease, locate
from rmpsweep.sweep.file import parse_sweep
from rmpsweep.sweep.plan import Facts, Plan, make_plan
from rmpsweep.sweep.schema import Sweep
from rmpsweep.sweep.thresholds import GivenThresholds, OwnRule, find_given

ORPHAN_S = 600.0
"""The age in seconds from which a temporary file is taken to belong to a writer that died."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """A sweep, its plan, and the layout of its results directory, which need not exist yet."""

    sweep: Sweep
    layout: Layout
    plan: Plan
    dataset: str
    """The name of the evaluated split in the tables."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared(Planned):
    """A planned sweep whose inputs have been found, so that it can be computed."""

    weights: Weights
    given: Mapping[str, GivenThresholds | OwnRule]
    """Threshold file, or name of a rule from outside the package -> the thresholds or the rule."""
    skipped: tuple[Skipped, ...]
    """The images that are left out because they cannot be decoded."""


@contextlib.contextmanager
def working_on(results: str | Location, tell: Callable[[str], None], sweep: Sweep | None = None) -> Iterator[None]:
    """Hold the lease of a results directory: the second of two launches waits, and `tell` gets the reason.

    Args:
        sweep: the sweep to be launched; a directory of another sweep is refused before anything is made in it.
            None skips this check.
    Raises:
        ResultsError: the directory holds another sweep or something else.
        StorageError: the directory cannot be used.
    """
    layout = Layout(locate(results))
    if sweep is not None:
        check_directory(layout, sweep)
    with hold_lease(layout.root, tell):
        remove_orphans(layout, ORPHAN_S)
        if layout.root.is_dir():
            layout.progress.unlink(missing_ok=True)  # left over from a launch that was killed
        try:
            yield
        finally:
            discard_index(layout)


def results_of(sweep: Sweep) -> Path:
    """Return the folder of a sweep's results when no other place is named."""
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
        download: fetch data and published weights that are missing, and put the index of the images into the
            results, where workers find it. If it is false, only the cache is written, and only that index.
        on_index: called while an index is made.
        note: called with each sentence that a person should know about the data.
    Raises:
        DataError, NetworkError: data or weights are missing or unusable.
        CalibrationError: a threshold file cannot be read, or a rule from outside the package cannot be imported.
        ResultsError: the directory holds another sweep or something else.
        StorageError: the directory cannot be written, or remote data cannot be reached.
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
    return Prepared(
        sweep=sweep, layout=layout, plan=plan, dataset=split.name, weights=weights, given=given, skipped=split.skipped
    )


def reopen(results: Location) -> Planned:
    """Read what was launched in a results directory from that directory alone.

    Raises:
        ResultsError: no sweep has been launched there.
        SweepError: its sweep.yaml is not a sweep of this version.
        StorageError: plan.json is not a plan of this version, or the directory cannot be read.
    """
    layout = Layout(results)
    saved = PlanFile.read(layout)
    sweep = parse_sweep(layout.sweep.read_text(encoding="utf-8"), str(layout.sweep))
    return Planned(sweep=sweep, layout=layout, plan=saved.plan, dataset=saved.dataset)


def train(prepared: Prepared, on_epoch: Callable[[Any], None]) -> Prepared:
    """Train the weights if they are missing, and plan again with the identity of the trained file.

    Raises:
        NetworkError: the network cannot be trained.
        DataError: the data of the recipe cannot be used.
        StorageError: the weights cannot be written.
    """
    if prepared.weights.recipe is None:
        return prepared
    train_recipe(prepared.weights.recipe, prepared.weights.path, on_epoch)
    weights = find_weights(prepared.sweep)
    facts = replace(prepared.plan.facts, weights=weights.identity)
    return replace(prepared, weights=weights, plan=make_plan(prepared.sweep, facts, prepared.plan.limit))


@contextlib.contextmanager
def trying_network(prepared: Prepared) -> Iterator[None]:
    """Do as `try_network` does while the caller starts workers within this context, and raise its errors at the end.

    They come before errors of the context. A process of its own tries the network, so that this one does not load
    torch, unless torch is here already.
    """
    try:
        aside = None if "torch" in sys.modules else Aside()
    except OSError:  # no room for a process
        aside = None
    if aside is None:
        try_network(prepared)
        yield
        return
    with aside:
        aside.ask(try_network, prepared)
        try:
            yield
        except RmpsweepError:
            _tried(aside, prepared)
            raise
        _tried(aside, prepared)


def _tried(aside: Aside, prepared: Prepared) -> None:
    try:
        aside.answer()
    except Lost as lost:
        raise NetworkError(
            f"{prepared.sweep.network.label}: cannot be tried before workers start: {lost}; is there enough memory?"
        ) from lost


def try_network(prepared: Prepared) -> None:
    """Build, load and convert the network once before cluster time is spent, and check that given thresholds fit it.

    Raises:
        NetworkError, DataError, CalibrationError: the errors that a worker would run into.
    """
    from rmpsweep.workers.loading import check_given, load_network, open_evaluated

    split = open_evaluated(prepared.sweep, prepared.layout.index)
    _, net = load_network(prepared.sweep, prepared.weights.path, split)
    for setting in prepared.sweep.settings():
        if setting.given_by:
            check_given(net, prepared.given[setting.given_by], setting, prepared.sweep.data)
