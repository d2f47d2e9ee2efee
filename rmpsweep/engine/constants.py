"""Computes the constants of a group of settings, in floating point or on the integer grid that `numerics` describes."""

from collections.abc import Sequence
from typing import assert_never

import torch
from torch import Tensor

from rmpsweep.engine.builder import Builder, representable, weighed
from rmpsweep.engine.grid import GridBuilder
from rmpsweep.engine.network import Node, SpikingNetwork
from rmpsweep.engine.numerics import DTYPES, CalibratedSetting, Constants
from rmpsweep.engine.scales import scaled
from rmpsweep.terms import on_grid


def make_constants(net: SpikingNetwork, settings: Sequence[CalibratedSetting], largest_input: float) -> Constants:
    """Return the constants of settings that have the same `weights_kind`.

    Args:
        largest_input: the largest |x| / Λ_0 that will be encoded. It bounds the sums of fixed numerics under constant
        input.
    Raises:
        CalibrationError: a threshold or factor is out of the range of the numerics, a sum could overflow, or rounding
            is expected to move a layer's current by more than `numerics.MOST_DEVIATION` allows.
    """
    scales = [scaled(net, s.thresholds, s.alpha, s.alpha_scope) for s in settings]
    build = GridBuilder if on_grid(settings[0].numerics) else _FloatBuilder
    return build(net, settings, scales, largest_input).make()


class _FloatBuilder(Builder):
    """The constants in floating point."""

    def add(self, node: Node) -> None:
        name = node.name
        match node.op:
            case "spike":
                self.threshold[name] = self._cast(self.thresholds(name))
                v_init = torch.tensor([s.v_init for s in self.settings], dtype=torch.float64)[:, None]
                self.start[name] = self._cast(self.thresholds(name) * v_init)
            case "add":
                main = [self.net.node(i).scale_of for i in node.inputs].index(node.scale_of)
                for i, operand in enumerate(node.inputs):
                    if self.net.node(operand).scale_of != node.scale_of or operand in self.spike_weight:
                        self.factor[name, i] = self._cast(self.ratio(node, i, main))
            case "conv" | "linear":
                self._add_weighted(node)
            case "input" | "avg_pool" | "max_pool" | "flatten" | "slice" | "pad" | "concat":
                pass
            case _:
                assert_never(node.op)

    def _add_weighted(self, node: Node) -> None:
        (weight, bias), entering, dtype = self.net.weights[node.name], self.entering(node), DTYPES[self.numerics]
        self.weights[node.name] = (
            weight.to(dtype) if entering is None else weighed(weight.cpu(), entering, 0).to(weight.device, dtype)
        )
        if bias is not None:
            self.bias[node.name] = bias.cpu().to(dtype) * self._cast(1 / self.units(node.scale_of))[:, None]

    def _cast(self, exact: Tensor) -> Tensor:
        """Cast float64 values to the dtype of the numerics, rounding once."""
        return representable(exact, DTYPES[self.numerics])
