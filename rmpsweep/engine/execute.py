"""A program over one batch of rows: layer by layer through a chunk of time steps, chunk after chunk.

Rows are pairs of a setting and an input; inputs are images under one encoding, shared by all settings that see them.
Only what a layer carries from chunk to chunk is kept: potentials and spike counts. The read-out is computed at the
reported T alone, from the counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rmpsweep.engine.kernels import Kernels, OutOfRangeError
from rmpsweep.engine.kernels.layout import padded
from rmpsweep.engine.network import Node
from rmpsweep.engine.program import Layer, Rearrangement, image_shape
from rmpsweep.engine.reference import LinearNodes, RowResult, State, read_out_of
from rmpsweep.terms import INPUT, SATURATED_RATE


@dataclass(frozen=True)
class Batch:
    """What is simulated together. setting, input: int64 [R], of each row; the rest by input, [I, ...]."""

    setting: Tensor
    input: Tensor
    images: Tensor
    ids: Tensor
    seeds: Tensor
    input_scale: Tensor


def execute(
    kernels: Kernels,
    batch: Batch,
    steps: Sequence[int],
    start: int,
    state: State | None,
    chunk: int,
    record: bool,
    keep_state: bool,
) -> RowResult:
    """Run the rows of a batch from step `start` to steps[-1]; `chunk` steps at a time, which changes nothing."""
    while True:
        try:
            return _Run(kernels, batch, start, state, chunk, record).simulate(steps, keep_state)
        except OutOfRangeError as error:
            kernels.wide.add(error.args[0])


class _Run:
    """The time loop; all tensors channels-last."""

    def __init__(
        self, kernels: Kernels, batch: Batch, start: int, state: State | None, chunk: int, record: bool
    ) -> None:
        self.kernels, self.batch, self.chunk = kernels, batch, chunk
        self.net, self.program, self.constants = kernels.net, kernels.program, kernels.constants
        self.t, self.num_rows, self.device = start, len(batch.setting), batch.setting.device
        self.linear = LinearNodes(self.constants, batch.setting, self._apply)
        self.layers = [step for step in self.program.steps if isinstance(step, Layer)]
        self.poisson = self.constants.settings[0].encoding == "poisson"
        self.trains: dict[str, list[Tensor]] = {layer.node.name: [] for layer in self.layers} if record else {}
        self.potentials: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        self.pools: dict[str, tuple[Tensor, Tensor]] = {}
        for layer in self.layers:
            name, wide = layer.node.name, kernels.needs_wide(layer, chunk)
            first = self.linear.rows(self.constants.start[name], name).expand(self.num_rows, *layer.node.shape)
            counts = (
                torch.zeros(self.num_rows, *layer.node.shape, device=self.device)
                if state is None
                else state.counts[name]
            )
            potentials = first if state is None else state.potentials[name]
            self.potentials[name] = self._channels_last(layer.node, potentials, kernels.dtype(wide))
            self.counts[name] = self._channels_last(layer.node, counts, torch.int32)
        for step in self.program.steps:
            if isinstance(step, Rearrangement) and step.how == "count":
                self.pools[step.node.name] = self._pool(step.node, state)
        self.input_counts = self._input_counts(state)
        self.input_currents: dict[str, Tensor] = {}
        if not self.poisson:
            nonzero = kernels.nonzero_input(batch.images, batch.input_scale)
            self.nonzero_input = self._channels_last(self.net.node(INPUT), nonzero, torch.int32)
            for layer in self.layers:
                if layer.value == INPUT:
                    wide = self.potentials[layer.node.name].dtype == torch.int64
                    self.input_currents[layer.node.name] = kernels.input_current(
                        layer, batch.images, batch.input_scale, wide
                    )

    def simulate(self, steps: Sequence[int], keep_state: bool) -> RowResult:
        """To steps[-1]; figures at every T of `steps`."""
        fan_outs = self.net.fan_out
        logits: list[Tensor] = []
        tallies: dict[str, list[Tensor]] = {name: [] for name in fan_outs}
        for stop in steps:
            while self.t < stop:
                self._advance(min(self.chunk, stop - self.t))
            sums = {name: self._planes(self.net.node(name), self.counts[name]) for name in read_out_of(self.net)}
            logits.append(self.linear.logits(sums, stop))
            for name, fan_out in fan_outs.items():
                counts = self.input_counts[self.batch.input] if name == INPUT else self.counts[name]
                tallies[name].append(self.kernels.tally(counts, fan_out, SATURATED_RATE * stop))
        tables = {name: torch.stack(rows) for name, rows in tallies.items()}
        return RowResult(
            torch.stack(logits),
            {name: table[..., 0] for name, table in tables.items()},
            {name: table[..., 1] for name, table in tables.items()},
            {name: tables[name][..., 2] for name in self.net.layers},
            {name: torch.cat(trains) for name, trains in self.trains.items()},
            self._state() if keep_state else None,
        )

    def _advance(self, steps: int) -> None:
        """One chunk of `steps` steps through every step of the program."""
        values: dict[str, Tensor] = {}
        events: dict[str, Any] = {}
        batch, kernels = self.batch, self.kernels
        if self.poisson:
            values[INPUT] = kernels.encode(batch.images, batch.input_scale, batch.seeds, batch.ids, self.t, steps)
            channels = self.net.node(INPUT).shape[0]
            fired = values[INPUT].sum(0, dtype=torch.int32)
            self.input_counts[..., :channels] += fired[..., :channels] + fired[..., channels : 2 * channels]
        else:
            self.input_counts += self.nonzero_input * steps

        def events_of(name: str) -> Any:
            if name not in events:
                events[name] = kernels.events(name, values[name])
            return events[name]

        for i, step in enumerate(self.program.steps):
            name = step.node.name
            if isinstance(step, Rearrangement):
                values[name] = kernels.rearrange(step, values[step.node.inputs[0]], self.pools.get(name))
            else:
                wide = self.potentials[name].dtype == torch.int64
                current = addend = None
                if step.value == INPUT:
                    shared = self.input_currents.get(name)
                    if shared is None:
                        shared = kernels.current(step.weighted, events_of(INPUT), None, len(batch.images), steps, wide)
                    current = shared, batch.input
                if step.addend is not None:
                    addend = values[step.addend.value]
                    if step.addend.node is not None:
                        addend = kernels.current(
                            step.addend.node, events_of(step.addend.value), batch.setting, self.num_rows, steps, wide
                        )
                values[name] = kernels.fire(
                    step, None if current else events_of(step.value), current, addend, batch.setting,
                    self.potentials[name], self.counts[name], steps,
                )  # fmt: skip
                if self.trains:
                    self.trains[name].append(self._planes(step.node, values[name].flatten(0, 1)).unflatten(
                        0, (steps, self.num_rows)).clone())  # fmt: skip
            for value in [value for value, last in self.program.last_use.items() if last == i]:
                values.pop(value, None)
                events.pop(value, None)
        self.t += steps

    # between [N, C, H, W] or [N, F] and channels-last ---------------------------------------------------------------

    def _channels_last(self, node: Node, planes: Tensor, dtype: torch.dtype) -> Tensor:
        channels, height, width = image_shape(node)
        result = torch.zeros(len(planes), height, width, padded(channels), dtype=dtype, device=self.device)
        result[..., :channels] = planes.reshape(-1, channels, height, width).permute(0, 2, 3, 1).to(dtype)
        return result

    def _planes(self, node: Node, channels_last: Tensor) -> Tensor:
        channels, _, _ = image_shape(node)
        return channels_last[..., :channels].permute(0, 3, 1, 2).reshape(-1, *node.shape)

    def _apply(self, _: Tensor, node: Node, values: Tensor) -> Tensor:
        """A weighted read-out node, in an order of addition that does not depend on the batch."""
        return self._planes(node, self.kernels.dense(node, values))

    def _pool(self, node: Node, state: State | None) -> tuple[Tensor, Tensor]:
        source = self.net.node(node.inputs[0])
        total, largest = (
            (torch.zeros(self.num_rows, *shape, device=self.device) for shape in (source.shape, node.shape))
            if state is None else state.pools[node.name]
        )  # fmt: skip
        return self._channels_last(source, total, torch.int32), self._channels_last(node, largest, torch.int32)

    def _input_counts(self, state: State | None) -> Tensor:
        """Nonzero input elements so far, by input."""
        node, batch = self.net.node(INPUT), self.batch
        before = torch.zeros(len(batch.images), *node.shape, device=self.device)
        if state is not None:
            before[batch.input] = state.counts[INPUT].to(before)
        return self._channels_last(node, before, torch.int32)

    def _state(self) -> State:
        net = self.net
        counts = {**self.counts, INPUT: self.input_counts[self.batch.input]}
        return State(
            self.t,
            {name: self._planes(net.node(name), v) for name, v in self.potentials.items()},
            {name: self._planes(net.node(name), n) for name, n in counts.items()},
            {
                name: (self._planes(net.node(net.node(name).inputs[0]), total), self._planes(net.node(name), largest))
                for name, (total, largest) in self.pools.items()
            },
        )
