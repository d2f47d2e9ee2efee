"""The operators that `convert` knows, and the kind of each.

For every kind, such as "conv", the converter has a method (`_conv`), except that operators of kind "skip" return their
input.
"""

import operator
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

SUPPORTED = (
    "Conv2d, Linear, ReLU, ReLU6, Hardtanh(0, c), AvgPool2d, AdaptiveAvgPool2d, mean over height and width, MaxPool2d, "
    "Flatten, Dropout, Identity, BatchNorm after a convolution or linear layer, addition of two tensors, concatenation "
    "of channels after their ReLUs, slicing, padding with zeros"
)

_FUNCTIONS: dict[Any, str] = {
    F.relu: "relu",
    torch.relu: "relu",
    F.relu6: "relu6",
    F.hardtanh: "hardtanh",
    F.dropout: "skip",
    F.avg_pool2d: "avg_pool",
    F.adaptive_avg_pool2d: "adaptive_avg_pool",
    torch.mean: "mean",
    F.max_pool2d: "max_pool",
    torch.flatten: "flatten",
    operator.add: "sum",
    operator.iadd: "sum",
    torch.add: "sum",
    torch.cat: "concat",
    torch.concat: "concat",
    operator.getitem: "slice",
    F.pad: "pad",
}
_METHODS = {
    "relu": "relu",
    "relu_": "relu",
    "flatten": "flatten",
    "view": "reshape",
    "reshape": "reshape",
    "add": "sum",
    "add_": "sum",
    "mean": "mean",
    "contiguous": "skip",
}
_MODULES: dict[type[nn.Module], str] = {
    nn.Conv2d: "conv",
    nn.Linear: "linear",
    nn.ReLU: "relu",
    nn.ReLU6: "hardtanh",
    nn.Hardtanh: "hardtanh",
    nn.AvgPool2d: "avg_pool",
    nn.AdaptiveAvgPool2d: "adaptive_avg_pool",
    nn.MaxPool2d: "max_pool",
    nn.Flatten: "flatten",
    nn.Dropout: "skip",
    nn.Dropout2d: "skip",
    nn.Identity: "skip",
    nn.BatchNorm1d: "batch_norm",
    nn.BatchNorm2d: "batch_norm",
}
FUNCTION_ARGUMENTS = {
    "avg_pool": ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    "adaptive_avg_pool": ("input", "output_size"),
    "max_pool": ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "pad": ("input", "pad", "mode", "value"),
    "hardtanh": ("input", "min_val", "max_val"),
    "mean": ("input", "dim", "keepdim"),
    "concat": ("tensors", "dim"),
}


def kind_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> str | None:
    """Return the kind of a traced node, such as "conv", or None if `convert` does not know its operator."""
    if node.op == "call_module":
        return _MODULES.get(type(modules[str(node.target)]))
    if node.op == "call_function":
        return _FUNCTIONS.get(node.target)
    if node.op == "call_method":
        return _METHODS.get(str(node.target))
    return None
