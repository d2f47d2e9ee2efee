"""One pass over a split's images: what its store lists, with digests and sizes, sorted by key, kept between runs.

The index is an Arrow table with one row per image, sorted by key: the columns of `store.Listing.table` and

    sha256 binary[32] (of the encoded image) | width i32 | height i32 (pixels)

which are null where the image was not read: in a split of more than 100,000 images all but 64 are not, unless all are
decoded to leave out the bad ones. `Index.content` is the SHA-256 of every (key, label, sha256), or in such a split of
every (key, label) and of the 64. An index is kept in the cache and beside the results, under the digest of what was
asked for; it counts while what it was made from is unchanged.
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
"""Splits of up to so many images are read whole when they are indexed."""
SAMPLED = 64
"""Of larger ones so many images are read: the first positions of `image_order`."""
_NAMED = 3
"""Bad images that an error names."""


@dataclass(frozen=True)
class Index:
    """table: as the module says; num_classes, notes, made_from: as `Listing`; skipped: images left out."""

    table: pa.Table
    content: str
    made_from: dict[str, str]
    num_classes: int | None = None
    notes: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def to_bytes(self) -> bytes:
        """As a Parquet file."""
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
        """What `to_bytes` gave. Raises pa.ArrowException or ValueError: damaged."""
        table = pq.read_table(pa.BufferReader(content)).combine_chunks()
        about = json.loads((table.schema.metadata or {}).get(b"rmpsweep", b"null"))
        if about is None:
            raise ValueError("not an index")
        skipped = tuple(Skipped(*each) for each in about["skipped"])
        return cls(table, about["content"], about["made_from"], about["num_classes"], tuple(about["notes"]), skipped)


def load_index(
    store: Store, on_bad_image: OnBadImage = "fail", beside: Location | None = None, on_index: OnIndex | None = None
) -> Index:
    """The index of a store: the one kept in `beside`, or in the cache, while it counts; else a new one, kept there.

    Raises:
        DataError: no images, bad ones (with "fail": those that show without being decoded), labels that cannot be used.
    """
    for folder in (beside, cache_dir() / "index"):
        found = None if folder is None else _find(folder, store, on_bad_image)
        if found is not None:
            return found
    index = build_index(store, on_bad_image, on_index or (lambda *_: None))
    write_atomic(cache_dir() / "index" / _file_name(store, on_bad_image), index.to_bytes())
    return index


def keep_index(index: Index, store: Store, on_bad_image: OnBadImage, folder: Location) -> None:
    """Put it into a folder, unless one that counts is there. Raises StorageError."""
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
    """A new index, kept nowhere. Raises DataError, as `load_index`."""
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
    """What images turned out to be, by position; bad: position -> why."""

    digests: list[bytes]
    widths: list[int]
    heights: list[int]
    bad: dict[int, str]


def _look(store: Store, table: pa.Table, decoding: bool, on_done: Callable[[int], None]) -> _Seen:
    """Read every image of a table, in threads; decoding: decode them, too."""
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
    """The first few of them."""
    more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return "; ".join(f"{each.where}: image: {each.reason}" for each in bad[:_NAMED]) + more


def _with(table: pa.Table, ids: np.ndarray, seen: _Seen) -> pa.Table:
    """With what was seen of these rows, null elsewhere."""
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
    """Ids of the images whose digests stand for those of all, in a split that is not read whole."""
    return np.sort(image_order(len(table))[:SAMPLED])


def _content(table: pa.Table) -> str:
    """SHA-256 (hex) of keys, labels and digests."""
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
