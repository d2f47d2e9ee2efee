"""Folds batch norm into the layer before it."""

from torch import Tensor, nn


def folded(weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of the one layer that computes norm(layer(x)) with the running statistics.

    Args:
        weight: [C, ...].
        bias: [C], or None.
        norm: must have running statistics.
    Returns:
        weight [C, ...] and bias [C] in the dtype of `weight`, rounded once from float64.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = (0 if bias is None else bias.double()) - norm.running_mean.double()
    wide_bias = shift * scale + (0 if norm.bias is None else norm.bias.detach().double())
    wide_weight = weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))
    return wide_weight.to(weight.dtype), wide_bias.to(weight.dtype)
