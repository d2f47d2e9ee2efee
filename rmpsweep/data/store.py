"""The interface of every packing of images: a listing, which reads no image, and the bytes of the images asked for."""

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
    """What a store holds."""

    table: pa.Table
    """A row for each image, in the order of storage: key str (distinct), label i64 (0 or more), path str (the file that
    holds the image), and whatever else the store needs to find the image."""
    made_from: Mapping[str, str]
    """File or folder -> its `Store.stamp`, for every one that would change if the listing did."""
    num_classes: int | None = None
    """None if the storage does not tell it."""
    notes: tuple[str, ...] = ()
    """What a person should know about the storage, in a sentence each."""


class Store(ABC):
    """The images of one split in one packing.

    A store is safe to use from several threads, because no file is kept open between calls.
    """

    name: str
    """The `ImageSplit.name` of the split."""
    identity: tuple[str, ...]
    """The source and the absolute paths that were asked for. As long as the storage is unchanged, stores of equal
    identity give equal listings."""
    remedy = "start again"
    """What to do about images that have changed since they were indexed."""

    @abstractmethod
    def listing(self, on_listed: OnListed) -> Listing:
        """List all images.

        Raises:
            DataError: there are no images, or labels or names that cannot be used.
        """

    @abstractmethod
    def stamp(self, name: str) -> str:
        """A text that changes when a file or folder of `Listing.made_from` does; empty if it is gone."""

    @abstractmethod
    def encoded(self, rows: pa.Table) -> Iterator[tuple[int, bytes]]:
        """Yield (position in `rows`, encoded image) of every row, in any order; b"" for a record that holds no image.

        Raises:
            DataError, StorageError: a file cannot be read.
        """

    def class_names(self) -> tuple[str, ...]:
        """The `ImageSplit.class_names` of the split, with the same exceptions."""
        return ()

    def where(self, row: Mapping[str, Any]) -> str:
        """The name of a row's image in messages."""
        return f"{row['path']} (key {row['key']!r})"

    def batches(self, table: pa.Table) -> Iterator[pa.Table]:
        """Cut a listing into parts that are best read together, in the order of the listing."""
        return (table.slice(start, BATCH_ROWS) for start in range(0, len(table), BATCH_ROWS))


def stem(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """Remove the extension of each path if it is that of an image."""
    endings = "|".join(extension[1:] for extension in (*EXTENSIONS, ".gif"))
    return pc.replace_substring_regex(paths, rf"(?i)\.({endings})$", "")


def basename(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """The part of each path after its last slash."""
    return pc.replace_substring_regex(paths, "(?s)^.*/", "")


def first_distinct(candidates: Iterable[pa.ChunkedArray]) -> pa.ChunkedArray | None:
    """The first candidate that gives every image a key of its own; None if none does."""
    for keys in candidates:
        if keys.null_count == 0 and pc.count_distinct(keys).as_py() == len(keys):
            return keys
    return None


def row_numbers(count: int) -> pa.ChunkedArray:
    """Keys for images whose names tell nothing: their row numbers, with leading zeros."""
    return pa.chunked_array([pa.array([f"{number:012d}" for number in range(count)], pa.string())])


def texts(values: list[str], where: str) -> pa.Array:
    """Make an Arrow array of names.

    Raises:
        DataError: a name is not UTF-8.
    """
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: the name {error.object!r} is not UTF-8; rename the file") from None


def shard_column(names: list[str], numbers: pa.Array) -> pa.ChunkedArray:
    """The path column of a listing in which many images share a file; `numbers` are places in the list of files."""
    return pa.chunked_array([pa.DictionaryArray.from_arrays(numbers.cast(pa.int32()), pa.array(names, pa.string()))])
