"""`twins` for snnTorch, in a module of its own since snnTorch may be missing."""

from collections.abc import Mapping

import snntorch
from torch import Tensor, nn

from benchmarks.twins import twin_of


def snntorch_twin(ann: nn.Module, thresholds: Mapping[str, Tensor]) -> nn.Module:
    """Leaky without leak for ReLU.

    Its default reset_delay=True subtracts θ at the next step, which gives IFNode's spikes, and computes less than
    False, which gives other spikes: a neuron still above θ after its reset neither fires nor resets again.
    """

    def spiking(threshold: float) -> nn.Module:
        return snntorch.Leaky(1.0, threshold, reset_mechanism="subtract", init_hidden=True)

    return twin_of(ann, thresholds, spiking)


def reset(twin: nn.Module) -> None:
    """Forget the membrane potentials."""
    for module in twin.modules():
        if isinstance(module, snntorch.Leaky):
            module.reset_mem()
