"""How a layer's neurons are updated: what enters their current besides a convolution, and integrate, fire and reset."""

from typing import assert_never

from numba import njit, types
from numba.extending import overload

from rmpsweep.engine.cpu.lanes import any_of, convert, convert_like, load, shift_right, spread, where
from rmpsweep.engine.kernels import POTENTIAL_LIMIT
from rmpsweep.engine.neuron import RESET_CODES
from rmpsweep.engine.numerics import FACTOR_BITS
from rmpsweep.terms import Reset

NOTHING, FLAG, CURRENT, SCALED = 0, 1, 2, 3
"""What a layer's current receives besides the convolution. NOTHING: nothing. FLAG: a table's value where a byte is not
zero. CURRENT: a current. SCALED: a current times a table's factor (in integers (M I + 2^15) >> 16)."""
SOFT, HARD = RESET_CODES["soft"], RESET_CODES["hard"]


def code_of(reset: Reset) -> int:
    """Return the code by which `fire` knows a reset. Each reset that `fire` computes has a case here."""
    match reset:
        case "soft":
            return SOFT
        case "hard":
            return HARD
        case _:
            assert_never(reset)


def scaled(current, table, at, width):
    """Return a current times a table's factor. For integers it is (M I + 2^15) >> 16, computed in int64."""


@overload(scaled, inline="always")
def _overload_scaled(current, table, at, width):
    def floating(current, table, at, width):
        return current * load(table, at, width)

    def integer(current, table, at, width):
        product = convert(current, types.int64) * load(table, at, width)
        return convert_like(shift_right(product + spread(1 << FACTOR_BITS - 1, product), FACTOR_BITS), current)

    return floating if isinstance(table.dtype, types.Float) else integer


def leaves_range(v):
    """Whether an int32 potential could wrap in a later chunk."""


@overload(leaves_range, inline="always")
def _overload_leaves_range(v):
    if v.element != types.int32:
        return lambda v: False
    return lambda v: any_of(v >= spread(POTENTIAL_LIMIT, v)) or any_of(v < spread(-POTENTIAL_LIMIT, v))


@njit(inline="always")
def stepped(v, z, theta, softly):
    """Return the potential after one step, and whether the neuron fires."""
    v = v + z
    fired = v >= theta
    return v - where(fired, theta if softly else v), fired
