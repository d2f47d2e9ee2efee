"""Runs a program over one batch of rows: layer by layer through a chunk of time steps, then through the next chunk.

A row is a pair of a setting and an input. An input is an image under one encoding, shared by all settings that see it.
From chunk to chunk, only potentials, spike counts and the sums of count pooling are kept. The read-out is computed from
the counts, at the reported T alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rmpsweep.engine.encode import is_spiking
from rmpsweep.engine.kernels import POTENTIAL_LIMIT, Kernels, padded
from rmpsweep.engine.network import Node
from rmpsweep.engine.program import Layer, Rearrangement, image_shape
from rmpsweep.engine.reference import LinearNodes, OnSteps, RowResult, State, read_out_of, saturated_from
from rmpsweep.terms import INPUT


@dataclass(frozen=True)
class Batch:
    """What is simulated together: R rows, and the I inputs that they share."""

    setting: Tensor
    """The setting of each row, int64 [R]."""
    input: Tensor
    """The input of each row, int64 [R]."""
    images: Tensor
    """[I, C, H, W]."""
    ids: Tensor
    """The image id of each input, int64 [I]."""
    seeds: Tensor
    """The seed of each input, int64 [I]."""
    input_scale: Tensor
    """Λ_0 of each input, float64 [I]."""


def execute(
    kernels: Kernels,
    batch: Batch,
    steps: Sequence[int],
    start: int,
    state: State | None,
    chunk: int,
    record: bool,
    keep_state: bool,
    on_steps: OnSteps,
) -> RowResult:
    """Run the rows of a batch from step `start` to steps[-1], `chunk` steps at a time. The chunk changes no result."""
    return _Run(kernels, batch, start, state, chunk, record).simulate(steps, keep_state, on_steps)


def layer_currents(kernels: Kernels, batch: Batch, layer: str, steps: int, chunk: int) -> Iterator[Tensor]:
    """Yield the current into a layer at every step, in floating point, one chunk after another.

    Each chunk is [steps of the chunk, R, *shape of the layer].
    """
    run = _Run(kernels, batch, 0, None, chunk, False, until=layer)
    while run.t < steps:
        current = run.advance(min(chunk, steps - run.t))
        assert current is not None
        yield current


class _Values:
    """The values of one chunk that stages have still to read, and their events once a stage has asked for them."""

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels
        self.bytes: dict[str, Tensor] = {}
        self.known_events: dict[str, Any] = {}

    def events(self, name: str) -> Any:
        if name not in self.known_events:
            self.known_events[name] = self.kernels.events(name, self.bytes[name])
        return self.known_events[name]

    def drop_read(self, stage: int) -> None:
        """Release the values that no stage after this one reads."""
        for name in [name for name, last in self.kernels.program.last_use.items() if last == stage]:
            value = self.bytes.pop(name, None)
            if value is not None and all(value is not other for other in self.bytes.values()):
                self.kernels.release(value)
            self.kernels.release(self.known_events.pop(name, ()))

    def drop_all(self) -> None:
        """Release all other values, such as the spikes of the last layers."""
        self.kernels.release(*self.bytes.values(), *self.known_events.values())


class _Run:
    """The time loop over one batch.

    All tensors are channels-last. If `until` names a layer, each chunk ends before it.
    """

    def __init__(
        self,
        kernels: Kernels,
        batch: Batch,
        start: int,
        state: State | None,
        chunk: int,
        record: bool,
        until: str | None = None,
    ) -> None:
        self.kernels, self.batch, self.chunk, self.until = kernels, batch, chunk, until
        self.net, self.program, self.constants = kernels.net, kernels.program, kernels.constants
        self.t, self.num_rows, self.device = start, len(batch.setting), batch.setting.device
        self.linear = LinearNodes(self.constants, batch.setting, partial(_in_fixed_order, kernels))
        self.spiking = is_spiking(self.constants.settings[0].encoding)
        self.potentials: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        self.pools: dict[str, tuple[Tensor, Tensor]] = {}
        self.input_currents: dict[str, Tensor] = {}
        self.trains: dict[str, list[Tensor]] = {}
        for stage in self.program.stages:
            if isinstance(stage, Layer):
                self._prepare(stage, state)
                if record:
                    self.trains[stage.node.name] = []
                if stage.node.name == until:
                    break
            elif stage.how == "count":
                self.pools[stage.node.name] = self._pool(stage.node, state)
        self.input_counts = self._input_counts(state)
        if not self.spiking:
            nonzero = kernels.constant_input(batch.images, batch.input_scale) != 0
            self.nonzero_input = self._channels_last(self.net.node(INPUT), nonzero, torch.int32)

    def _prepare(self, layer: Layer, state: State | None) -> None:
        """Make a layer's potentials and counts before the first step, and the current that it gets from constant
        input."""
        node, wide = layer.node, self.kernels.needs_wide(layer, self.chunk)
        if state is None:
            potentials = self.linear.rows(self.constants.start[node.name], node.name)
            potentials = potentials.expand(self.num_rows, *node.shape)
            counts = torch.zeros(1, device=self.device).expand(self.num_rows, *node.shape)
        else:
            potentials, counts = state.potentials[node.name], state.counts[node.name]
            wide = wide or (self.constants.is_fixed and float(potentials.abs().max()) >= POTENTIAL_LIMIT)
        self.potentials[node.name] = self._channels_last(node, potentials, self.kernels.dtype(wide))
        self.counts[node.name] = self._channels_last(node, counts, torch.int32)
        if layer.value == INPUT and not self.spiking:
            self.input_currents[node.name] = self.kernels.input_current(
                layer, self.batch.images, self.batch.input_scale, wide
            )

    def simulate(self, steps: Sequence[int], keep_state: bool, on_steps: OnSteps) -> RowResult:
        """Run to steps[-1], and read out at every T in `steps`."""
        fan_outs = self.net.fan_out
        logits: list[Tensor] = []
        figures: dict[str, list[Tensor]] = {name: [] for name in fan_outs}
        for stop in steps:
            while self.t < stop:
                before = self.t
                self.advance(min(self.chunk, stop - self.t))
                on_steps(len(self.batch.setting) * (self.t - before))
            sums = {name: _planes(self.net.node(name), self.counts[name]) for name in read_out_of(self.net)}
            logits.append(self.linear.logits(sums, stop))
            for name, fan_out in fan_outs.items():
                counts = self.input_counts[self.batch.input] if name == INPUT else self.counts[name]
                figures[name].append(self.kernels.tally(counts, fan_out, saturated_from(name, stop)))
        state = self._state() if keep_state else None
        if state is None:
            self.kernels.release(*self.potentials.values(), *self.counts.values(), self.input_counts)
        return RowResult(
            torch.stack(logits),
            {name: torch.stack(rows) for name, rows in figures.items()},
            {name: torch.cat(trains) for name, trains in self.trains.items()},
            state,
        )

    def advance(self, steps: int) -> Tensor | None:
        """Run one chunk of `steps` steps through the program.

        Return the current into the layer `until`, or None without one.
        """
        values, kernels = _Values(self.kernels), self.kernels
        self._encode(values, steps)
        self.t += steps
        for i, stage in enumerate(self.program.stages):
            name = stage.node.name
            if isinstance(stage, Rearrangement):
                read = [values.bytes[source] for source in stage.reads]
                values.bytes[name] = kernels.rearrange(stage, read, self.pools.get(name))
            else:
                current, addend = self._shared_current(stage, values, steps), self._addend(stage, values, steps)
                if name == self.until:
                    whole = self._current(stage, values, steps, current, addend)
                    values.drop_all()
                    return whole
                events = None if current else values.events(stage.value)
                values.bytes[name] = kernels.fire(
                    stage, events, current, addend, self.batch.setting, self.potentials[name], self.counts[name], steps
                )
                if self.spiking and current is not None:
                    kernels.release(current[0])
                if addend is not None and stage.addend is not None and stage.addend.node is not None:
                    kernels.release(addend)
                if name in self.trains:
                    self.trains[name].append(self._in_planes(stage.node, values.bytes[name]).clone())
            values.drop_read(i)
        values.drop_all()
        for name in kernels.left_range():
            narrow, self.potentials[name] = self.potentials[name], self.potentials[name].to(torch.int64)
            kernels.release(narrow)
            if name in self.input_currents:
                self.input_currents[name] = self.input_currents[name].to(torch.int64)
        return None

    def _encode(self, values: _Values, steps: int) -> None:
        """Encode the input of a chunk, and count its nonzero elements."""
        if not self.spiking:
            self.input_counts += self.nonzero_input * steps
            return
        batch, channels = self.batch, self.net.node(INPUT).shape[0]
        spikes = self.kernels.encode(batch.images, batch.input_scale, batch.seeds, batch.ids, self.t, steps)
        fired = spikes.sum(0, dtype=torch.int32)
        self.input_counts[..., :channels] += fired[..., :channels] + fired[..., channels : 2 * channels]
        values.bytes[INPUT] = spikes

    def _shared_current(self, layer: Layer, values: _Values, steps: int) -> tuple[Tensor, Tensor] | None:
        """Return the current that the input gives a layer, computed once for all settings, and the input of each row.

        The current has one entry for each input. Return None if the layer does not read the input.
        """
        if layer.value != INPUT:
            return None
        if not self.spiking:
            return self.input_currents[layer.node.name], self.batch.input
        wide, events = self.potentials[layer.node.name].dtype == torch.int64, values.events(INPUT)
        inputs = len(self.batch.images)
        return self.kernels.current(layer.weighted, events, None, inputs, steps, wide), self.batch.input

    def _addend(self, layer: Layer, values: _Values, steps: int) -> Tensor | None:
        """Return what a junction adds: a value, or the current that a value gives through the shortcut's weights."""
        if layer.addend is None:
            return None
        if layer.addend.node is None:
            return values.bytes[layer.addend.value]
        wide, events = self.potentials[layer.node.name].dtype == torch.int64, values.events(layer.addend.value)
        return self.kernels.current(layer.addend.node, events, self.batch.setting, self.num_rows, steps, wide)

    def _current(
        self, layer: Layer, values: _Values, steps: int, current: tuple[Tensor, Tensor] | None, addend: Tensor | None
    ) -> Tensor:
        """Return the whole current into a layer, [T, R, *layer shape].

        It is added up as `Kernels.fire` does in floating point.
        """
        if current is None:
            events = values.events(layer.value)
            z = self.kernels.current(layer.weighted, events, self.batch.setting, self.num_rows, steps, False)
            z = self._in_planes(layer.node, z)
        else:
            z = self._in_planes(layer.node, current[0][:, current[1]]).expand(
                steps, *[-1] * (len(layer.node.shape) + 1)
            )
            z = z + self.linear.bias.get(layer.weighted.name, torch.zeros(()))
        if layer.addend is not None and addend is not None:
            factor = self.linear.factor.get(layer.addend.key, torch.ones((), dtype=z.dtype))
            if layer.addend.node is None:
                factor = factor / self.program.values[layer.addend.value].divisor
            z = z + self._in_planes(layer.node, addend).to(z.dtype) * factor
        return z

    # between [N, C, H, W] or [N, F] and channels-last ---------------------------------------------------------------

    def _channels_last(self, node: Node, planes: Tensor, dtype: torch.dtype) -> Tensor:
        channels, height, width = image_shape(node)
        result = self.kernels.empty((len(planes), height, width, padded(channels)), dtype)
        result[..., channels:] = 0
        result[..., :channels] = planes.reshape(-1, channels, height, width).permute(0, 2, 3, 1)
        return result

    def _in_planes(self, node: Node, values: Tensor) -> Tensor:
        """Convert [T, R, H, W, C] to [T, R, *node.shape]."""
        return _planes(node, values.flatten(0, 1)).reshape(*values.shape[:2], *node.shape)

    def _pool(self, node: Node, state: State | None) -> tuple[Tensor, Tensor]:
        source = self.net.node(node.inputs[0])
        total, largest = (
            (torch.zeros(self.num_rows, *shape, device=self.device) for shape in (source.shape, node.shape))
            if state is None
            else state.pools[node.name]
        )
        return self._channels_last(source, total, torch.int32), self._channels_last(node, largest, torch.int32)

    def _input_counts(self, state: State | None) -> Tensor:
        """Return how often each element of each input was nonzero before the first step."""
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
            {name: _planes(net.node(name), v) for name, v in self.potentials.items()},
            {name: _planes(net.node(name), n) for name, n in counts.items()},
            {
                name: (_planes(net.node(net.node(name).inputs[0]), total), _planes(net.node(name), largest))
                for name, (total, largest) in self.pools.items()
            },
        )


def _planes(node: Node, channels_last: Tensor) -> Tensor:
    """Convert [N, H, W, C] to [N, *node.shape]."""
    channels, _, _ = image_shape(node)
    return channels_last[..., :channels].permute(0, 3, 1, 2).reshape(-1, *node.shape)


def _in_fixed_order(kernels: Kernels, _: Tensor, node: Node, values: Tensor) -> Tensor:
    """Compute a weighted node of the read-out, in an order of addition that does not depend on the batch."""
    return _planes(node, kernels.dense(node, values))
