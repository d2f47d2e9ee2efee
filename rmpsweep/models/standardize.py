"""Weight standardisation, which lets a network without batch norm learn fast and leaves plain convolutions behind.

Source: Qiao et al. 2019 (arXiv:1903.10520), scaled as in Brock, De and Smith 2021 (arXiv:2101.08692), section 3.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

RELU_SPREAD = math.sqrt(1 - 1 / math.pi)  # standard deviation / root mean square of a rectified normal variable
EPSILON = 1e-5


class Standardized(nn.Module):
    """Turn a weight [O, I, H, W] into gain_o (w_o - mean(w_o)) / norm(w_o - mean(w_o)), with a gain that is learnt.

    The gain of each filter starts at the norm of its initial weight divided by RELU_SPREAD, because filters of zero
    mean do not see the mean of the ReLU outputs before them.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.gain = nn.Parameter(weight.detach().flatten(1).norm(dim=1).view(-1, 1, 1, 1) / RELU_SPREAD)

    def forward(self, weight: Tensor) -> Tensor:
        centred = weight - weight.mean((1, 2, 3), keepdim=True)
        return self.gain * centred * torch.rsqrt(centred.square().sum((1, 2, 3), keepdim=True) + EPSILON)


def standardize(network: nn.Module) -> None:
    """Let every convolution of a network learn through a standardised weight."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            parametrize.register_parametrization(module, "weight", Standardized(module.weight))


def fold(network: nn.Module) -> None:
    """Undo `standardize`: the weights that the convolutions use now become their own."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
