"""The index of a split: what its store lists, with digests and sizes of the images, from one pass over them.

The index is an Arrow table with one row per image, sorted by key. It has the columns of `store.Listing.table` and

    sha256 binary[32] (of the encoded image) | width i32 | height i32 (pixels)

These three are null for images that were not read. A split of up to 100,000 images is read in full; of a larger split
64 images are read, unless all are decoded to leave out the bad ones. `Index.content` is the SHA-256 over every (key,
label, sha256) or, for a larger split, over every (key, label) and the sha256 of those 64 images.

An index is kept between runs, in the cache and beside the results, under the digest of what was asked for. It is valid
as long as the files and folders it was made from are unchanged.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rmpsweep.data.cache import cache_dir
from rmpsweep.data.images import BadImage, check, decode
from rmpsweep.data.split import OnBadImage, OnIndex, Skipped, image_order
from rmpsweep.data.store import Store
from rmpsweep.environment import usable_cpus
from rmpsweep.errors import DataError, StorageError
from rmpsweep.storage import Location, write_atomic

INDEX_VERSION = 2
READ_WHOLE = 100_000
"""Splits of up to this number of images are read in full when they are indexed."""
SAMPLED = 64
"""The number of images that are read of a larger split: those at the first positions of `image_order`."""
_NAMED = 3
"""The number of bad images that an error message names."""


@dataclass(frozen=True)
class Index:
    """The index of a split; made_from, num_classes and notes are those of its `Listing`."""

    table: pa.Table
    """One row per image, as the module describes it."""
    content: str
    """The SHA-256 (hex) of the images' keys, labels and contents, as the module describes it."""
    made_from: dict[str, str]
    num_classes: int | None = None
    notes: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    """Bad images that were left out of the table."""

    def to_bytes(self) -> bytes:
        """The index as a Parquet file."""
        about = {
            "content": self.content,
            "made_from": self.made_from,
            "num_classes": self.num_classes,
            "notes": self.notes,
            "skipped": [(each.where, each.reason) for each in self.skipped],
        }
        sink = pa.BufferOutputStream()
        pq.write_table(self.table.replace_schema_metadata({"rmpsweep": json.dumps(about)}), sink)
        content: bytes = sink.getvalue().to_pybytes()
        return content

    @classmethod
    def from_bytes(cls, content: bytes) -> "Index":
        """Read an index that `to_bytes` wrote.

        Raises:
            pa.ArrowException, ValueError, KeyError, TypeError: the content is damaged, or is not an index.
        """
        table = pq.read_table(pa.BufferReader(content)).combine_chunks()
        about = json.loads((table.schema.metadata or {}).get(b"rmpsweep", b"null"))
        if about is None:
            raise ValueError("not an index")
        skipped = tuple(Skipped(*each) for each in about["skipped"])
        return cls(table, about["content"], about["made_from"], about["num_classes"], tuple(about["notes"]), skipped)


def load_index(
    store: Store, on_bad_image: OnBadImage = "fail", beside: Location | None = None, on_index: OnIndex | None = None
) -> Index:
    """The index of a store: a valid one from the folder `beside` or from the cache, or a new one, put into the cache.

    Raises:
        DataError: there are no images, or no usable ones; images are bad (with "fail", and only as far as they are read
            and their damage shows without decoding); or labels cannot be used.
        StorageError: the images cannot be reached, or the cache cannot be written.
    """
    for folder in (beside, cache_dir() / "index"):
        found = None if folder is None else _find(folder, store, on_bad_image)
        if found is not None:
            return found
    index = build_index(store, on_bad_image, on_index or (lambda *_: None))
    write_atomic(cache_dir() / "index" / _file_name(store, on_bad_image), index.to_bytes())
    return index


def keep_index(index: Index, store: Store, on_bad_image: OnBadImage, folder: Location) -> None:
    """Put an index into a folder, unless the folder holds a valid one.

    Raises:
        StorageError: the folder cannot be written.
    """
    if _find(folder, store, on_bad_image) is None:
        write_atomic(folder / _file_name(store, on_bad_image), index.to_bytes())


def _file_name(store: Store, on_bad_image: OnBadImage) -> str:
    identity = json.dumps([INDEX_VERSION, store.identity, on_bad_image])
    return f"{hashlib.sha256(identity.encode()).hexdigest()}.parquet"


def _find(folder: Location, store: Store, on_bad_image: OnBadImage) -> Index | None:
    try:
        index = Index.from_bytes((folder / _file_name(store, on_bad_image)).read_bytes())
    except (OSError, ValueError, KeyError, TypeError, StorageError, pa.ArrowException):
        return None
    fits = all(store.stamp(name) == stamp for name, stamp in index.made_from.items())
    return index if fits else None


