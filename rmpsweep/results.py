"""What lies in a results directory, and how a unit is committed to it. The only file that knows file names.

A unit file is written under a temporary name, read back, and moved into place, so a file under its final name is
whole; its footer says what it computes and from what, with a checksum over the contents. `scan` trusts nothing else:
a truncated, altered, foreign or stale file counts as missing.
"""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from rmpsweep.errors import StorageError
from rmpsweep.files import write_atomic
from rmpsweep.plan import Unit, disjoint

SCHEMA_VERSION = "1"

UNIT_SCHEMA = pa.schema(
    [
        ("trial_id", pa.string()), ("image_id", pa.int64()), ("label", pa.int32()), ("time_steps", pa.int32()),
        ("prediction", pa.int32()), ("label_rank", pa.int16()),
    ]
)  # fmt: skip
PREDICTIONS_SCHEMA = UNIT_SCHEMA.append(pa.field("correct", pa.bool_()))
SUMMARY_SCHEMA = pa.schema(
    [
        ("trial_id", pa.string()), ("network", pa.string()), ("dataset", pa.string()), ("threshold", pa.string()),
        ("granularity", pa.string()), ("alpha", pa.float64()), ("alpha_scope", pa.string()), ("reset", pa.string()),
        ("encoding", pa.string()), ("input_scale", pa.float64()), ("v_init", pa.float64()), ("max_pool", pa.string()),
        ("seed", pa.int64()), ("numerics", pa.string()), ("time_steps", pa.int32()), ("images", pa.int64()),
        ("images_planned", pa.int64()), ("correct", pa.int64()), ("accuracy", pa.float64()), ("ci_low", pa.float64()),
        ("ci_high", pa.float64()), ("top5", pa.float64()), ("ann_accuracy", pa.float64()),
        ("spikes_per_image", pa.float64()), ("firing_rate", pa.float64()), ("synops_per_image", pa.float64()),
    ]
)  # fmt: skip
ACTIVITY_SCHEMA = pa.schema(
    [
        ("trial_id", pa.string()), ("layer", pa.string()), ("time_steps", pa.int32()), ("neurons", pa.int64()),
        ("images", pa.int64()), ("spikes", pa.int64()), ("synops", pa.int64()), ("saturated", pa.int64()),
    ]
)  # fmt: skip
CALIBRATION_SCHEMA = pa.schema(
    [("layer", pa.string()), ("channel", pa.int32()), ("threshold", pa.float64())]
)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Names of everything in a results directory."""

    root: Path

    @property
    def sweep(self) -> Path:
        """The resolved sweep."""
        return self.root / "sweep.yaml"

    @property
    def plan(self) -> Path:
        """Trials with their settings, and what the results depend on."""
        return self.root / "plan.json"

    @property
    def units(self) -> Path:
        """The journal: one Parquet file for each committed unit."""
        return self.root / "units"

    @property
    def calibration(self) -> Path:
        """One Parquet table of thresholds for each calibration."""
        return self.root / "calibration"

    @property
    def calibration_csv(self) -> Path:
        """All calibrations in one table for people."""
        return self.root / "calibration.csv"

    @property
    def predictions(self) -> Path:
        """Every (trial, time step, image)."""
        return self.root / "predictions.parquet"

    @property
    def summary(self) -> Path:
        """Every (trial, time step)."""
        return self.root / "summary.parquet"

    @property
    def activity(self) -> Path:
        """Every (trial, layer, time step)."""
        return self.root / "activity.parquet"

    @property
    def report(self) -> Path:
        """The page."""
        return self.root / "report.html"

    @property
    def run(self) -> Path:
        """Versions, devices, timings."""
        return self.root / "run.json"

    @property
    def database(self) -> Path:
        """MLflow's, unless a sweep names another tracking URI."""
        return self.root / "mlflow.db"

    def unit(self, unit_id: str) -> Path:
        """The file of a unit."""
        return self.units / f"{unit_id}.parquet"

    def thresholds(self, calibration_id: str) -> Path:
        """The table of a calibration."""
        return self.calibration / f"{calibration_id}.parquet"


@dataclass(frozen=True)
class LayerActivity:
    """Counts of one layer (or "input") over the images of a unit, at each of the time steps: spikes, synops, and pairs
    of image and neuron that are saturated (terms.SATURATED_RATE)."""

    trial_id: str
    layer: str
    neurons: int
    time_steps: tuple[int, ...]
    spikes: tuple[int, ...]
    synops: tuple[int, ...]
    saturated: tuple[int, ...]


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


@dataclass(frozen=True)
class Journal:
    """The unit files of a results directory: those that count, and why others do not (file name -> reason)."""

    results: tuple[UnitResult, ...]
    rejected: Mapping[str, str]

    @property
    def done(self) -> list[Unit]:
        """The finished units."""
        return [result.unit for result in self.results]


def commit_unit(layout: Layout, result: UnitResult) -> Path:
    """Write a unit file; the same result gives the same bytes, so committing twice is harmless. Raises StorageError."""
    path = layout.unit(result.unit.unit_id(result.context))
    write_atomic(path, _encode(result))
    return path


