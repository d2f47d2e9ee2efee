"""Counts operations: how many one spike of each neuron causes, and how many the ANN computes."""

from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from rmpsweep.engine.network import REARRANGING, Node, SpikingNetwork, average_of_max_pool, rearrange


@torch.enable_grad()
def fan_out(net: SpikingNetwork) -> dict[str, Tensor]:
    """Count the additions that one spike of each neuron causes, exactly: borders, strides, groups and pooling included.

    A spike is followed along every path to the neurons (or output units) whose current it enters, and each path counts
    as one addition. A weight of a convolution or linear layer is one synapse, and so is an identity shortcut. Pooling
    passes a spike on from every window that holds it, and a slice passes on what it keeps. For max pooling this is an
    upper bound, because a spike that does not raise the maximum goes no further. Weights that happen to be zero count.

    Returns:
        "input" and each spiking layer -> int64 [*layer shape].
    """
    paths: dict[str, Tensor] = {}

    def enter(name: str, count: Tensor) -> None:
        paths[name] = paths[name] + count if name in paths else count

    enter(net.output, torch.ones(1, *net.node(net.output).shape, dtype=torch.float64))
    result: dict[str, Tensor] = {}
    for node in reversed(net.nodes):
        count = paths.pop(node.name, torch.zeros(1, *node.shape, dtype=torch.float64))
        match node.op:
            case "input":
                result[node.name] = count[0].to(torch.int64)
            case "spike":
                result[node.name] = count[0].to(torch.int64)
                enter(node.inputs[0], torch.ones_like(count))
            case "add":
                for name in node.inputs:
                    enter(name, count)
            case "concat":
                channels = [net.node(name).shape[0] for name in node.inputs]
                for name, part in zip(node.inputs, count.split(channels, 1), strict=True):
                    enter(name, part)
            case "conv" | "linear" | "avg_pool" | "max_pool" | "flatten" | "slice" | "pad":
                enter(node.inputs[0], _transpose(net, node, count))
            case _:
                assert_never(node.op)
    return result


@torch.enable_grad()
def dense_macs(net: SpikingNetwork) -> dict[str, int]:
    """Count the ANN's multiply-accumulates for one image, by the layer that they read: "input" or a spiking layer.

    They are those of convolutions and linear layers. Those on zeros count too, but not those where a kernel reaches
    past the border, which `fan_out` does not count either. (The customary figure, `models.registry.measure`, includes
    them.) Pooling passes on one value per window in the ANN, whereas every spike in a window is passed on, so a network
    with pooling has fewer multiply-accumulates than the sum of `fan_out`. Identity shortcuts, biases and pooling only
    add, and do not count.
    """
    counts = dict.fromkeys(("input", *net.layers), 0)
    inside: dict[str, Tensor] = {}
    for node in net.nodes:
        inputs = [inside[name] for name in node.inputs]
        all_of_it = torch.ones(1, dtype=torch.float64).expand(1, *node.shape)
        if node.op in ("conv", "linear"):
            macs = _transpose(net, node, all_of_it) * inputs[0]
            counts[net.node(node.inputs[0]).scale_of] += int(macs.sum())
        inside[node.name] = rearrange(node, *inputs) if node.op in REARRANGING else all_of_it
    return counts


def _transpose(net: SpikingNetwork, node: Node, count: Tensor) -> Tensor:
    """Apply the transposed connectivity of one node, with all weights one: [1, *node.shape] -> [1, *input shape]."""
    shape = net.node(node.inputs[0]).shape
    if node.op == "linear":
        return count.sum(1, keepdim=True).expand(1, *shape)
    if node.op == "conv":
        return _transpose_conv(net, node, count)
    x = torch.zeros(1, *shape, dtype=torch.float64, requires_grad=True)
    match node.op:
        case "avg_pool":
            y = F.avg_pool2d(x, **{**node.options, "divisor_override": 1})
        case "max_pool":
            y = average_of_max_pool(node, x, divisor=1)
        case _:
            y = rearrange(node, x)
    return torch.autograd.grad(y, x, count)[0]


def _transpose_conv(net: SpikingNetwork, node: Node, count: Tensor) -> Tensor:
    """Do what `_transpose` does, for a convolution.

    All channels of a group count alike, so one channel stands for each group.
    """
    channels, *size = net.node(node.inputs[0]).shape
    groups, kernel = node.options["groups"], net.weights[node.name][0].shape[2:]
    x = torch.zeros(1, groups, *size, dtype=torch.float64, requires_grad=True)
    y = F.conv2d(x, torch.ones(groups, 1, *kernel, dtype=torch.float64), **node.options)
    entered = torch.autograd.grad(y, x, count.unflatten(1, (groups, -1)).sum(2))[0]
    return entered.repeat_interleave(channels // groups, 1)
