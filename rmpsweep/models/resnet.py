"""Residual networks under the constraints of conversion: no bias, no batch norm; only ReLU, average pooling, dropout.

Source: He et al. 2016 (ResNet-20 of section 4.2), with 1x1 convolutions as shortcuts where the width changes. It is not
the "ResNet-20" of nitin-rathi/hybrid-snn-conversion, whose widths are 64 to 512.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn


class Block(nn.Module):
    """relu(conv2(dropout(relu(conv1(x)))) + shortcut(x)); a 1x1 convolution is the shortcut where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.relu1 = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut = None
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv2(self.dropout(self.relu1(self.conv1(x))))
        shortcut = x if self.shortcut is None else self.shortcut(x)
        out: Tensor = self.relu2(branch + shortcut)
        return out


class ResNet(nn.Module):
    """3x3 stem, stages of blocks (stride 2 between stages), global average pooling, one linear layer.

    Weights start as He normal (He et al. 2015); the last convolution of each branch is divided by the root of the
    number of blocks, which keeps activations from growing exponentially with depth in the absence of batch norm.

    Args:
        widths: channels of each stage; the stem has the first.
        blocks: number of blocks of each stage.
        dropout: probability between the two convolutions of a block.
    Shape:
        [N, in_channels, H, W] -> [N, num_classes].
    """

    def __init__(
        self, widths: Sequence[int], blocks: Sequence[int], num_classes: int, in_channels: int, dropout: float
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.relu = nn.ReLU()
        stages, channels = [], widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for index in range(count):
                stages.append(Block(channels, width, 2 if stage > 0 and index == 0 else 1, dropout))
                channels = width
        self.blocks = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(channels, num_classes, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=math.sqrt(2 / module.weight[0].numel()))
        for block in stages:
            nn.init.normal_(block.conv2.weight, std=math.sqrt(2 / block.conv2.weight[0].numel() / len(stages)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.relu(self.stem(x)))
        logits: Tensor = self.classifier(self.flatten(self.pool(x)))
        return logits