def build_index(store: Store, on_bad_image: OnBadImage, on_index: OnIndex) -> Index:
    """Make a new index without keeping it anywhere. Raises DataError in the cases that `load_index` lists."""
    listing = store.listing(lambda done: on_index(store.name, done, None))
    table, total = listing.table, len(listing.table)
    _check_labels(store, table, listing.num_classes)
    skipped: tuple[Skipped, ...] = ()
    whole = total <= READ_WHOLE or on_bad_image == "skip"
    if whole:
        seen = _look(store, table, on_bad_image == "skip", lambda done: on_index(store.name, done, total))
        if on_bad_image == "fail":
            _check_none_bad(store, table, seen)
        skipped = tuple(sorted(_bad_images(store, table, seen)))
        table = _with(table, np.arange(total), seen)
        table = table.filter(pa.array([number not in seen.bad for number in range(total)]))
        if len(table) == 0:
            raise DataError(f"{store.name}: none of {total} images can be decoded; {_said(skipped)}")
    table = table.take(pc.sort_indices(table["key"])).combine_chunks()
    if not whole:
        ids = _sampled(table)
        sample = table.take(pa.array(ids))
        seen = _look(store, sample, False, lambda done: on_index(store.name, done, len(sample)))
        _check_none_bad(store, sample, seen)
        table = _with(table, ids, seen)
    return Index(table, _content(table), dict(listing.made_from), listing.num_classes, listing.notes, skipped)


def _check_labels(store: Store, table: pa.Table, num_classes: int | None) -> None:
    for bound, allowed in ((pc.min(table["label"]).as_py(), 0), (pc.max(table["label"]).as_py(), num_classes)):
        if bound < 0 or (allowed and bound >= allowed):
            row = table.slice(pc.index(table["label"], bound).as_py(), 1).to_pylist()[0]
            expected = f"0 to {num_classes - 1}" if num_classes else "an integer of 0 or more"
            raise DataError(f"{store.where(row)}: label: got {bound}, expected {expected}")


@dataclass(frozen=True)
class _Seen:
    """What reading the images of a table found out, by position in the table."""

    digests: list[bytes]
    widths: list[int]
    heights: list[int]
    bad: dict[int, str]
    """Position of a bad image -> why it is bad."""


def _look(store: Store, table: pa.Table, decoding: bool, on_done: Callable[[int], None]) -> _Seen:
    """Read every image of a table in threads, and decode it if `decoding`."""
    count = len(table)
    seen = _Seen([b""] * count, [0] * count, [0] * count, {})

    def look(start: int, rows: pa.Table) -> int:
        for position, encoded in store.encoded(rows):
            at = start + position
            seen.digests[at] = hashlib.sha256(encoded).digest()
            try:
                seen.widths[at], seen.heights[at] = check(encoded)
                if decoding:
                    decode(encoded)
            except BadImage as error:
                seen.bad[at] = str(error)
        return len(rows)

    batches = list(store.batches(table))
    starts = np.cumsum([0, *map(len, batches)]).tolist()[:-1]
    with ThreadPoolExecutor(usable_cpus()) as pool:
        try:
            done = 0
            for number in pool.map(look, starts, batches):
                done += number
                on_done(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return seen


def _bad_images(store: Store, table: pa.Table, seen: _Seen) -> list[Skipped]:
    return [Skipped(store.where(table.slice(at, 1).to_pylist()[0]), seen.bad[at]) for at in sorted(seen.bad)]


def _check_none_bad(store: Store, table: pa.Table, seen: _Seen) -> None:
    if seen.bad:
        bad = _bad_images(store, table, seen)
        remedy = "mend or remove them, or leave them out: data.on_bad_image: skip"
        count = "" if len(bad) == 1 else f"{len(bad)} of {len(table)} images cannot be used; "
        raise DataError(f"{count}{_said(bad)}; {remedy}")


def _said(bad: Sequence[Skipped]) -> str:
    """The first few bad images as text, and how many more there are."""
    more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return "; ".join(f"{each.where}: image: {each.reason}" for each in bad[:_NAMED]) + more


def _with(table: pa.Table, ids: np.ndarray, seen: _Seen) -> pa.Table:
    """Append the columns of the index to a table: what was seen of the rows `ids`, and null for all others."""
    found: tuple[tuple[str, Any, Sequence[object]], ...] = (
        ("sha256", pa.binary(32), seen.digests),
        ("width", pa.int32(), seen.widths),
        ("height", pa.int32(), seen.heights),
    )
    for name, kind, values in found:
        column: list[object] = [None] * len(table)
        for at, value in zip(ids.tolist(), values, strict=True):
            column[at] = value
        table = table.append_column(name, pa.array(column, kind))
    return table


def _sampled(table: pa.Table) -> np.ndarray:
    """The ids of the images whose digests stand for those of all, in a split that is not read in full."""
    return np.sort(image_order(len(table))[:SAMPLED])


def _content(table: pa.Table) -> str:
    """The SHA-256 (hex) over keys, labels and digests that is `Index.content`."""
    content = hashlib.sha256()
    whole = len(table) <= READ_WHOLE
    for rows in table.select(["key", "label", "sha256"]).to_batches(max_chunksize=65_536):
        keys, labels = rows["key"].to_pylist(), rows["label"].to_pylist()
        if whole:
            digests = [digest.hex() for digest in rows["sha256"].to_pylist()]
            lines = [json.dumps(line) for line in zip(keys, labels, digests, strict=True)]
        else:
            lines = [json.dumps(line) for line in zip(keys, labels, strict=True)]
        content.update("\n".join(lines).encode())
    if not whole:
        for digest in table["sha256"].take(pa.array(_sampled(table))).to_pylist():
            content.update(digest)
    return content.hexdigest()
