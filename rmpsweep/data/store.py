"""What every packing of images offers: a listing that reads none of them, and the bytes of those asked for."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rmpsweep.data.images import EXTENSIONS
from rmpsweep.errors import DataError

BATCH_ROWS = 256

OnListed = Callable[[int], None]
"""Called with the number of images listed so far."""


@dataclass(frozen=True)
class Listing:
    """What a store holds.

    table: a row for each image, in the order of storage: key str (distinct), label i64 (0 or more), path str (the file
        it lies in), and whatever else the store needs to find it; made_from: file or folder -> its `Store.stamp`, for
        all that would change if the listing did; num_classes: None where the storage does not say; notes: what a
        person should know of it, a sentence each.
    """

    table: pa.Table
    made_from: Mapping[str, str]
    num_classes: int | None = None
    notes: tuple[str, ...] = ()


class Store(ABC):
    """Images of one split in one packing. Safe to use from several threads: nothing is kept open between calls.

    name: as `ImageSplit.name`. identity: what was asked for, resolved; equal for equal listings of unchanged storage.
    remedy: what to do about images that are no longer those indexed.
    """

    name: str
    identity: tuple[str, ...]
    remedy = "start again"

    @abstractmethod
    def listing(self, on_listed: OnListed) -> Listing:
        """All images. Raises DataError: none, or labels or names that cannot be used."""

    @abstractmethod
    def stamp(self, name: str) -> str:
        """What changes when a file or folder of `Listing.made_from` does; empty where it is gone."""

    @abstractmethod
    def encoded(self, rows: pa.Table) -> Iterator[tuple[int, bytes]]:
        """(position in `rows`, encoded image) of every row, in any order; empty bytes for a record without any.

        Raises:
            DataError, StorageError: a file that cannot be read.
        """

    def class_names(self) -> tuple[str, ...]:
        """As `ImageSplit.class_names`. Raises DataError, StorageError."""
        return ()

    def where(self, row: Mapping[str, Any]) -> str:
        """How messages name the image of a row."""
        return f"{row['path']} (key {row['key']!r})"

    def batches(self, table: pa.Table) -> Iterator[pa.Table]:
        """Parts of a listing that are best read together, in its order."""
        return (table.slice(start, BATCH_ROWS) for start in range(0, len(table), BATCH_ROWS))


def stem(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without the extension, where it is that of an image."""
    endings = "|".join(extension[1:] for extension in (*EXTENSIONS, ".gif"))
    return pc.replace_substring_regex(paths, rf"(?i)\.({endings})$", "")


def basename(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """What follows the last slash."""
    return pc.replace_substring_regex(paths, "(?s)^.*/", "")


def first_distinct(candidates: Iterable[pa.ChunkedArray]) -> pa.ChunkedArray | None:
    """The first that tells all images apart."""
    for keys in candidates:
        if keys.null_count == 0 and pc.count_distinct(keys).as_py() == len(keys):
            return keys
    return None


def row_numbers(count: int) -> pa.ChunkedArray:
    """Keys where names tell nothing."""
    return pa.chunked_array([pa.array([f"{number:012d}" for number in range(count)], pa.string())])


def texts(values: list[str], where: str) -> pa.Array:
    """An Arrow array of names. Raises DataError if one is not UTF-8."""
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: the name {error.object!r} is not UTF-8; rename the file") from None


def shard_column(names: list[str], numbers: pa.Array) -> pa.ChunkedArray:
    """The path column of images of which many share a file."""
    return pa.chunked_array([pa.DictionaryArray.from_arrays(numbers.cast(pa.int32()), pa.array(names, pa.string()))])
