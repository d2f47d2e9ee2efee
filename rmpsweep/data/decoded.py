"""Decoded images kept between units and runs: uint8, after resizing and cropping, in blocks of neighbouring positions.

A block is one file, `decoded/<fingerprint of the data>/<start>-<stop>` in the cache: the SHA-256 of all that it depends
on, labels (int64), pixels (uint8 [N, C, H, W]). What cannot be read back whole counts as missing.
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
"""A temporary file that old belongs to a writer that died."""


class DecodedCache:
    """The blocks of one split, within a bound for the blocks of all data together. Safe in threads and processes.

    Several processes may exceed the bound by what their present units add.
    """

    def __init__(self, split: ImageSplit, bound: int) -> None:
        """bound: bytes."""
        self._split, self._bound = split, bound
        self._root = cache_dir() / "decoded"
        self._room, self._lock = 0, threading.Lock()

    def make_room(self, blocks: Sequence[range]) -> None:
        """Remove other blocks, those used longest ago first, until these fit, which are about to be used."""
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
        """Pixels uint8 [N, C, H, W] and labels int64 [N] of these positions; None where they are not there."""
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
        """Keep a block where there is room; a storage that refuses is told by a warning."""
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
    """When a block was used last, its bytes, and its file; of any data."""
    for folder in root.glob("*"):
        remove_temporaries(folder, ORPHAN_S)
        for path in folder.glob("[!.]*"):
            with contextlib.suppress(OSError):
                found = path.stat()
                yield found.st_mtime_ns, found.st_size, path