def scan(layout: Layout, context: str, provenance: Mapping[str, str]) -> Journal:
    """Read and verify every unit file.

    Args:
        context: of the plan; files of other weights, data or engines do not count.
        provenance: trial_id -> digest of its thresholds; files computed with others do not count.
    """
    results, rejected = [], {}
    for path in sorted(layout.units.glob("*.parquet")) if layout.units.is_dir() else []:
        try:
            result = _decode(path.read_bytes())
            if result.unit.unit_id(result.context) != path.stem:
                raise _Rejected("its contents are those of another unit")
            if result.context != context:
                raise _Rejected("made from other weights, data or engine version")
            if any(provenance.get(trial, digest) != digest for trial, digest in result.provenance.items()):
                raise _Rejected("made with other thresholds")
            results.append(result)
        except (_Rejected, OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
            rejected[path.name] = str(error) or type(error).__name__
    keep = disjoint([result.unit for result in results])
    for result, kept in zip(results, keep, strict=True):
        if not kept:
            rejected[f"{result.unit.unit_id(context)}.parquet"] = "its cells are held by another unit file"
    return Journal(tuple(result for result, kept in zip(results, keep, strict=True) if kept), rejected)


def write_table(path: Path, table: pa.Table, schema: pa.Schema) -> None:
    """Write a result table atomically, unless it is there already with the same bytes."""
    sink = io.BytesIO()
    _write(sink, table.cast(schema), {})
    content = sink.getvalue()
    if not path.is_file() or path.read_bytes() != content:
        write_atomic(path, content)


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a result table and check its version.

    Raises:
        StorageError: missing, unreadable, or of another schema version.
    """
    try:
        metadata, table = _read(path.read_bytes())
    except (OSError, pa.ArrowException, ValueError) as error:
        raise StorageError(f"{path}: cannot be read: {error}; make it again with rmpsweep merge") from error
    version = metadata.get("rmpsweep.schema_version")
    if version != SCHEMA_VERSION or not table.schema.equals(schema):
        raise StorageError(
            f"{path}: got a table of schema version {version}, expected {SCHEMA_VERSION} and its columns; "
            "make it again with rmpsweep merge"
        )
    return table


def write_thresholds(path: Path, thresholds: Mapping[str, Sequence[float]]) -> None:
    """Write a calibration: layer -> one threshold, or one per channel. "input" -> Λ_0."""
    rows = [
        {"layer": layer, "channel": c if len(values) > 1 else -1, "threshold": value}
        for layer, values in thresholds.items()
        for c, value in enumerate(values)
    ]
    write_table(path, pa.Table.from_pylist(rows, schema=CALIBRATION_SCHEMA), CALIBRATION_SCHEMA)


def read_thresholds(path: Path) -> dict[str, list[float]]:
    """Read a calibration. Raises StorageError."""
    thresholds: dict[str, list[float]] = {}
    for row in read_table(path, CALIBRATION_SCHEMA).to_pylist():
        thresholds.setdefault(row["layer"], []).append(row["threshold"])
    return thresholds


def thresholds_digest(thresholds: Mapping[str, Sequence[float]]) -> str:
    """16 hex digits of the exact values."""
    text = json.dumps({layer: [float(v).hex() for v in values] for layer, values in thresholds.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, unless it is there already with the same text."""
    content = text.encode()
    if not path.is_file() or path.read_bytes() != content:
        write_atomic(path, content)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with equal keys as CSV, unless they are there already; an empty file for no rows."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0] if rows else (), lineterminator="\n")
    if rows:
        writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, unless it is there already."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The contents of a JSON file, None if there is none. Raises StorageError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error


class _Rejected(Exception):
    """A unit file that does not count, and why."""


def _encode(result: UnitResult) -> bytes:
    head = {
        "unit": asdict(result.unit),
        "context": result.context,
        "provenance": dict(result.provenance),
        "activity": [asdict(activity) for activity in result.activity],
    }
    footer = json.dumps(head, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    sink = io.BytesIO()
    checksum = _checksum(result.predictions, footer)
    _write(sink, result.predictions, {"rmpsweep.unit": footer, "rmpsweep.checksum": checksum})
    return sink.getvalue()


def _decode(content: bytes) -> UnitResult:
    metadata, predictions = _read(content)
    if metadata.get("rmpsweep.schema_version") != SCHEMA_VERSION:
        raise _Rejected(f"schema version {metadata.get('rmpsweep.schema_version')}, expected {SCHEMA_VERSION}")
    footer = metadata["rmpsweep.unit"]
    if not predictions.schema.equals(UNIT_SCHEMA) or _checksum(predictions, footer) != metadata["rmpsweep.checksum"]:
        raise _Rejected("its checksum does not match its contents")
    head = json.loads(footer)
    unit = Unit(head["unit"]["start"], head["unit"]["stop"], tuple((t, tuple(s)) for t, s in head["unit"]["work"]))
    if predictions.num_rows != unit.num_cells:
        raise _Rejected(f"holds {predictions.num_rows} rows, expected {unit.num_cells}")
    rows = [{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()} for row in head["activity"]]
    return UnitResult(
        unit, head["context"], head["provenance"], predictions, tuple(LayerActivity(**row) for row in cast(Any, rows))
    )


def _checksum(table: pa.Table, footer: str) -> str:
    digest = hashlib.sha256(footer.encode())
    for name in table.column_names:
        column = table[name].combine_chunks()
        values = column.dictionary_encode() if pa.types.is_string(column.type) else column
        if isinstance(values, pa.DictionaryArray):
            digest.update(json.dumps(values.dictionary.to_pylist()).encode())
            values = values.indices
        digest.update(name.encode() + values.to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()


def _write(sink: io.BytesIO, table: pa.Table, metadata: Mapping[str, str]) -> None:
    with pq.ParquetWriter(
        sink, table.schema, compression="zstd", write_page_checksum=True, store_schema=False
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"rmpsweep.schema_version": SCHEMA_VERSION, **metadata})


def _read(content: bytes) -> tuple[dict[str, str], pa.Table]:
    """Footer metadata and rows; pages are checked against their checksums."""
    file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    metadata = {key.decode(): value.decode() for key, value in (file.metadata.metadata or {}).items()}
    return metadata, file.read().replace_schema_metadata(None)
