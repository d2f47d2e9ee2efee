"""Memory that is reused from chunk to chunk, because taking large tensors from the system costs more than using
them."""

import math
from typing import Any

import torch
from torch import Tensor


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


def _rounded_up(size: int) -> int:
    """Round up to a multiple of an eighth of a power of two, so that sizes that vary a little share blocks."""
    step = max(4096, 1 << max(0, size.bit_length() - 4))
    return -(-max(size, 1) // step) * step
