"""Spike for spike the same as SpikingJelly 2.0's IFNode on the same unit-spike network: zero mismatches allowed.

The networks are written out in SpikingJelly's own terms: weights of the ANN, biases divided by Λ_m, and the shortcut
multiplied by Λ_shortcut / Λ_branch at a junction.
"""

import pytest
import torch
from spikingjelly.activation_based import functional, neuron
from torch import nn

from rmpsweep.engine import convert, simulate
from tests.helpers.nets import Chain, Pooled, Residual, dyadic_images, make_dyadic, powers_of_two

T = 64
BUILDS = {"chain": Chain, "bias": lambda: Chain(bias=True), "pool": Pooled, "residual": Residual}


def spiking_twin(ann, net, thresholds, alpha, reset):
    """Replace each ReLU by an IFNode and scale biases and shortcuts by Λ, computed here by hand."""
    unit = {"input": 1.0}
    bias_unit = {}
    last = "input"
    for name in net.layers:
        unit[name] = float(thresholds[name]) * alpha * unit[last]
        last = name
    order = ["input", *net.layers]
    for i, (name, _) in enumerate(
        (n, m) for n, m in ann.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and n != "shortcut"
    ):
        bias_unit[name] = unit[order[i]]
    for name, module in ann.named_modules():
        if getattr(module, "bias", None) is not None and name != "shortcut":
            module.bias.data /= bias_unit[name]
    for name in net.layers:
        node = neuron.IFNode(v_threshold=float(thresholds[name]) * alpha, v_reset=None if reset == "soft" else 0.0)
        setattr(ann, name, node)
    return unit


@pytest.mark.parametrize("kernels", ["reference", "auto"])
@pytest.mark.parametrize("reset", ["soft", "hard"])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_law_8_every_spike_of_every_layer_is_equal(build, alpha, reset, kernels):
    ann = make_dyadic(build())
    images = dyadic_images()
    net = convert(ann, images)
    thresholds = powers_of_two(net)
    ours = simulate(net, images, thresholds, [T], alpha=alpha, reset=reset, record_spikes=True, kernels=kernels)

    unit = spiking_twin(ann, net, thresholds, alpha, reset)
    if isinstance(ann, Residual):
        ann.forward = residual_forward(ann, unit)
    trains = {name: [] for name in net.layers}
    for name in net.layers:
        getattr(ann, name).register_forward_hook(lambda _m, _i, out, name=name: trains[name].append(out.clone()))
    functional.reset_net(ann)
    output = 0
    with torch.no_grad():
        for _ in range(T):
            output = output + ann(images)
    total = 0
    for name in net.layers:
        theirs = torch.stack(trains[name]).to(torch.uint8)
        assert int((theirs != ours.spikes[name]).sum()) == 0, name
        total += int(theirs.sum())
    assert total > 1000
    assert torch.equal(output * unit[net.layers[-1]] / T, ours.logits[0])


def residual_forward(ann, unit):
    def forward(x):
        x = ann.act0(ann.stem(x))
        x = ann.act2(ann.conv2(ann.act1(ann.conv1(x))) + x * (unit["act0"] / unit["act1"]))
        x = ann.act4(ann.conv4(ann.act3(ann.conv3(x))) + ann.shortcut(x) * (unit["act2"] / unit["act3"]))
        return ann.fc(x.flatten(1))

    return forward
