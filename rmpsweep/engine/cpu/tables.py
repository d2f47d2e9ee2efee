"""The constants of layers in the form in which the CPU kernels read them: flat [K, C_out], for K settings."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rmpsweep.engine.cpu import update
from rmpsweep.engine.cpu.pack import Convolution
from rmpsweep.engine.network import Node
from rmpsweep.engine.numerics import FACTOR_BITS, Constants
from rmpsweep.engine.program import Addend, Layer, Program


@dataclass(frozen=True)
class Tables:
    """The constants of one layer; potentials have the dtype of all but `factor`."""

    bias: np.ndarray
    threshold: np.ndarray
    kind: int
    """How what a junction adds enters the current: see `update.NOTHING` and so on."""
    flag: np.ndarray
    """What a spike adds, for FLAG."""
    factor: np.ndarray
    """What a current is multiplied by, for SCALED."""


def tables_of(constants: Constants, program: Program, layer: Layer, own: Convolution, dtype: np.dtype) -> Tables:
    """Return the constants of a layer, whose potentials are of that dtype."""
    kind, flag, factor = update.NOTHING, torch.zeros(1, 1), torch.zeros(1, 1)
    if layer.addend is not None:
        kind, table = _junction(constants, program, layer.addend)
        flag, factor = (table, factor) if kind == update.FLAG else (flag, table)
    threshold = own.table(constants.threshold[layer.node.name].numpy(), 1).astype(dtype)
    factor_dtype = dtype if dtype.kind == "f" else np.dtype("int64")
    return Tables(
        bias_of(constants, layer.weighted, own, dtype),
        threshold,
        kind,
        own.table(flag.numpy()).astype(dtype),
        own.table(factor.numpy()).astype(factor_dtype),
    )


def bias_of(constants: Constants, node: Node, convolution: Convolution, dtype: np.dtype) -> np.ndarray:
    """Return the bias of a weighted node, or zeros if it has none."""
    bias = constants.bias.get(node.name, torch.zeros(len(constants.settings), 1, dtype=constants.dtype))
    return convolution.table(bias.numpy()).astype(dtype)


def _junction(constants: Constants, program: Program, addend: Addend) -> tuple[int, Tensor]:
    """Return how an addend enters the current (FLAG or SCALED), with the table for that, [K, 1 or C]."""
    value = program.values[addend.value]
    factor = constants.factor.get(addend.key)
    if constants.is_fixed:
        assert factor is not None
        if addend.node is None and value.largest == 1:
            return update.FLAG, (factor + (1 << FACTOR_BITS - 1)) >> FACTOR_BITS
        return update.SCALED, factor
    factor = torch.ones(len(constants.settings), 1, dtype=constants.dtype) if factor is None else factor
    if addend.node is None:
        return (update.FLAG if value.largest == 1 else update.SCALED), factor / value.divisor
    return update.SCALED, factor
