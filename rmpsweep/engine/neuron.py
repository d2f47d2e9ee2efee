"""The integrate-and-fire neuron: the slow, obvious specification every fast path must equal.

    u(t) = v(t-1) + z(t)
    s(t) = 1 if u(t) >= threshold else 0
    soft:  v(t) = u(t) - threshold * s(t)
    hard:  v(t) = u(t) * (1 - s(t))

Integrate, then test, then reset, all within the step; a neuron at exactly its threshold fires.

The law is written again in four places, which tests hold against this one: `step_` below, `cpu.update.stepped`,
`gpu.kernels._step`, and as a closed form in `claims.response`.
"""

from typing import assert_never

from torch import Tensor

from rmpsweep.terms import RESETS, Reset, check_choice

RESET_CODES: dict[Reset, int] = {reset: code for code, reset in enumerate(RESETS)}
"""The code by which kernels know each reset. Each kernel module has a `code_of`, which refuses resets it cannot
compute."""


def step(z: Tensor, v: Tensor, threshold: Tensor | float, reset: Reset) -> tuple[Tensor, Tensor]:
    """Compute one time step of a layer of integrate-and-fire neurons without leak.

    Args:
        z: input current at this step, [N, ...].
        v: membrane potential before the step, [N, ...], in the dtype of z.
        threshold: > 0, broadcastable to z, in the units of z.
        reset: "soft" subtracts the threshold and keeps the residual; "hard" returns to zero.
    Returns:
        The spikes [N, ...] (0 or 1, in the dtype of z) and the potential after the step [N, ...].
    Raises:
        ValueError: the reset is unknown.
    Source: Han, Srinivasan, Roy, CVPR 2020 (RMP neuron); `>=` as in SpikingJelly's `IFNode`.
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
    """Do what `step` does, but update v in place: the same spikes and potentials, bit for bit, in fewer passes over
    memory."""
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
