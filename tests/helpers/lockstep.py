"""Runs SpikingJelly 2.0's own conversion (ann2snn, rate coding) and ours side by side, step by step."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from spikingjelly.activation_based import ann2snn, functional, neuron
from torch import Tensor, nn

from rmpsweep.engine import SpikingNetwork, convert, simulate, thresholds_from_scales
from tests.helpers.cifar_resnet import CifarResNet, in_modules


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set torch's default dtype, in which SpikingJelly keeps its scales whatever the network's dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@dataclass
class Flip:
    """The first spike of an image that differs."""

    image: int
    step: int
    layer: str
    ours: float
    """u/θ - 1 there, in our system."""
    theirs: float
    """u/θ - 1 there, in SpikingJelly."""


@dataclass
class Comparison:
    """The predictions of both systems, and their spikes that differ."""

    ours: Tensor
    """Our predictions, int64 [T, N]."""
    theirs: Tensor
    """SpikingJelly's predictions, int64 [T, N]."""
    spikes: int = 0
    """Number of our spikes in all layers, images and steps."""
    differing: int = 0
    """Number of differing spikes in all layers, images and steps."""
    flips: list[Flip] = field(default_factory=list)
    """For each image with a difference, the spikes that differ in the first layer and step where any do."""


class Pair:
    """One ANN converted by both systems with SpikingJelly's scales λ; in unit spikes θ_1 = λ_1, θ_l = λ_l / λ_(l-1).

    Args:
        ann: the ANN with F.relu and option-A shortcuts, which we convert as it is; float32 or float64.
        calibration: [N, C, H, W], one batch, so that SpikingJelly's moving average of batch maxima is their maximum.
    """

    def __init__(self, ann: CifarResNet, calibration: Tensor) -> None:
        recipe = ann2snn.RateCodingRecipe([calibration], mode="Max")
        with default_dtype(calibration.dtype):
            self.spiking: nn.Module = ann2snn.Converter(recipe).convert(in_modules(ann))
        modules = dict(self.spiking.named_modules())
        called = [node.target for node in self.spiking.graph.nodes if node.op == "call_module"]
        self.neurons = [modules[name] for name in called if isinstance(modules[name], neuron.IFNode)]
        scales = [modules[name].scale for name in called if name.endswith(".scaler1")]
        self.net: SpikingNetwork = convert(ann, calibration[:2])
        self.thresholds = thresholds_from_scales(
            self.net, {"input": torch.tensor(1.0), **dict(zip(self.net.layers, scales, strict=True))}
        )

    @torch.no_grad()
    def compare(self, images: Tensor, time_steps: int) -> Comparison:
        """Run both systems for `time_steps` steps, in the dtype of the images."""
        fired: list[Tensor] = []
        hooks = [n.register_forward_hook(lambda _module, _inputs, out: fired.append(out)) for n in self.neurons]
        numerics = str(images.dtype).removeprefix("torch.")
        functional.reset_net(self.spiking)
        result = Comparison(*torch.empty(2, time_steps, len(images), dtype=torch.int64))
        state, current, flipped = None, torch.zeros(()), set()
        for t in range(time_steps):
            fired.clear()
            current = current + self.spiking(images)
            sim = simulate(
                self.net, images, self.thresholds, [t + 1], numerics=numerics, record_spikes=True, state=state, start=t
            )
            state = sim.state
            result.ours[t], result.theirs[t] = sim.logits[0].argmax(1), current.argmax(1)
            for layer, theirs, node in zip(self.net.layers, fired, self.neurons, strict=True):
                ours = sim.spikes[layer][0]
                differing = (ours != theirs).flatten(1)
                result.spikes += int(ours.sum())
                result.differing += int(differing.sum())
                threshold = self.thresholds[layer]
                margins = (state.potentials[layer] / threshold + ours - 1, node.v + theirs - 1)
                for image in set(differing.any(1).nonzero().flatten().tolist()) - flipped:
                    flipped.add(image)
                    both = zip(*(margin[image].flatten()[differing[image]].tolist() for margin in margins), strict=True)
                    result.flips += [Flip(image, t, layer, *margin) for margin in both]
        for hook in hooks:
            hook.remove()
        return result
