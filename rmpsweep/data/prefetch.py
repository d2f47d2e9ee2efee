"""A unit's images, decoded in background threads while those before them are simulated.

Positions are those of the split's fixed order. They are decoded in blocks, which begin at multiples of BLOCK, so that
units of any size share them in the cache, and handed on in chunks of whole blocks.
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
"""Positions decoded at once by one thread."""


@dataclass(frozen=True)
class Chunk:
    """Some images in order: ids int64 [N], images float32 [N, C, H, W], labels int64 [N]."""

    ids: np.ndarray
    images: "torch.Tensor"
    labels: "torch.Tensor"


@dataclass(frozen=True)
class Prefetch:
    """How the images of a split are decoded. on_block: told, in a decoding thread, that something has moved."""

    split: ImageSplit
    threads: int
    cache: DecodedCache | None = None
    on_block: Callable[[], None] = lambda: None

    def chunks(self, start: int, stop: int, size: int, figures: InputFigures) -> Generator[Chunk]:
        """The images at positions [start, stop), about `size` at a time; close it, then no thread of it is left.

        Beyond the chunk that was handed on, no more than another one (or two blocks for every thread) is decoded. What
        the taker does between two chunks counts as the engine's work in `figures`.

        Raises:
            DataError: an image cannot be decoded.
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
    """pixels: uint8 [N, C, H, W]; seconds: of decoding, None where they were in the cache."""

    pixels: "torch.Tensor"
    labels: "torch.Tensor"
    seconds: float | None

    def count(self, figures: InputFigures) -> None:
        if self.seconds is None:
            figures.images_cached += len(self.labels)
        else:
            figures.images_decoded += len(self.labels)
            figures.decode_s += self.seconds


def _blocks(start: int, stop: int) -> list[range]:
    """[start, stop) cut at the multiples of BLOCK."""
    edges = [start, *range((start // BLOCK + 1) * BLOCK, stop, BLOCK), stop]
    return [range(low, high) for low, high in pairwise(edges)]
