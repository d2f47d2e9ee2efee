"""Decides how many rows and time steps are computed at once, from the free memory and the network's largest layers."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

import psutil
import torch

from rmpsweep.engine.kernels import padded
from rmpsweep.engine.network import Node
from rmpsweep.engine.program import Layer, Program, image_shape

CPU = torch.device("cpu")
MOST_ROWS, MOST_STEPS = 8, 16
"""Larger numbers gained nothing where it was measured (docs/performance.md), unless a network is small."""
MOST_ROWS_IF_SMALL, SMALL_NEURONS = 64, 2**19
"""A batch has more rows than MOST_ROWS, but not more than this, if all of them have no more neurons than that: in less
work than this, more time is spent between kernels than in them."""
MOST_ROWS_ON_GPU = 256
"""Not measured. With this many rows, every layer of a small network has more tiles than a GPU has multiprocessors."""
MOST_BYTES = 2**29
"""The most working memory to use, however much is free; more would not be faster."""
CONTROL_GROUP = Path("/sys/fs/cgroup")
"""The control group of this process, in a container that has one (cgroup version 2)."""


@dataclass(frozen=True)
class MemoryPlan:
    """How much is computed at once."""

    rows: int
    """The rows of one batch."""
    chunk: int
    """The time steps that are computed layer by layer."""
    bytes: int
    """The working memory of one batch."""


def make_memory_plan(
    program: Program, potential_bytes: int, num_rows: int, threads: int, device: torch.device = CPU
) -> MemoryPlan:
    """Return the largest batch and chunk with which `threads` batches at once fit into half of the free memory.

    On a CPU they also fit into MOST_BYTES. The chunk is made as large as possible first, and then the batch.

    Args:
        potential_bytes: the size of one potential or current.
        num_rows: how many rows are to be simulated in all. Every thread gets some of them.
    """
    neurons = sum(_elements(stage.node) for stage in program.stages if isinstance(stage, Layer))
    most_rows = max(MOST_ROWS, min(MOST_ROWS_IF_SMALL, SMALL_NEURONS // neurons))
    budget = min(MOST_BYTES, free_memory() // 2) // threads
    if device.type == "cuda":
        most_rows, budget = MOST_ROWS_ON_GPU, free_gpu_memory(device) // 2
    row, step = bytes_per_row(program, potential_bytes), bytes_per_step(program, potential_bytes)
    chunk = max(1, min(MOST_STEPS, (budget - row) // step))
    rows = max(1, min(most_rows, -(-num_rows // threads), budget // (row + chunk * step)))
    return MemoryPlan(rows, chunk, rows * (row + chunk * step))


def bytes_per_row(program: Program, potential_bytes: int) -> int:
    """Return the bytes that a row keeps from chunk to chunk: potentials, counts, and for count pooling sums and
    maxima."""
    layers = (stage for stage in program.stages if isinstance(stage, Layer))
    kept = sum(_elements(layer.node) * (potential_bytes + 4) for layer in layers)
    pools = (stage.node for stage in program.stages if not isinstance(stage, Layer) and stage.how == "count")
    return kept + sum(_elements(node) * 4 * 5 for node in pools)  # a pool's input has up to four times its size


def bytes_per_step(program: Program, potential_bytes: int) -> int:
    """Return the most bytes that a row needs for one time step of a chunk.

    They hold values that are still to be read, their events, and the current of a shortcut.
    """
    alive: dict[str, int] = {}
    most = 0
    for i, stage in enumerate(program.stages):
        events = sum(4 * alive.get(name, 0) for name in set(stage.reads)) if isinstance(stage, Layer) else 0
        alive[stage.node.name] = _elements(stage.node)
        shortcut = isinstance(stage, Layer) and stage.addend is not None and stage.addend.node is not None
        current = potential_bytes * _elements(stage.node) if shortcut else 0
        most = max(most, sum(alive.values()) + events + current)
        for name in [name for name, last in program.last_use.items() if last == i]:
            alive.pop(name, None)
        if stage.node.name not in program.last_use:
            alive.pop(stage.node.name)
    return most


def _elements(node: Node) -> int:
    channels, height, width = image_shape(node)
    return prod((padded(channels), height, width))


def free_memory() -> int:
    """Return the bytes that this process may still take: what is free on the machine or, if less, in its control
    group."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = (int((CONTROL_GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        free = min(free, limit - used)
    except (OSError, ValueError):  # there is no control group, or its limit is the word "max"
        pass
    return max(free, 0)


def free_gpu_memory(device: torch.device) -> int:
    """Return the bytes that are free on a GPU, or that torch holds for future tensors."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept
