"""The walk over the nodes that builds the constants of a group of settings.

Floating point and the integer grid share it.
"""

from collections.abc import Mapping, Sequence
from typing import assert_never

import torch
from torch import Tensor

from rmpsweep.engine.network import Node, SpikingNetwork, per_channel, rearrange
from rmpsweep.engine.numerics import CalibratedSetting, Constants, weights_kind
from rmpsweep.engine.scales import LayerScale, operand_ratios
from rmpsweep.errors import CalibrationError
from rmpsweep.terms import INPUT


class Builder:
    """Walks over the nodes in forward order and collects the fields of `Constants`. A subclass computes them in `add`.

    Where spikes do not all weigh the same (per-channel thresholds, concatenation), `spike_weight` follows their weights
    from node to node until a weighted node or a junction reads them: node -> float64 [*shape of the node].
    """

    def __init__(
        self,
        net: SpikingNetwork,
        settings: Sequence[CalibratedSetting],
        scales: Sequence[Mapping[str, LayerScale]],
        largest_input: float,
    ) -> None:
        self.net, self.settings, self.scales, self.largest_input = net, settings, scales, largest_input
        self.numerics, self.kind = settings[0].numerics, weights_kind(net, settings[0])
        self.spike_weight: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}
        self.threshold: dict[str, Tensor] = {}
        self.start: dict[str, Tensor] = {}
        self.bias: dict[str, Tensor] = {}
        self.factor: dict[tuple[str, int], Tensor] = {}
        self.multiplier: dict[str, Tensor | int] = {}
        self.largest: dict[str, float] = {}
        self.rounded: set[str] = set()
        self.narrowed: dict[str, int] = {}
        self.lifted: set[str] = set()
        self.error: dict[str, float] = {}
        self.deviation: dict[str, float] = {}
        self.readout = {node.name for node in net.readout}
        self.operand_ratios = operand_ratios(net, scales[0])

    def make(self) -> Constants:
        for node in self.net.nodes:
            self._follow_spike_weight(node)
            self.add(node)
        output = self.net.output
        scale = self.units(self.net.node(output).scale_of)[:, None] * self.output_grid()
        if output in self.spike_weight:
            scale = scale * by_channel(self.spike_weight[output])
        representable(scale, torch.float32 if self.numerics == "float32" else torch.float64)
        return Constants(
            self.net,
            tuple(self.settings),
            self.weights,
            self.threshold,
            self.start,
            self.bias,
            self.factor,
            self.multiplier,
            frozenset(self.rounded),
            self.narrowed,
            frozenset(self.lifted),
            self.units(INPUT),
            scale,
            self.largest,
            self.error,
            self.deviation,
            self.kind,
        )

    def output_grid(self) -> Tensor:
        """Return what the number 1 at the output is worth in the output's unit, [1 or classes]."""
        return torch.ones(1, dtype=torch.float64)

    def add(self, node: Node) -> None:
        raise NotImplementedError

    def units(self, name: str) -> Tensor:
        """Return Λ of a spiking layer or the input under each setting, float64 [K].

        Raises:
            CalibrationError: a Λ is not in the range of float64.
        """
        values = torch.tensor([s[name].unit for s in self.scales], dtype=torch.float64)
        if not bool((torch.isfinite(values) & (values > 0)).all()):
            raise CalibrationError(f"{name}: thresholds times α multiply up to {values.tolist()}; use another α")
        return values

    def thresholds(self, layer: str) -> Tensor:
        """Return θ of a layer under each setting, float64 [K, 1 or C]."""
        values = [s[layer].threshold for s in self.scales]
        return torch.stack([v.reshape(-1) for v in torch.broadcast_tensors(*values)])

    def entering(self, node: Node) -> Tensor | None:
        """Return what the spikes that enter a weighted node weigh by channel, float64 [outputs, inputs of each output].

        Return None if all spikes weigh the same.
        """
        spikes = self.spike_weight.get(node.inputs[0])
        return None if spikes is None else self.by_output(node, by_channel(spikes))

    def by_output(self, node: Node, channels: Tensor) -> Tensor:
        """Expand [input channels] to [outputs, inputs of each output]. The rows differ if a convolution has groups."""
        groups, outputs = node.options.get("groups", 1), len(self.net.weights[node.name][0])
        return channels.view(groups, 1, -1).expand(-1, outputs // groups, -1).flatten(0, 1)

    def ratio(self, node: Node, operand: int, main: int) -> Tensor:
        """Return Λ_k / Λ_m, for an operand and the main one, times the per-channel weight of the operand's spikes,
        float64 [K, 1 or C]."""
        own, into = self.net.node(node.inputs[operand]).scale_of, self.net.node(node.inputs[main]).scale_of
        factor = (self.units(own) / self.units(into))[:, None]
        spikes = self.spike_weight.get(node.inputs[operand])
        return factor if spikes is None else factor * by_channel(spikes)

    def _follow_spike_weight(self, node: Node) -> None:
        entering = self.spike_weight.get(node.inputs[0]) if node.inputs else None
        match node.op:
            case "spike":
                weight = self.scales[0][node.name].channel_weight
                if weight is not None:
                    self.spike_weight[node.name] = per_channel(weight, len(node.shape) + 1).expand(node.shape).clone()
            case "concat":
                self._weigh_concatenated(node)
            case "avg_pool" | "max_pool":
                if entering is not None:
                    channels = per_channel(by_channel(entering)[None], len(node.shape) + 1)[0]
                    self.spike_weight[node.name] = channels.expand(node.shape).clone()
            case "flatten" | "slice" | "pad":
                if entering is not None:
                    self.spike_weight[node.name] = rearrange(node, entering[None])[0]
            case "input" | "conv" | "linear" | "add":  # their own constants hold the weights of what they read
                pass
            case _:
                assert_never(node.op)

    def _weigh_concatenated(self, node: Node) -> None:
        operands = [self.net.node(name) for name in node.inputs]
        for unit in dict.fromkeys((node.scale_of, *(operand.scale_of for operand in operands))):
            self.units(unit)  # raises if the unit is out of range
        ratios = self.operand_ratios[node.name]
        if any(ratio != 1 for ratio in ratios) or any(name in self.spike_weight for name in node.inputs):
            even = (torch.ones(operand.shape, dtype=torch.float64) for operand in operands)
            own = [self.spike_weight.get(name, ones) for name, ones in zip(node.inputs, even, strict=True)]
            self.spike_weight[node.name] = torch.cat([r * w for r, w in zip(ratios, own, strict=True)])


def weighed(weight: Tensor, entering: Tensor | None, start: int) -> Tensor:
    """Return a weight in float64, multiplied by the weights of the spikes that enter.

    `weight` holds the outputs from `start` on.
    """
    exact = weight.double()
    if entering is None:
        return exact
    rows = entering[start : start + len(weight)]
    return exact * rows.view(*rows.shape, *[1] * (weight.dim() - 2))


def by_channel(values: Tensor) -> Tensor:
    """Reduce [C, ...] to [C]; [F] stays as it is. Values must be constant over space, except for zero padding."""
    return values.flatten(1).amax(1) if values.dim() > 1 else values


def representable(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast float64 values to another dtype.

    Raises:
        CalibrationError: a value overflows or becomes zero.
    """
    table = exact.to(dtype)
    if not bool((torch.isfinite(table) & ((table != 0) == (exact != 0))).all()):
        raise CalibrationError(
            f"thresholds times α give {exact.abs().max():.3g} to {exact.abs().min():.3g}, out of the range of {dtype}; "
            "use another α, alpha_scope: network, or numerics: float64"
        )
    return table
