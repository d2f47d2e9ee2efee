"""Weight standardisation: what lets a network without batch norm learn fast, and leaves plain convolutions behind.

Source: Qiao et al. 2019 (arXiv:1903.10520); its scaling as in Brock, De and Smith 2021 (arXiv:2101.08692), section 3.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

RELU_SPREAD = math.sqrt(1 - 1 / math.pi)  # standard deviation over root mean square of a rectified normal variable
EPSILON = 1e-5


class Standardized(nn.Module):
    """Weight [O, I, H, W] -> gain_o (w_o - mean(w_o)) / norm(w_o - mean(w_o)); the gain is learnt.

    The gain starts at the norm of the initial weight over RELU_SPREAD: filters without a mean do not see the mean of
    the ReLUs before them.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.gain = nn.Parameter(weight.detach().flatten(1).norm(dim=1).view(-1, 1, 1, 1) / RELU_SPREAD)

    def forward(self, weight: Tensor) -> Tensor:
        centred = weight - weight.mean((1, 2, 3), keepdim=True)
        return self.gain * centred * torch.rsqrt(centred.square().sum((1, 2, 3), keepdim=True) + EPSILON)


def standardize(network: nn.Module) -> None:
    """Let every convolution learn through a standardised weight."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            parametrize.register_parametrization(module, "weight", Standardized(module.weight))


def fold(network: nn.Module) -> None:
    """Make the weights that the convolutions use now their own; undoes `standardize`."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
