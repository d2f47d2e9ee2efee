"""One pass over Parquet files of images: keys, labels, digests and positions, cached between runs.

The index is an Arrow table with one row per image, sorted by key:

    key str | label i64 | sha256 str (of the encoded image) | file i32 | row_group i32 | row i32 (within the file) |
    width i32 | height i32 (pixels)

Its metadata hold `content`, the SHA-256 of all (key, label, sha256).
"""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rmpsweep.data.cache import cache_dir
from rmpsweep.errors import DataError
from rmpsweep.storage import write_atomic

INDEX_VERSION = 1
BATCH_ROWS = 256

_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("label", pa.int64()),
        ("sha256", pa.string()),
        ("file", pa.int32()),
        ("row_group", pa.int32()),
        ("row", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)


def load_index(files: list[Path]) -> pa.Table:
    """The index of these files, from the cache if none of them has changed (path, size, modification time).

    Raises:
        DataError: a file that is not Parquet or lacks the columns; a record that is empty, not an image or has no label
            of 0 or more; names file, row and key.
    """
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    identity = json.dumps([INDEX_VERSION, stats]).encode()
    cached = cache_dir() / "index" / f"{hashlib.sha256(identity).hexdigest()}.parquet"
    try:
        return pq.read_table(cached)
    except (OSError, pa.ArrowException):
        index = _build(files)
    buffer = io.BytesIO()
    pq.write_table(index, buffer)
    write_atomic(cached, buffer.getvalue())
    return index


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a file. Raises DataError if it is not Parquet."""
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error


def row_group_starts(file: pq.ParquetFile) -> list[int]:
    """Row within the file at which each row group starts."""
    starts = [0]
    for group in range(file.num_row_groups):
        starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
    return starts[:-1]


def _build(files: list[Path]) -> pa.Table:
    rows = [row for number, path in enumerate(files) for row in _scan(number, path)]
    if not rows:
        raise DataError(f"{files[0]}: no rows in {len(files)} file(s)")
    names = [row["key"] for row in rows]
    if None in names or len(set(names)) < len(names):
        for number, row in enumerate(rows):
            row["key"] = f"{number:012d}"
    rows.sort(key=lambda row: row["key"])
    content = hashlib.sha256()
    for row in rows:
        content.update(json.dumps([row["key"], row["label"], row["sha256"]]).encode())
    metadata = {"content": content.hexdigest()}
    return pa.Table.from_pylist(rows, schema=_SCHEMA.with_metadata(metadata))


def _scan(number: int, path: Path) -> Iterator[dict[str, Any]]:
    """One dict per row of a file; the key is the basename of image.path, or None."""
    file = open_parquet(path)
    _check_columns(path, file.schema_arrow)
    for group, start in enumerate(row_group_starts(file)):
        row = start
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=["image", "label"]):
            for image, label in zip(batch["image"].to_pylist(), batch["label"].to_pylist(), strict=True):
                key = Path(image["path"]).name if image and image["path"] else None
                where = f"{path}: row {row} (key {key!r})"
                if not image or not image["bytes"]:
                    raise DataError(f"{where}: image: the record is empty")
                if label is None or label < 0:
                    raise DataError(f"{where}: label: got {label}, expected an integer of 0 or more")
                width, height = _size(image["bytes"], where)
                digest = hashlib.sha256(image["bytes"]).hexdigest()
                yield {
                    "key": key,
                    "label": label,
                    "sha256": digest,
                    "file": number,
                    "row_group": group,
                    "row": row,
                    "width": width,
                    "height": height,
                }
                row += 1


def _check_columns(path: Path, schema: pa.Schema) -> None:
    expected = "expected columns image (struct of bytes and path) and label (integer)"
    columns = dict(zip(schema.names, schema.types, strict=True))
    image, label = columns.get("image"), columns.get("label")
    if image is None or label is None:
        raise DataError(f"{path}: got columns {', '.join(schema.names)}; {expected}")
    if not pa.types.is_struct(image) or {"bytes", "path"} - {field.name for field in image}:
        raise DataError(f"{path}: image: got {image}; {expected}")
    if not pa.types.is_integer(label):
        raise DataError(f"{path}: label: got {label}; {expected}")


def _size(encoded: bytes, where: str) -> tuple[int, int]:
    """Width and height in pixels from the header; truncation is found without decoding every image.

    A PNG's checksums are verified, and a JPEG that does not end in its end marker is decoded.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(encoded)) as image:
            size = image.size
            if image.format == "PNG":
                image.verify()
            elif image.format == "JPEG" and not encoded.rstrip(b"\0").endswith(b"\xff\xd9"):
                image.load()
            return size
    except UnidentifiedImageError:
        raise DataError(f"{where}: image: {len(encoded)} bytes that are not an image PIL can read") from None
    except Exception as error:  # each format raises its own
        raise DataError(f"{where}: image: damaged or cut short ({error}); {len(encoded)} bytes") from error
