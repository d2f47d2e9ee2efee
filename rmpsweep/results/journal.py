"""Commit units to a results directory, and tell which unit files count.

A file gets its final name only once it is whole. A disk may damage it later, so it states which unit it holds and what
it was computed from, and a checksum covers every byte. `scan` trusts nothing else: a truncated, altered, foreign or
stale file counts as missing.

In a folder, the first commit of a unit wins, and a later commit whose results differ is dropped with a warning. Object
stores offer no way to refuse the second writer, so there every attempt has its own file. `scan` takes the one whose
name sorts first, whenever it was written, and merging refuses if another one differs.
"""

import functools
import hashlib
import json
import re
import uuid
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rmpsweep.results.layout import Layout
from rmpsweep.results.tables import UNIT_SCHEMA, decode_parquet, encode_parquet
from rmpsweep.storage import PATIENCE_S, Location, ObjectPath, write_atomic, write_first
from rmpsweep.sweep.plan import Unit, disjoint
from rmpsweep.terms import FIGURES

UNIT_VERSION = "2"
_NO_CHECKSUM = "sha256:" + "0" * 64
_CHECKSUM = re.compile(rb"sha256:[0-9a-f]{64}")
_READERS = 16
"""The number of objects that are read from a store at the same time."""


@dataclass(frozen=True)
class LayerActivity:
    """The counts of one layer under one trial, added over the images of a unit and the neurons of the layer.

    For the trial "ann", which has the time step 0 alone, synops are multiply-accumulates (`engine.dense_macs`) and the
    other counts are 0. Units of earlier versions have no rows of this trial.
    """

    trial_id: str
    layer: str
    """The name of the layer, or "input"."""
    neurons: int
    """The number of neurons of the layer."""
    time_steps: tuple[int, ...]
    counts: tuple[tuple[int, ...] | None, ...]
    """Counts [F, T] in the order of FIGURES; None for a figure that was not counted when the unit was computed."""


@dataclass(frozen=True)
class UnitResult:
    """A computed unit."""

    unit: Unit
    context: str
    """The identity of network, data and engine (`Plan.context`)."""
    provenance: Mapping[str, str]
    """trial_id -> the digest of the thresholds that the trial was computed with."""
    predictions: pa.Table
    """One row of UNIT_SCHEMA for each cell."""
    activity: tuple[LayerActivity, ...]
    """The counts of every layer under every trial."""

    def outcomes(self) -> Iterator[tuple[str, int, NDArray[np.int64], NDArray[np.bool_]]]:
        """Yield for every trial at each T: trial_id, T, image ids [N], and whether each is classified right [N]."""
        image_id, time_steps, rank = (
            self.predictions[name].to_numpy() for name in ("image_id", "time_steps", "label_rank")
        )
        trials = self.predictions["trial_id"].combine_chunks().dictionary_encode()
        codes, names = trials.indices.to_numpy(), trials.dictionary.to_pylist()
        for trial, steps in self.unit.work:
            of_trial = codes == names.index(trial)
            for t in steps:
                cells = of_trial & (time_steps == t)
                yield trial, t, image_id[cells], rank[cells] == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Journal:
    """The state of the unit files of a results directory."""

    results: tuple[UnitResult, ...]
    """The results that count. No two of them share a cell."""
    rejected: Mapping[str, str]
    """Name of a file that does not count -> the reason."""
    conflicts: tuple[str, ...]
    """A sentence for each verified file whose results differ from those of another attempt at the same unit."""
    verified: Mapping[str, UnitResult]
    """File name -> the result it holds, for every file that is whole and fits context and thresholds."""

    @property
    def done(self) -> list[Unit]:
        """The units whose results count."""
        return [result.unit for result in self.results]


def commit_unit(layout: Layout, result: UnitResult, patience_s: float = PATIENCE_S) -> Location:
    """Write a unit file. The same result gives the same bytes, so committing it twice is harmless.

    In a folder, a file that exists already stays if it verifies, holds this unit and was computed with the same
    thresholds; any other file is replaced. If the results in the file that stays differ, a UserWarning says so, and the
    new result is dropped. The folder `units/` must exist. In an object store every call puts an object of its own.

    Args:
        patience_s: how many seconds to wait for storage that is away.
    Returns:
        The path of the file.
    Raises:
        StorageError: the file could not be written within that time, or the disk is full or read-only.
    """
    content = _encode(result)
    unit_id = result.unit.unit_id(result.context)
    path = layout.unit(unit_id)
    if not isinstance(path, Path):
        path = layout.unit(unit_id, uuid.uuid4().hex[:12])
        write_atomic(path, content, patience_s)
        return path

    def stays(existing: bytes) -> bool:
        if existing == content:
            return True
        try:
            other = _decode(existing)
        except (_Rejected, *_UNREADABLE):
            return False
        if (other.unit, other.context, other.provenance) != (result.unit, result.context, result.provenance):
            return False
        if other != result:
            warnings.warn(
                f"{path}: another attempt at this unit committed other results first; they stay, and those of this "
                "attempt are dropped (floating point may differ between kinds of device)",
                stacklevel=2,
            )
        return True

    write_first(path, content, stays, patience_s)
    return path


