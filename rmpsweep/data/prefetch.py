"""A unit's images, decoded in background threads while the images before them are simulated.

Positions are those in the fixed order of the split. The images are decoded in blocks and handed on in chunks of whole
blocks. Blocks are cut at multiples of BLOCK, so that units of any size can share them in the cache.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from rmpsweep.data.decoded import DecodedCache
from rmpsweep.data.figures import InputFigures
from rmpsweep.data.split import ImageSplit, image_order

if TYPE_CHECKING:
    import torch

BLOCK = 32
"""The number of positions that a thread decodes at once."""


@dataclass(frozen=True)
class Chunk:
    """Images at consecutive positions."""

    ids: np.ndarray
    """int64 [N]."""
    images: "torch.Tensor"
    """float32 [N, C, H, W], normalised."""
    labels: "torch.Tensor"
    """int64 [N]."""


@dataclass(frozen=True)
class Prefetch:
    """How the images of a split are decoded ahead of the simulation."""

    split: ImageSplit
    threads: int
    cache: DecodedCache | None = None
    on_block: Callable[[], None] = lambda: None
    """Called after every block, in the thread that decoded it, as a sign of progress."""

    def chunks(self, start: int, stop: int, size: int, figures: InputFigures) -> Generator[Chunk]:
        """Yield the images at positions [start, stop), about `size` at a time.

        At most one chunk is decoded ahead of the one that was handed on, or two blocks for every thread if these are
        more. `figures` counts the images and times; whatever the consumer does between two chunks counts as work of the
        engine. Closing the generator ends its threads.

        Raises:
            DataError: an image cannot be read or decoded.
            StorageError: remote files cannot be reached.
        """
        began = time.perf_counter()
        order, blocks = image_order(self.split.num_images), _blocks(start, stop)
        if self.cache is not None:
            self.cache.make_room(blocks)
        per_chunk = -(-size // BLOCK)
        most, left = max(2 * self.threads, per_chunk), iter(blocks)
        ahead: deque[Future[_Block]] = deque()
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")

        def fill() -> None:
            for block in itertools.islice(left, most - len(ahead)):
                ahead.append(pool.submit(self._decode, block, order[block.start : block.stop]))

        try:
            for first in range(0, len(blocks), per_chunk):
                parts = []
                for _ in blocks[first : first + per_chunk]:
                    fill()
                    parts.append(ahead.popleft().result())
                fill()
                chunk = self._joined(order[blocks[first].start :], parts)
                for part in parts:
                    part.count(figures)
                handed_on = time.perf_counter()
                figures.wait_s += handed_on - began
                del parts
                yield chunk
                began = time.perf_counter()
                figures.busy_s += began - handed_on
        finally:
            pool.shutdown(cancel_futures=True)

    def _decode(self, block: range, ids: np.ndarray) -> "_Block":
        found = None if self.cache is None else self.cache.read(block)
        began = time.perf_counter()
        pixels, labels = found or self.split.pixels(ids)
        seconds = time.perf_counter() - began
        if self.cache is not None and found is None:
            self.cache.write(block, pixels, labels)
        self.on_block()
        return _Block(pixels, labels, None if found else seconds)

    def _joined(self, ids: np.ndarray, parts: "list[_Block]") -> Chunk:
        import torch

        images = self.split.normalise(torch.cat([part.pixels for part in parts]))
        return Chunk(ids[: len(images)], images, torch.cat([part.labels for part in parts]))


@dataclass(frozen=True)
class _Block:
    """A decoded block."""

    pixels: "torch.Tensor"
    """uint8 [N, C, H, W]."""
    labels: "torch.Tensor"
    seconds: float | None
    """How long decoding took; None if the block was in the cache."""

    def count(self, figures: InputFigures) -> None:
        if self.seconds is None:
            figures.images_cached += len(self.labels)
        else:
            figures.images_decoded += len(self.labels)
            figures.decode_s += self.seconds


def _blocks(start: int, stop: int) -> list[range]:
    """Cut [start, stop) at the multiples of BLOCK."""
    edges = [start, *range((start // BLOCK + 1) * BLOCK, stop, BLOCK), stop]
    return [range(low, high) for low, high in pairwise(edges)]
