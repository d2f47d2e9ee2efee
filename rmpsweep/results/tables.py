"""Read and write the tables, thresholds, text and JSON of a results directory.

Files are written whole, and are left alone if their contents would not change.
"""

import contextlib
import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rmpsweep.errors import StorageError, TableError
from rmpsweep.storage import Location, write_atomic
from rmpsweep.terms import FIGURES, SETTINGS, Setting

SCHEMA_VERSION = "1"
ROW_GROUP = 2**20
"""The number of rows of a file that are encoded together and can be read without the others."""

UNIT_SCHEMA = pa.schema(
    [
        ("trial_id", pa.string()),
        ("image_id", pa.int64()),
        ("label", pa.int32()),
        ("time_steps", pa.int32()),
        ("prediction", pa.int32()),
        ("label_rank", pa.int16()),
    ]
)
PREDICTIONS_SCHEMA = UNIT_SCHEMA.append(pa.field("correct", pa.bool_()))
_TYPES = {str: pa.string(), float: pa.float64(), int: pa.int64()}
_DEFAULTS = {field.name: field.default for field in fields(Setting)}
SUMMARY_SCHEMA = pa.schema(
    [
        ("trial_id", pa.string()),
        ("network", pa.string()),
        ("dataset", pa.string()),
        *((name, _TYPES[type(_DEFAULTS[name])]) for name in SETTINGS),
        ("time_steps", pa.int32()),
        ("images", pa.int64()),
        ("images_planned", pa.int64()),
        ("correct", pa.int64()),
        ("accuracy", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("top5", pa.float64()),
        ("ann_accuracy", pa.float64()),
        ("spikes_per_image", pa.float64()),
        ("firing_rate", pa.float64()),
        ("synops_per_image", pa.float64()),
    ]
)
ACTIVITY_SCHEMA = pa.schema(
    [
        ("trial_id", pa.string()),
        ("layer", pa.string()),
        ("time_steps", pa.int32()),
        ("neurons", pa.int64()),
        ("images", pa.int64()),
        *((figure, pa.int64()) for figure in FIGURES),
    ]
)
CALIBRATION_SCHEMA = pa.schema([("layer", pa.string()), ("channel", pa.int32()), ("threshold", pa.float64())])


def write_table(path: Location, table: pa.Table, schema: pa.Schema) -> None:
    """Write a result table atomically, unless the file has the same bytes already."""
    content = encode_parquet(table.cast(schema), {})
    if not path.is_file() or path.read_bytes() != content:
        write_atomic(path, content)


def read_table(path: Location, schema: pa.Schema, rows: pc.Expression | None = None) -> pa.Table:
    """Read a result table and check its version.

    Args:
        rows: a filter; None reads all rows. Row groups without any wanted row are not decoded.
    Raises:
        TableError: the table is missing, cannot be read, or has another schema version.
        StorageError: an object store cannot be reached.
    """
    try:
        metadata, table = decode_parquet(path.read_bytes(), rows)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise TableError(f"{path}: cannot be read: {error}; make it again with rmpsweep merge") from error
    version = metadata.get("rmpsweep.schema_version")
    if version != SCHEMA_VERSION or not table.schema.equals(schema):
        raise TableError(
            f"{path}: got a table of schema version {version}, expected {SCHEMA_VERSION} and its columns; "
            "make it again with rmpsweep merge"
        )
    return table


def digest(path: Location) -> str:
    """Return the SHA-256 (hex) of a file's bytes. One version of pyarrow writes equal tables as equal bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_thresholds(path: Location, thresholds: Mapping[str, Sequence[float]]) -> None:
    """Write a calibration: layer -> one threshold, or one per channel; "input" -> Λ_0. Equal values are left alone."""
    with contextlib.suppress(StorageError):
        if read_thresholds(path) == {layer: list(values) for layer, values in thresholds.items()}:
            return
    rows = [
        {"layer": layer, "channel": c if len(values) > 1 else -1, "threshold": value}
        for layer, values in thresholds.items()
        for c, value in enumerate(values)
    ]
    write_table(path, pa.Table.from_pylist(rows, schema=CALIBRATION_SCHEMA), CALIBRATION_SCHEMA)


def read_thresholds(path: Location) -> dict[str, list[float]]:
    """Read a calibration in the form in which `write_thresholds` takes it.

    Raises:
        TableError, StorageError: as from `read_table`.
    """
    thresholds: dict[str, list[float]] = {}
    for row in read_table(path, CALIBRATION_SCHEMA).to_pylist():
        thresholds.setdefault(row["layer"], []).append(row["threshold"])
    return thresholds


def thresholds_digest(thresholds: Mapping[str, Sequence[float]]) -> str:
    """Return a digest of the exact values (16 hex digits)."""
    text = json.dumps({layer: [float(v).hex() for v in values] for layer, values in thresholds.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_text(path: Location, text: str) -> None:
    """Write a text file atomically, unless the file has this text already."""
    content = text.encode()
    if not path.is_file() or path.read_bytes() != content:
        write_atomic(path, content)


def write_csv(path: Location, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with equal keys as CSV, unless the file holds them already. Without rows, the file is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0] if rows else (), lineterminator="\n")
    if rows:
        writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_json(path: Location, value: Any) -> None:
    """Write a value as JSON atomically, unless the file holds it already."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Location) -> Any:
    """Read a JSON file; None if there is none. Raises StorageError if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: cannot be read: {error}") from error


def encode_parquet(table: pa.Table, metadata: Mapping[str, str]) -> bytes:
    """Encode a table as a Parquet file, with the metadata and the schema version in its footer.

    Equal tables give equal bytes, however they are divided into chunks.
    """
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink, table.schema, compression="zstd", write_page_checksum=True, store_schema=False
    ) as writer:
        for first in range(0, table.num_rows or 1, ROW_GROUP):
            writer.write_table(table.slice(first, ROW_GROUP).combine_chunks())
        writer.add_key_value_metadata({"rmpsweep.schema_version": SCHEMA_VERSION, **metadata})
    return sink.getvalue()


def decode_parquet(content: bytes, rows: pc.Expression | None = None) -> tuple[dict[str, str], pa.Table]:
    """Decode a Parquet file into the metadata of its footer and its rows.

    Args:
        rows: a filter; None takes all rows. Row groups without any wanted row are not decoded.
    Raises:
        ArrowException, OSError or ValueError: a page or the footer is damaged.
    """
    file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    metadata = {key.decode(): value.decode() for key, value in (file.metadata.metadata or {}).items()}
    if rows is None:
        large = file.metadata.num_rows > ROW_GROUP  # Arrow's threads would cost more than small files take
        return metadata, file.read(use_threads=large).replace_schema_metadata(None)
    from pyarrow import dataset  # loads pandas

    fragment = dataset.ParquetFileFormat().make_fragment(pa.BufferReader(content))
    groups = (file.read_row_group(group.id).filter(rows) for group in fragment.subset(rows).row_groups)
    return metadata, pa.concat_tables([file.schema_arrow.empty_table(), *groups]).replace_schema_metadata(None)
