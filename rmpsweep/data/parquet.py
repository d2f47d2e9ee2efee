"""A store of images in Parquet files, as Hugging Face keeps data sets: columns image{bytes, path} and label."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rmpsweep.data.files import absolute, find_files, stamp
from rmpsweep.data.store import (
    BATCH_ROWS,
    Listing,
    OnListed,
    Store,
    basename,
    first_distinct,
    row_numbers,
    shard_column,
    stem,
)
from rmpsweep.errors import DataError, StorageError


class ParquetStore(Store):
    """A split in one or more Parquet files on this machine, in an object store or behind a URL.

    The key of an image is the basename of its image.path without extension if these are distinct for all rows, else its
    row number, counted over the files in order of name. Besides the columns of every listing, this one has row_group
    i32 and row i32 (within the file). Reading an image starts at the beginning of its row group, so small row groups
    (100 to 1,000 images) are best.
    """

    def __init__(self, path: str | None, split: str) -> None:
        files = find_files("parquet", path, split, ".parquet")
        self._files = {absolute(str(file)): file for file in files}
        self._metadata: dict[tuple[str, str], pq.FileMetaData] = {}
        first = files[0].resolve() if isinstance(files[0], Path) else files[0]
        self.name = f"{first.parent.name}/{split}"
        self.identity = ("parquet", *self._files)

    def listing(self, on_listed: OnListed) -> Listing:
        """List the images from the columns of labels and names; no image is read."""
        tables, names, done = [], [], 0
        made_from = {name: stamp(file) for name, file in self._files.items()}
        for name in self._files:
            table, classes = self._scan(name)
            tables.append(table)
            names.append(classes)
            done += len(table)
            on_listed(done)
        if any(classes != names[0] for classes in names):
            raise DataError(f"{self.name}: the files name different classes; they belong to different data sets")
        table = pa.concat_tables(tables)
        if len(table) == 0:
            raise DataError(f"{next(iter(self._files))}: no rows in {len(self._files)} file(s)")
        keys = first_distinct([stem(basename(table["name"]))])
        numbers = pa.array(np.repeat(np.arange(len(tables)), [len(each) for each in tables]))
        table = table.drop_columns("name").append_column("path", shard_column(list(self._files), numbers))
        return Listing(
            table.append_column("key", row_numbers(len(table)) if keys is None else keys),
            made_from,
            None if names[0] is None else len(names[0]),
        )

    def class_names(self) -> tuple[str, ...]:
        """The class names in the Hugging Face metadata of the first file; empty if there are none."""
        with self._opened(next(iter(self._files))) as parquet:
            return tuple(_class_names((parquet.schema_arrow.metadata or {}).get(b"huggingface")) or ())

    def stamp(self, name: str) -> str:
        """The stamp of one of the files."""
        return stamp(self._files[name])

    def where(self, row: Mapping[str, Any]) -> str:
        """The file, row and key of the image."""
        return f"{row['path']}: row {row['row']} (key {row['key']!r})"

    def batches(self, table: pa.Table) -> Iterator[pa.Table]:
        """One part for each run of rows in the same row group."""
        groups = table["row_group"].to_numpy()
        files = table["path"].combine_chunks().indices.to_numpy()
        ends = np.flatnonzero((np.diff(groups) != 0) | (np.diff(files) != 0)) + 1
        for start, stop in zip([0, *ends], [*ends, len(table)], strict=True):
            yield table.slice(start, stop - start)

    def encoded(self, rows: pa.Table) -> Iterator[tuple[int, bytes]]:
        """Read the images row group by row group."""
        wanted: dict[tuple[str, int], dict[int, list[int]]] = {}
        columns = (rows[name].to_pylist() for name in ("path", "row_group", "row"))
        for position, (path, group, row) in enumerate(zip(*columns, strict=True)):
            wanted.setdefault((path, group), {}).setdefault(row, []).append(position)
        for (path, group), positions in wanted.items():
            yield from self._group(path, group, positions)

    def _group(self, path: str, group: int, positions: Mapping[int, list[int]]) -> Iterator[tuple[int, bytes]]:
        left = max(positions)
        with self._opened(path) as parquet:
            start = _row_group_starts(parquet)[group]
            for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=["image.bytes"]):
                column = pc.struct_field(batch["image"], "bytes")
                for row in range(max(start, min(positions)), min(start + len(batch), left + 1)):
                    for position in positions.get(row, ()):
                        yield position, column[row - start].as_py() or b""
                start += len(batch)
                if start > left:
                    break

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[pq.ParquetFile]:
        """Open a file with a position of its own; the metadata of each version of a file is read only once."""
        file = self._files[path]
        version = path, stamp(file) if isinstance(file, Path) else ""
        with contextlib.ExitStack() as stack:
            try:
                source = str(file) if isinstance(file, Path) else stack.enter_context(file.open())
                opened = pq.ParquetFile(
                    source, metadata=self._metadata.get(version), pre_buffer=not isinstance(file, Path)
                )
                stack.callback(opened.close)
                self._metadata[version] = opened.metadata
                yield opened
            except (OSError, IndexError, pa.ArrowException) as error:
                kind = DataError if isinstance(file, Path) or isinstance(error, pa.ArrowInvalid) else StorageError
                raise kind(f"{path}: not a readable Parquet file ({error})") from error

    def _scan(self, path: str) -> tuple[pa.Table, list[str] | None]:
        """The label, name, row_group and row of every image in a file, and the class names in its metadata, if any."""
        with self._opened(path) as parquet:
            _check_columns(path, parquet.schema_arrow)
            found = parquet.read(columns=["image.path", "label"])
            groups = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
            about = (parquet.schema_arrow.metadata or {}).get(b"huggingface")
        unlabelled = pc.index(found["label"].is_null(), True).as_py()
        if unlabelled >= 0:
            raise DataError(f"{path}: row {unlabelled}: label: got none, expected an integer of 0 or more")
        names = pc.struct_field(found["image"], "path").cast(pa.string())
        columns = {
            "label": found["label"].cast(pa.int64()),
            "name": names,
            "row_group": pa.array(np.repeat(np.arange(len(groups)), groups), pa.int32()),
            "row": pa.array(np.arange(len(found)), pa.int32()),
        }
        return pa.table(columns), _class_names(about)


def _row_group_starts(file: pq.ParquetFile) -> list[int]:
    """The row of the file at which each row group starts."""
    starts = [0]
    for group in range(file.num_row_groups):
        starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
    return starts[:-1]


def _class_names(about: bytes | None) -> list[str] | None:
    """The class names in the metadata that Hugging Face's `datasets` writes; None if there are none."""
    try:
        names = json.loads(about or b"{}")["info"]["features"]["label"]["names"]
    except (ValueError, KeyError, TypeError):
        return None
    return [str(name) for name in names] if isinstance(names, list) and names else None


def _check_columns(path: str, schema: pa.Schema) -> None:
    expected = "expected columns image (struct of bytes and path) and label (integer)"
    columns = dict(zip(schema.names, schema.types, strict=True))
    image, label = columns.get("image"), columns.get("label")
    if image is None or label is None:
        raise DataError(f"{path}: got columns {', '.join(schema.names)}; {expected}")
    if not pa.types.is_struct(image) or {"bytes", "path"} - {field.name for field in image}:
        raise DataError(f"{path}: image: got {image}; {expected}")
    if not pa.types.is_integer(label):
        raise DataError(f"{path}: label: got {label}; {expected}")
