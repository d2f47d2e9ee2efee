"""How one neuron responds to a regular train of input spikes."""

from fractions import Fraction

import torch
from torch import Tensor

from rmpsweep.engine.neuron import step
from rmpsweep.terms import Reset


def regular_train(f_in: Fraction, time_steps: int) -> Tensor:
    """Return input spikes that are spaced as evenly as whole steps allow, beginning at the first step.

    Up to step t there are ceil(t·f_in) of them.

    Args:
        f_in: spikes per step, in [0, 1].
    Returns:
        0 or 1 at each step, float64 [time_steps].
    """
    up_to = torch.tensor([-(-t * f_in.numerator // f_in.denominator) for t in range(time_steps + 1)])
    return up_to.diff().to(torch.float64)


def output_spikes(v_in: Tensor, threshold: float, trains: Tensor, reset: Reset) -> Tensor:
    """Count the output spikes of the reference neuron, which starts at zero potential.

    The count is exact as long as every sum of `v_in` is exact, as with dyadic values.

    Args:
        v_in: what one input spike adds to the membrane potential of each neuron, float64 [N].
        threshold: > 0, in the units of v_in.
        trains: 1 where a neuron receives an input spike at a step, else 0, float64 [T, N].
        reset: "soft" or "hard".
    Returns:
        The spikes of each neuron over the T steps, int64 [N].
    """
    v = torch.zeros_like(v_in)
    total = torch.zeros_like(v_in)
    for input_spikes in trains:
        spikes, v = step(v_in * input_spikes, v, threshold, reset)
        total += spikes
    return total.to(torch.int64)