def scan(layout: Layout, context: str, provenance: Mapping[str, str], last: Journal | None = None) -> Journal:
    """Read and verify every unit file.

    Args:
        context: that of the plan; files computed from other weights or data or by another engine do not count.
        provenance: trial_id -> the digest of its thresholds. A file that holds a trial with other thresholds does not
            count; trials that are not in `provenance` are not checked.
        last: an earlier scan by this process. Files that it verified are not read again, because a file that
            counts never changes; whether they still count is decided anew.
    Raises:
        StorageError: an object store cannot be reached.
    """
    found: dict[str, tuple[str, UnitResult]] = {}
    rejected, conflicts, verified = {}, [], {}
    paths: list[Location] = list(layout.units.glob("*.parquet")) if layout.units.is_dir() else []
    paths.sort(key=lambda path: path.name)
    read = functools.partial(_read, known=last.verified if last is not None else {})
    with ThreadPoolExecutor(_READERS) as readers:
        contents = readers.map(read, paths) if isinstance(layout.root, ObjectPath) else map(read, paths)
        for path, result in zip(paths, contents, strict=True):
            if isinstance(result, str):
                rejected[path.name] = result
                continue
            if reason := _reason_against(result, context, provenance):
                rejected[path.name] = reason
                continue
            first, counted = found.setdefault(_unit_id(path), (path.name, result))
            if result == counted:
                verified[path.name] = counted
            else:
                rejected[path.name] = f"its results differ from those of {first}, another attempt at the same unit"
                conflicts.append(f"{path.name}: {rejected[path.name]}")
    keep = disjoint([result.unit for _, result in found.values()])
    results = []
    for (name, result), kept in zip(found.values(), keep, strict=True):
        if kept:
            results.append(result)
        else:
            rejected[name] = "its cells are held by another unit file"
    return Journal(results=tuple(results), rejected=rejected, conflicts=tuple(conflicts), verified=verified)


class _Rejected(Exception):
    """A unit file does not count; the message says why."""


_UNREADABLE = (OSError, pa.ArrowException, ValueError, KeyError, TypeError)


def _read(path: Location, known: Mapping[str, UnitResult]) -> UnitResult | str:
    """Return the result in a unit file, or the reason why the file cannot be trusted."""
    if path.name in known:
        return known[path.name]
    try:
        result = _decode(path.read_bytes())
    except (_Rejected, *_UNREADABLE) as error:
        return str(error) or type(error).__name__
    if result.unit.unit_id(result.context) != _unit_id(path):
        return "its contents are those of another unit"
    return result


def _reason_against(result: UnitResult, context: str, provenance: Mapping[str, str]) -> str:
    """Return why a result does not count; "" if it does."""
    if result.context != context:
        return "made from other weights, data or engine version"
    if any(provenance.get(trial, digest) != digest for trial, digest in result.provenance.items()):
        return "made with other thresholds"
    return ""


def _unit_id(path: Location) -> str:
    return path.name.partition(".")[0]


def _encode(result: UnitResult) -> bytes:
    head = {
        "unit": asdict(result.unit),
        "context": result.context,
        "provenance": dict(result.provenance),
        "activity": [
            {
                "trial_id": each.trial_id,
                "layer": each.layer,
                "neurons": each.neurons,
                "time_steps": each.time_steps,
                **dict(zip(FIGURES, each.counts, strict=True)),
            }
            for each in result.activity
        ],
    }
    footer = json.dumps(head, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    metadata = {"rmpsweep.schema_version": UNIT_VERSION, "rmpsweep.unit": footer, "rmpsweep.checksum": _NO_CHECKSUM}
    content = encode_parquet(result.predictions, metadata)
    return content.replace(_NO_CHECKSUM.encode(), _checksum(content))


def _checksum(content: bytes) -> bytes:
    """Return the checksum of a file in which the place of the checksum holds zeros."""
    return b"sha256:" + hashlib.sha256(content).hexdigest().encode()


def _decode(content: bytes) -> UnitResult:
    """Verify every byte of a unit file, then parse it. Raises _Rejected."""
    said = _CHECKSUM.findall(content)
    if len(said) != 1:
        raise _Rejected("has no checksum: it is cut short or damaged, no unit file, or of an earlier version")
    if _checksum(content.replace(said[0], _NO_CHECKSUM.encode())) != said[0]:
        raise _Rejected("its checksum does not match its contents")
    metadata, predictions = decode_parquet(content)
    if metadata.get("rmpsweep.schema_version") != UNIT_VERSION:
        raise _Rejected(f"schema version {metadata.get('rmpsweep.schema_version')}, expected {UNIT_VERSION}")
    if not predictions.schema.equals(UNIT_SCHEMA):
        raise _Rejected(f"columns {', '.join(predictions.column_names)}, expected {', '.join(UNIT_SCHEMA.names)}")
    head = json.loads(metadata["rmpsweep.unit"])
    unit = Unit(head["unit"]["start"], head["unit"]["stop"], tuple((t, tuple(s)) for t, s in head["unit"]["work"]))
    if predictions.num_rows != unit.num_cells:
        raise _Rejected(f"holds {predictions.num_rows} rows, expected {unit.num_cells}")
    activity = tuple(
        LayerActivity(
            row["trial_id"],
            row["layer"],
            row["neurons"],
            tuple(row["time_steps"]),
            tuple(tuple(row[figure]) if figure in row else None for figure in FIGURES),
        )
        for row in head["activity"]
    )
    return UnitResult(unit, head["context"], head["provenance"], predictions, activity)
