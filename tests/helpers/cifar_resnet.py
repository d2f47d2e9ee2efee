"""The CIFAR ResNet of He et al. 2016, section 4.2, with option-A shortcuts.

It has the module names and the operators of akamaster/pytorch_resnet_cifar10, resnet.py: `F.relu`, `F.pad` of a strided
slice, `F.avg_pool2d` and `view`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LambdaLayer(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def option_a(in_channels: int, channels: int) -> nn.Module:
    """A shortcut that takes every second row and column, and adds channels of zeros on both sides."""
    margin = (channels - in_channels) // 2
    return LambdaLayer(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, margin, margin), "constant", 0))


def option_a_as_convolution(in_channels: int, channels: int) -> nn.Module:
    """The same shortcut as a 1x1 convolution with weights 0 and 1, which is equal to the last bit."""
    margin = (channels - in_channels) // 2
    conv = nn.Conv2d(in_channels, channels, 1, stride=2, bias=False)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[margin : margin + in_channels, :, 0, 0] = torch.eye(in_channels)
    return conv


class Block(nn.Module):
    def __init__(self, in_channels: int, channels: int, as_modules: bool) -> None:
        super().__init__()
        stride = channels // in_channels
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Sequential()
        if stride != 1:
            self.shortcut = (option_a_as_convolution if as_modules else option_a)(in_channels, channels)
        self.relu1, self.relu2 = (nn.ReLU(), nn.ReLU()) if as_modules else (F.relu, F.relu)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return self.relu2(out)


class CifarResNet(nn.Module):
    """Three stages of `blocks` blocks each, [N, 3, H, W] -> [N, 10]; 5 blocks make ResNet-32.

    Args:
        as_modules: whether to compute the same function with modules alone, as SpikingJelly 2.0's converter needs it.
            The converter refuses F.relu, F.pad and F.avg_pool2d (ann2snn/recipes/step_mode_adapters.py, "does not
            support function node").
    """

    def __init__(self, blocks: int, as_modules: bool = False) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.relu = nn.ReLU() if as_modules else F.relu
        widths = {"layer1": (16, 16), "layer2": (16, 32), "layer3": (32, 64)}
        for name, (in_channels, channels) in widths.items():
            first = Block(in_channels, channels, as_modules)
            setattr(
                self, name, nn.Sequential(first, *(Block(channels, channels, as_modules) for _ in range(1, blocks)))
            )
        self.pool = nn.AdaptiveAvgPool2d(1) if as_modules else lambda x: F.avg_pool2d(x, x.size()[3])
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.pool(self.layer3(self.layer2(self.layer1(out))))
        return self.linear(out.view(out.size(0), -1))


def in_modules(ann: CifarResNet) -> CifarResNet:
    """The same ANN made of modules alone, with the same weights."""
    twin = CifarResNet(len(ann.layer1), as_modules=True).to(ann.linear.weight.dtype)
    missing, unexpected = twin.load_state_dict(ann.state_dict(), strict=False)
    assert not unexpected
    assert all(".shortcut." in name for name in missing)
    return twin.eval()


def with_statistics_of(ann: nn.Module, images: Tensor) -> nn.Module:
    """Give the batch norms of a network the statistics of these images."""
    for module in ann.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    ann.train()
    with torch.no_grad():
        ann(images)
    return ann.eval()
