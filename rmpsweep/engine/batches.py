"""Divides the rows of a group of settings into batches and runs them on all threads.

A row is a pair (setting, image); rows are ordered with settings outermost. A batch takes all settings of some images
where it can, since they share the input. How rows are divided changes no result, except that floating-point results of
a network that runs node by node depend on the batch size.
"""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import repeat
from typing import Literal

import torch
from torch import Tensor

from rmpsweep.engine.cpu.device import CpuKernels
from rmpsweep.engine.encode import is_spiking
from rmpsweep.engine.execute import Batch, execute
from rmpsweep.engine.kernels import Kernels
from rmpsweep.engine.memory import make_memory_plan
from rmpsweep.engine.numerics import Constants
from rmpsweep.engine.program import Program, make_program
from rmpsweep.engine.reference import OnSteps, RowResult, Rows, State, cast, concatenate, select

Choice = Literal["auto", "triton", "reference"]
"""Which kernels run: "auto" those for the network's device, "triton" those for GPUs on any device, "reference" none
(node by node)."""


def by_nodes(
    constants: Constants,
    images: Tensor,
    ids: Tensor,
    steps: Sequence[int],
    start: int,
    state: State | None,
    record: bool,
    batch_size: int,
    on_steps: OnSteps,
) -> RowResult:
    """Run all rows through `reference`. Batches are padded to one size, because floating-point results depend on it."""
    num_images, num_rows = len(images), len(constants.settings) * len(images)
    parts = []
    for rows in torch.arange(num_rows).split(batch_size):
        padded = torch.cat([rows, rows[:1].expand(batch_size - len(rows))])
        run = Rows(constants, padded // num_images, images[padded % num_images], ids[padded % num_images])
        given = State() if state is None else cast(select(state, padded), constants.dtype)
        part = run.simulate(steps, start, given, constants.net.fan_out, record, on_steps)
        parts.append(_rows_of(part, torch.arange(len(rows))))
    return _joined(parts)


def by_program(
    constants: Constants,
    program: Program,
    images: Tensor,
    ids: Tensor,
    steps: Sequence[int],
    start: int,
    state: State | None,
    record: bool,
    batch_size: int | None,
    chunk: int | None,
    keep_state: bool,
    triton: bool,
    on_steps: OnSteps,
) -> RowResult:
    """Run all rows through the program's kernels. If memory runs out, a batch is halved and a warning is issued.

    triton: whether to use the GPU kernels, whatever the network's device.
    """
    kernels = make_kernels(constants, program, triton)
    num_settings, num_images = len(constants.settings), len(images)
    threads = torch.get_num_threads() if isinstance(kernels, CpuKernels) else 1
    wide = 8 if constants.dtype == torch.float64 else 4
    plan = make_memory_plan(program, wide, num_settings * num_images, threads, constants.net.device)
    idle = [kernels.for_another_thread() for _ in range(threads)]
    task = _Task(idle, constants, images, ids, steps, start, state, record, keep_state, on_steps)
    with ThreadPoolExecutor(threads) as pool:
        batches = _divide(num_settings, num_images, batch_size or plan.rows)
        parts = [part for parts in pool.map(task.run, batches, repeat(chunk or plan.chunk)) for part in parts]
    order = torch.cat([rows for rows, _ in parts]).argsort()
    return _rows_of(_joined([result for _, result in parts]), order)


@dataclass(frozen=True)
class _Task:
    """What all batches of a group have in common. `idle` holds the kernels that no thread uses at the moment."""

    idle: list[Kernels]
    constants: Constants
    images: Tensor
    ids: Tensor
    steps: Sequence[int]
    start: int
    state: State | None
    record: bool
    keep_state: bool
    on_steps: OnSteps

    def run(self, rows: Tensor, chunk: int) -> list[tuple[Tensor, RowResult]]:
        """Run one batch, or two halves of it if memory runs out. Return the result of each part with its rows."""
        given = None if self.state is None else select(self.state, rows)
        kernels = self.idle.pop()
        try:
            batch = make_batch(self.constants, self.images, self.ids, rows)
            result = execute(
                kernels, batch, self.steps, self.start, given, chunk, self.record, self.keep_state, self.on_steps
            )
            self.idle.append(kernels)
            return [(rows, result)]
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and "allocate" not in str(error):
                raise
            if len(rows) == chunk == 1:
                raise
        # outside the `except` block the tensors of the failed attempt are free again; its workspace goes with `kernels`
        self.idle.append(kernels.for_another_thread())
        del kernels
        warnings.warn(
            f"out of memory with {len(rows)} rows of {chunk} time steps at once; continuing with half of that",
            stacklevel=2,
        )
        if len(rows) == 1:
            return self.run(rows, chunk // 2)
        half = len(rows) // 2
        return self.run(rows[:half], chunk) + self.run(rows[half:], chunk)


def find_program(constants: Constants, choice: Choice = "auto") -> Program | None:
    """Return the program to run, or None if the network is to run node by node.

    It runs node by node if it has no program, if its device has no kernels, or if `choice` is "reference".
    """
    device = constants.net.device.type
    available = device == "cpu" or (device == "cuda" and find_spec("triton") is not None)
    return make_program(constants) if choice == "triton" or (choice == "auto" and available) else None


def make_kernels(constants: Constants, program: Program, triton: bool = False) -> Kernels:
    """Return the kernels for the network's device. With `triton`, they are the GPU kernels, whatever the device."""
    if triton or constants.net.device.type != "cpu":
        from rmpsweep.engine.gpu.device import GpuKernels  # Triton is not available on every platform

        return GpuKernels(constants, program)
    return CpuKernels(constants, program)


def _divide(num_settings: int, num_images: int, size: int) -> list[Tensor]:
    """Divide rows into batches of about `size` rows.

    Each batch takes some images under all settings, or one image under some settings.
    """
    together = max(1, size // num_settings)
    return [
        (torch.stack([k * num_images + images for k in settings.tolist()])).flatten()
        for images in torch.arange(num_images).split(together)
        for settings in torch.arange(num_settings).split(size)
    ]


def make_batch(constants: Constants, images: Tensor, ids: Tensor, rows: Tensor) -> Batch:
    """Return a batch with the settings and inputs of the given rows.

    Settings with the same input scale (and, under Poisson encoding, the same seed) share inputs.
    """
    setting, image = rows // len(images), rows % len(images)
    spiking = is_spiking(constants.settings[0].encoding)
    kinds = [
        (float(scale), s.seed if spiking else 0)
        for scale, s in zip(constants.input_scale, constants.settings, strict=True)
    ]
    distinct = list(dict.fromkeys(kinds))
    kind = torch.tensor([distinct.index(k) for k in kinds])
    keys, own = torch.unique(kind[setting] * len(images) + image, return_inverse=True)
    shown = keys % len(images)
    scales, seeds = zip(*distinct, strict=True)
    of_key = keys // len(images)
    tensors = (
        setting,
        own,
        images[shown],
        ids[shown],
        torch.tensor(seeds)[of_key],
        torch.tensor(scales, dtype=torch.float64)[of_key],
    )
    return Batch(*(tensor.to(constants.net.device) for tensor in tensors))


def _rows_of(result: RowResult, rows: Tensor) -> RowResult:
    return RowResult(
        result.logits[:, rows],
        {k: v[:, rows] for k, v in result.figures.items()},
        {k: v[:, rows] for k, v in result.spikes.items()},
        None if result.state is None else select(result.state, rows),
    )


def _joined(parts: Sequence[RowResult]) -> RowResult:
    first = parts[0]
    return RowResult(
        torch.cat([p.logits for p in parts], 1),
        {k: torch.cat([p.figures[k] for p in parts], 1) for k in first.figures},
        {k: torch.cat([p.spikes[k] for p in parts], 1) for k in first.spikes},
        None if first.state is None else concatenate([p.state for p in parts if p.state is not None]),
    )
