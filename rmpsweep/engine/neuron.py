"""The integrate-and-fire neuron: the slow, obvious specification every fast path must equal.

    u(t) = v(t-1) + z(t)
    s(t) = 1 if u(t) >= threshold else 0
    soft:  v(t) = u(t) - threshold * s(t)
    hard:  v(t) = u(t) * (1 - s(t))

Integrate, then test, then reset, all within the step; a neuron at exactly its threshold fires.

The law is written again in four places, which tests hold against this one: `step_` below, `cpu.kernels.fire`,
`gpu.kernels._step`, and as a closed form in `claims.response`.
"""

from typing import assert_never

from torch import Tensor

from rmpsweep.terms import RESETS, Reset, check_choice

RESET_CODES: dict[Reset, int] = {reset: code for code, reset in enumerate(RESETS)}
"""How kernels are told of a reset. Each of them has a `code_of` that refuses the resets it does not compute."""


def step(z: Tensor, v: Tensor, threshold: Tensor | float, reset: Reset) -> tuple[Tensor, Tensor]:
    """One time step of a layer of integrate-and-fire neurons without leak.

    Args:
        z: input current at this step, [N, ...].
        v: membrane potential before the step, [N, ...], same dtype.
        threshold: > 0, broadcastable to z; in the units of z.
        reset: "soft" subtracts the threshold and keeps the residual; "hard" returns to zero.
    Returns:
        spikes [N, ...] (0 or 1, dtype of z) and the potential after the step [N, ...].
    Raises:
        ValueError: unknown reset.
    Source: Han, Srinivasan, Roy, CVPR 2020 (RMP neuron); `>=` as SpikingJelly `IFNode`.
    """
    check_choice("reset", reset, Reset)
    u = v + z
    spikes = (u >= threshold).to(u.dtype)
    match reset:
        case "soft":
            return spikes, u - threshold * spikes
        case "hard":
            return spikes, u * (1 - spikes)
        case _:
            assert_never(reset)


def step_(z: Tensor, v: Tensor, threshold: Tensor | float, reset: Reset) -> Tensor:
    """`step` with v updated in place: the same spikes and potentials, bit for bit, in fewer passes over memory."""
    v += z
    spikes = (v >= threshold).to(v.dtype)
    match reset:
        case "soft":
            v -= threshold * spikes
        case "hard":
            v *= 1 - spikes
        case _:
            assert_never(reset)
    return spikes
