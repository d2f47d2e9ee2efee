"""The converted network made of a peer's neurons, with the ANN's weights, unit spikes, soft reset and thresholds θ."""

import copy
from collections.abc import Callable, Mapping

from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

from rmpsweep.models.resnet import Block
from rmpsweep.terms import INPUT, Reset

STATELESS = (nn.Conv2d, nn.Linear, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten)


class ScaledShortcut(nn.Module):
    """The shortcut of a residual block, times Λ_input / Λ_branch, which is 1 / θ of the branch's one spiking layer."""

    def __init__(self, shortcut: nn.Module | None, factor: float) -> None:
        super().__init__()
        self.shortcut, self.factor = shortcut, factor

    def forward(self, x: Tensor) -> Tensor:
        return (x if self.shortcut is None else self.shortcut(x)) * self.factor


def twin_of(ann: nn.Module, thresholds: Mapping[str, Tensor], spiking: Callable[[float], nn.Module]) -> nn.Module:
    """A copy of the ANN with spiking(θ) in place of each ReLU, and with every shortcut scaled."""
    twin = copy.deepcopy(ann).eval()
    for name, threshold in thresholds.items():
        if name != INPUT:
            twin.set_submodule(name, spiking(float(threshold)))
    for name, block in ann.named_modules():
        if isinstance(block, Block):
            own = twin.get_submodule(name)
            own.shortcut = ScaledShortcut(own.shortcut, 1 / float(thresholds[f"{name}.relu1"]))
    return twin


def spikingjelly_twin(ann: nn.Module, thresholds: Mapping[str, Tensor], step_mode: str) -> nn.Module:
    """A copy of the ANN with IFNode in place of each ReLU; in step mode 'm' input and output are [steps, N, ...]."""
    twin = twin_of(ann, thresholds, lambda threshold: neuron.IFNode(v_threshold=threshold, v_reset=None))
    if step_mode == "m":
        for name, _ in [(n, m) for n, m in twin.named_modules() if isinstance(m, STATELESS)]:
            twin.set_submodule(name, layer.SeqToANNContainer(twin.get_submodule(name)))
    functional.set_step_mode(twin, step_mode)
    return twin


def set_trial(twin: nn.Module, thresholds: Mapping[str, Tensor], alpha: float, reset: Reset) -> None:
    """Turn a SpikingJelly twin into another trial of the sweep: set its reset, and multiply every θ by α."""
    for name, module in twin.named_modules():
        if isinstance(module, neuron.IFNode):
            module.v_threshold = alpha * float(thresholds[name])
            module.v_reset = None if reset == "soft" else 0.0
        if isinstance(module, ScaledShortcut):
            branch = name.removesuffix("shortcut") + "relu1"
            module.factor = 1 / (alpha * float(thresholds[branch]))
