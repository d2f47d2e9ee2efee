"""What one neuron makes of a regular input spike train."""

from fractions import Fraction

import torch
from torch import Tensor

from rmpsweep.engine.neuron import step
from rmpsweep.terms import Reset


def regular_train(f_in: Fraction, time_steps: int) -> Tensor:
    """Input spikes as evenly spaced as steps allow, the first one at the first step: ceil(t·f_in) of them up to step t.

    Args:
        f_in: spikes per step, in [0, 1].
    Returns:
        0 or 1 at each step, float64 [time_steps].
    """
    up_to = torch.tensor([-(-t * f_in.numerator // f_in.denominator) for t in range(time_steps + 1)])
    return up_to.diff().to(torch.float64)


def output_spikes(v_in: Tensor, threshold: float, trains: Tensor, reset: Reset) -> Tensor:
    """Output spikes of the reference neuron, from zero potential.

    Exact while every sum of `v_in` is: on dyadic values.

    Args:
        v_in: what one input spike adds to the membrane potential, one neuron each, float64 [N].
        threshold: > 0, in the units of v_in.
        trains: input spike (1) or none (0) of each neuron at each step, float64 [T, N].
        reset: "soft" or "hard".
    Returns:
        Spikes of each neuron over the T steps, int64 [N].
    """
    v = torch.zeros_like(v_in)
    total = torch.zeros_like(v_in)
    for input_spikes in trains:
        spikes, v = step(v_in * input_spikes, v, threshold, reset)
        total += spikes
    return total.to(torch.int64)
