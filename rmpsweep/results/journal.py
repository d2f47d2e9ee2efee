"""How a unit is committed to a results directory, and which unit files count.

A file under its final name is whole, and says what it computes and from what, under a checksum over every byte of it.
`scan` trusts nothing else: a truncated, altered, foreign or stale file counts as missing.

In a folder the first commit of a unit wins, and a later one has to agree with it. In an object store, where that cannot
be had, every attempt has a file of its own; `scan` takes the first of them and compares the others with it.
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
"""Objects read from a store at the same time."""


@dataclass(frozen=True)
class LayerActivity:
    """What was counted of one layer (or "input"), summed over the images and neurons of a unit.

    Trial "ann" has multiply-accumulates (`engine.dense_macs`) for synops at time step 0 and nothing else; units of
    earlier versions have no such rows.
    """

    trial_id: str
    layer: str
    neurons: int
    time_steps: tuple[int, ...]
    counts: tuple[tuple[int, ...] | None, ...]
    """[F, T], in the order of FIGURES; None for a figure that was not counted yet when the unit was computed."""


@dataclass(frozen=True)
class UnitResult:
    """A computed unit: one prediction row for each cell (UNIT_SCHEMA), and the activity of its trials.

    provenance: trial_id -> digest of the thresholds it was computed with.
    """

    unit: Unit
    context: str
    provenance: Mapping[str, str]
    predictions: pa.Table
    activity: tuple[LayerActivity, ...]

    def outcomes(self) -> Iterator[tuple[str, int, NDArray[np.int64], NDArray[np.bool_]]]:
        """For every trial at each T: trial_id, T, image ids [N], and whether each was classified correctly [N]."""
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
    """The unit files of a results directory."""

    results: tuple[UnitResult, ...]
    """What counts; no two of them share a cell."""
    rejected: Mapping[str, str]
    """Name of a file that does not count -> why."""
    conflicts: tuple[str, ...]
    """Sentences about attempts of one unit that were both verified and differ."""
    verified: Mapping[str, UnitResult]
    """File name -> what the file holds, for every file that is whole and fits the plan."""

    @property
    def done(self) -> list[Unit]:
        """The finished units."""
        return [result.unit for result in self.results]


def commit_unit(layout: Layout, result: UnitResult, patience_s: float = PATIENCE_S) -> Location:
    """Write a unit file; the same result gives the same bytes, so committing twice is harmless.

    In a folder, a file that is there already stays if it counts; where it holds something else, which a UserWarning
    then says, this result is dropped. `units/` has to be there.

    Args:
        patience_s: how long to wait for storage that is away.
    Raises:
        StorageError: it could not be written within that time, or the disk is full or read-only.
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
        context: of the plan; files of other weights, data or engines do not count.
        provenance: trial_id -> digest of its thresholds; files computed with others do not count.
        last: an earlier scan by this process. Files it has verified are not read again, since a committed file never
            changes; whether they count is judged anew.
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
    """A unit file that does not count, and why."""


_UNREADABLE = (OSError, pa.ArrowException, ValueError, KeyError, TypeError)


def _read(path: Location, known: Mapping[str, UnitResult]) -> UnitResult | str:
    """What a unit file holds, or why that cannot be trusted."""
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
    """Why a result does not count; "" if it does."""
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
    """Over a file whose own checksum is all zeros."""
    return b"sha256:" + hashlib.sha256(content).hexdigest().encode()


def _decode(content: bytes) -> UnitResult:
    """Raises _Rejected; nothing is parsed before every byte has been verified."""
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
