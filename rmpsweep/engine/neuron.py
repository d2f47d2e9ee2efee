"""The integrate-and-fire neuron: the slow, obvious specification every fast path must equal.

    u(t) = v(t-1) + z(t)
    s(t) = 1 if u(t) >= threshold else 0
    soft:  v(t) = u(t) - threshold * s(t)
    hard:  v(t) = u(t) * (1 - s(t))

Integrate, then test, then reset, all within the step; a neuron at exactly its threshold fires.
"""

from torch import Tensor

from rmpsweep.terms import Reset, check_choice


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
    u = v + z
    spikes = (u >= threshold).to(u.dtype)
    if reset == "soft":
        return spikes, u - threshold * spikes
    check_choice("reset", reset, Reset)
    return spikes, u * (1 - spikes)


def step_(z: Tensor, v: Tensor, threshold: Tensor | float, reset: Reset) -> Tensor:
    """`step` with v updated in place: the same spikes and potentials, bit for bit, in fewer passes over memory."""
    v += z
    spikes = (v >= threshold).to(v.dtype)
    if reset == "soft":
        v -= threshold * spikes
    else:
        v *= 1 - spikes
    return spikes
