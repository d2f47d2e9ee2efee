"""The twin in snnTorch, in a module apart from `twins` since snnTorch may not be installed."""

from collections.abc import Mapping

import snntorch
from torch import Tensor, nn

from benchmarks.twins import twin_of


def snntorch_twin(ann: nn.Module, thresholds: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the ANN with snnTorch's Leaky, without leak, in place of each ReLU.

    Leaky's default reset_delay=True subtracts θ at the next step, which gives the spikes of SpikingJelly's IFNode. It
    also computes less than reset_delay=False, which gives other spikes: a neuron that is still above θ after its reset
    then neither fires nor resets again.
    """

    def spiking(threshold: float) -> nn.Module:
        return snntorch.Leaky(1.0, threshold, reset_mechanism="subtract", init_hidden=True)

    return twin_of(ann, thresholds, spiking)


def reset(twin: nn.Module) -> None:
    """Reset the membrane potentials."""
    for module in twin.modules():
        if isinstance(module, snntorch.Leaky):
            module.reset_mem()
