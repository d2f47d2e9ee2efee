"""Operations: how many one spike of each neuron causes, and how many the ANN computes."""

from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from rmpsweep.engine.network import REARRANGING, Node, SpikingNetwork, average_of_max_pool, rearrange


@torch.enable_grad()
def fan_out(net: SpikingNetwork) -> dict[str, Tensor]:
    """Additions caused by one spike of each neuron, exactly: borders, strides, groups and pooling included.

    A spike is followed along every path to the neurons (or output units) whose current it enters, and each path
    counts as one addition: a weight of a convolution or linear layer is one synapse, an identity shortcut is one,
    pooling windows hand a spike on to every window that holds it, and a slice hands on what it keeps (for max pooling
    an upper bound: a spike that does not raise the maximum goes no further). Weights that happen to be zero count.

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
    """Multiply-accumulates of the ANN for one image, by the layer they take from: "input" and each spiking one.

    Those of convolutions and linear layers, on zeros too, but not where a kernel reaches past the border: there
    `fan_out` counts none either (the customary figure, `models.registry.measure`, includes them). Pooling hands on one
    value for a window, whereas every spike in it goes on: with pooling they are fewer than the sum of `fan_out`.
    Identity shortcuts, biases and pooling add, and do not count.
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
    """The transposed connectivity of one node, every weight a one: [1, *node.shape] -> [1, *input shape]."""
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
    """`_transpose` of a convolution: the channels of a group all count alike, so one stands for each group."""
    channels, *size = net.node(node.inputs[0]).shape
    groups, kernel = node.options["groups"], net.weights[node.name][0].shape[2:]
    x = torch.zeros(1, groups, *size, dtype=torch.float64, requires_grad=True)
    y = F.conv2d(x, torch.ones(groups, 1, *kernel, dtype=torch.float64), **node.options)
    entered = torch.autograd.grad(y, x, count.unflatten(1, (groups, -1)).sum(2))[0]
    return entered.repeat_interleave(channels // groups, 1)
