"""The operators that `convert` knows, by the names of its methods."""

import operator
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

SUPPORTED = (
    "Conv2d, Linear, ReLU, AvgPool2d, AdaptiveAvgPool2d, MaxPool2d, Flatten, Dropout, Identity, "
    "BatchNorm after a convolution or linear layer, addition of two tensors, slicing, padding with zeros"
)

_FUNCTIONS: dict[Any, str] = {
    F.relu: "relu", torch.relu: "relu", F.dropout: "skip", F.avg_pool2d: "avg_pool",
    F.adaptive_avg_pool2d: "adaptive_avg_pool", F.max_pool2d: "max_pool", torch.flatten: "flatten",
    operator.add: "sum", operator.iadd: "sum", torch.add: "sum", operator.getitem: "slice", F.pad: "pad",
}  # fmt: skip
_METHODS = {
    "relu": "relu", "relu_": "relu", "flatten": "flatten", "view": "reshape", "reshape": "reshape",
    "add": "sum", "add_": "sum", "contiguous": "skip",
}  # fmt: skip
_MODULES: dict[type[nn.Module], str] = {
    nn.Conv2d: "conv", nn.Linear: "linear", nn.ReLU: "relu", nn.AvgPool2d: "avg_pool",
    nn.AdaptiveAvgPool2d: "adaptive_avg_pool", nn.MaxPool2d: "max_pool", nn.Flatten: "flatten", nn.Dropout: "skip",
    nn.Dropout2d: "skip", nn.Identity: "skip", nn.BatchNorm1d: "batch_norm", nn.BatchNorm2d: "batch_norm",
}  # fmt: skip
FUNCTION_ARGUMENTS = {
    "avg_pool": ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    "adaptive_avg_pool": ("input", "output_size"),
    "max_pool": ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "pad": ("input", "pad", "mode", "value"),
}


def kind_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> str | None:
    """What a traced node computes, e.g. "conv"; None where nothing here does."""
    if node.op == "call_module":
        return _MODULES.get(type(modules[str(node.target)]))
    if node.op == "call_function":
        return _FUNCTIONS.get(node.target)
    if node.op == "call_method":
        return _METHODS.get(str(node.target))
    return None


def is_size(node: fx.Node) -> bool:
    """x.size(0), x.shape and their items: numbers, as other nodes' arguments."""
    if node.op == "call_method":
        return bool(node.target == "size")
    if node.target is getattr:
        return bool(node.args[1] == "shape")
    return bool(node.target is operator.getitem and "tensor_meta" not in node.meta)
