"""Memory that is reused from chunk to chunk, because taking large tensors from the system costs more than using
them."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmpsweep.engine.cpu.pack import Convolution
from rmpsweep.engine.cpu.strips import SPARE

FEW = 2**18
"""The events of one row after another are listed and read if a layer's weights, which then pass by for each row, take
no more bytes than this."""


class Workspace:
    """Blocks of CPU memory for one thread, kept as long as the workspace exists."""

    def __init__(self) -> None:
        self.free: dict[int, list[Tensor]] = {}
        self.used: dict[int, Tensor] = {}

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a tensor with arbitrary content; `release` takes it back."""
        size = _rounded_up(math.prod(shape) * dtype.itemsize)
        blocks = self.free.get(size)
        block = blocks.pop() if blocks else torch.empty(size, dtype=torch.uint8)
        self.used[block.data_ptr()] = block
        return block[: math.prod(shape) * dtype.itemsize].view(dtype).view(shape)

    def release(self, *tensors: Any) -> None:
        """Take back tensors, or NumPy arrays of them, that nothing reads any more.

        Tensors from elsewhere are left alone.
        """
        for tensor in tensors:
            address = tensor.data_ptr() if isinstance(tensor, Tensor) else tensor.ctypes.data
            block = self.used.pop(address, None)
            if block is not None:
                self.free.setdefault(block.numel(), []).append(block)


class Scratch:
    """Memory of one thread for the lists of `strips`, which mean nothing once a kernel has returned."""

    def __init__(self) -> None:
        self.memory: dict[str, np.ndarray] = {}

    def lists(self, convolution: Convolution, largest: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return memory for the events of that many strips, and for where each column's events begin."""
        _, width, channels, _, _, _, kernel_height, kernel_width, *_ = convolution.shape.tolist()
        column = kernel_height * channels
        dtype = "uint16" if (width + kernel_width) * column <= 2**16 else "int32"
        indices = self._array(dtype, number * width * column * largest + SPARE)
        return indices, self._array("int32 pointers", number * (width + 1))

    def coded_lists(self, convolution: Convolution, largest: int, rows: int, steps: int) -> tuple[Any, ...]:
        """Return how many rows are listed together, and memory for so many: usual neurons and lists."""
        together = 1 if convolution.weights.nbytes <= FEW else rows
        usual = self._array("uint8 usual", together * math.prod(convolution.shape[:3].tolist()))
        return together, usual, *self.lists(convolution, largest, together * (steps + 1))

    def _array(self, kind: str, size: int) -> np.ndarray:
        """Return an array of at least that size, of the dtype that `kind` begins with."""
        if kind not in self.memory or len(self.memory[kind]) < size:
            self.memory[kind] = np.empty(size, kind.split()[0])
        return self.memory[kind]


def _rounded_up(size: int) -> int:
    """Round up to a multiple of an eighth of a power of two, so that sizes that vary a little share blocks."""
    step = max(4096, 1 << max(0, size.bit_length() - 4))
    return -(-max(size, 1) // step) * step
