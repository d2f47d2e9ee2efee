"""A cache of decoded images between units and runs: uint8 pixels after resizing and cropping, in blocks.

A block holds neighbouring positions in one file, `decoded/<fingerprint of the data>/<start>-<stop>` in the cache. The
file consists of a SHA-256 over the fingerprint, the positions and the contents, then the labels (int64) and the pixels
(uint8 [N, C, H, W]). A block that cannot be read back whole counts as missing.
"""

import contextlib
import hashlib
import math
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rmpsweep.data.cache import cache_dir
from rmpsweep.data.split import ImageSplit
from rmpsweep.errors import StorageError
from rmpsweep.storage import remove_temporaries, write_atomic

if TYPE_CHECKING:
    import torch

ORPHAN_S = 3600.0
"""A temporary file of at least this age, in seconds, belongs to a writer that died."""


class DecodedCache:
    """The cached blocks of one split, within a bound for the blocks of all data together.

    Threads and processes can share the cache. Several processes may together exceed the bound by the blocks of the
    units they are working on.
    """

    def __init__(self, split: ImageSplit, bound: int) -> None:
        """Open the cache for a split; `bound` is in bytes."""
        self._split, self._bound = split, bound
        self._root = cache_dir() / "decoded"
        self._room, self._lock = 0, threading.Lock()

    def make_room(self, blocks: Sequence[range]) -> None:
        """Make room for blocks that are about to be used: remove the least recently used ones until these fit."""
        wanted, own = 0, {self._path(block): self._size(len(block)) for block in blocks}
        for path, size in own.items():
            try:
                os.utime(path)
            except OSError:
                wanted += size
        found = sorted(_files(self._root))
        total = sum(size for _, size, _ in found)
        for _, size, path in found:
            if total + (0 if path in own else wanted) > self._bound:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
                    total -= size
        self._room = self._bound - total

    def read(self, block: range) -> "tuple[torch.Tensor, torch.Tensor] | None":
        """Read the pixels uint8 [N, C, H, W] and labels int64 [N] of a block; None if it is not in the cache.

        A damaged block is removed and counts as missing.
        """
        import torch

        path = self._path(block)
        try:
            content = bytearray(path.read_bytes())
        except OSError:
            return None
        if len(content) != self._size(len(block)) or content[:32] != self._digest(block, memoryview(content)[32:]):
            with contextlib.suppress(OSError), self._lock:
                path.unlink()
                self._room += len(content)
            return None
        split = 32 + 8 * len(block)
        labels = torch.from_numpy(np.frombuffer(content, "<i8", len(block), 32))
        pixels = torch.from_numpy(np.frombuffer(content, np.uint8, offset=split))
        return pixels.view(len(block), *self._split.image_shape), labels

    def write(self, block: range, pixels: "torch.Tensor", labels: "torch.Tensor") -> None:
        """Keep a block if there is room for it. A write that fails causes a warning, and no more blocks are kept."""
        body = labels.numpy().astype("<i8").tobytes() + pixels.numpy().tobytes()
        with self._lock:
            if 32 + len(body) > self._room:
                return
            self._room -= 32 + len(body)
        try:
            write_atomic(self._path(block), self._digest(block, body) + body, patience_s=0.0)
        except StorageError as error:
            self._room = 0
            warnings.warn(f"run.decoded_cache_gb: decoded images are not kept: {error}", stacklevel=2)

    def _path(self, block: range) -> Path:
        return self._root / self._split.fingerprint / f"{block.start}-{block.stop}"

    def _size(self, images: int) -> int:
        return 32 + images * (8 + math.prod(self._split.image_shape))

    def _digest(self, block: range, body: bytes | memoryview) -> bytes:
        digest = hashlib.sha256(f"{self._split.fingerprint} {block.start} {block.stop}\0".encode())
        digest.update(body)
        return digest.digest()


def _files(root: Path) -> Iterator[tuple[int, int, Path]]:
    """The time (ns) at which each block was last used, its size in bytes, and its file, for the blocks of all data.

    Temporary files of writers that died are removed on the way.
    """
    for folder in root.glob("*"):
        remove_temporaries(folder, ORPHAN_S)
        for path in folder.glob("[!.]*"):
            with contextlib.suppress(OSError):
                found = path.stat()
                yield found.st_mtime_ns, found.st_size, path
