"""Residual networks under the constraints of conversion: no bias or batch norm, only ReLU, average pooling and dropout.

Source: He et al. 2016 (ResNet-20 of section 4.2, ResNet-34 of section 4.1), with 1x1 convolutions as shortcuts where
the shape changes. The deep stem is that of nitin-rathi/hybrid-snn-conversion, self_models/resnet.py.

That repository's networks differ from these. Its "ResNet-20" is not He's: it has 64 to 512 channels in 2-2-2-2 blocks.
Its ResNet-34 has 3-4-5-3 blocks, which make 34 layers with the three convolutions of the stem. Here the blocks are He's
3-4-6-3, as in torchvision's ResNet-34 and in the networks whose accuracies others compare with (Bu, Li and Yu 2025:
"standard ResNet-34 architecture without batch normalization"). Both of its networks end in a linear layer over all
positions, whereas the networks here end in global average pooling and a linear layer, as He's do.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn


class Block(nn.Module):
    """relu(conv2(dropout(relu(conv1(x)))) + shortcut(x)); the shortcut is a 1x1 convolution if the shape changes."""

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


def deep_stem(in_channels: int, channels: int, stride: int, dropout: float) -> nn.Sequential:
    """Three 3x3 convolutions in place of a 7x7 one, with ReLU and dropout between them; the first has the stride."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)]
    for _ in range(2):
        layers += [nn.ReLU(), nn.Dropout(dropout), nn.Conv2d(channels, channels, 3, padding=1, bias=False)]
    return nn.Sequential(*layers)


class ResNet(nn.Module):
    """A stem, stages of blocks (with stride 2 between stages), global average pooling and one linear layer.

    Weights start as He normal (He et al. 2015). The initial weights of the last convolution of each branch are divided
    by the root of the number of blocks; without batch norm, activations would otherwise grow exponentially with depth.

    Args:
        widths: the number of channels of each stage; the stem has as many as the first stage.
        blocks: the number of blocks of each stage.
        dropout: the probability of dropout between the two convolutions of a block, and between those of a deep stem.
        deep_stem_stride: None for a stem of one 3x3 convolution; otherwise the stem is a `deep_stem` of this stride and
            2x2 average pooling, which takes the place of max pooling.
    Shape:
        [N, in_channels, H, W] -> [N, num_classes].
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: Sequence[int],
        num_classes: int,
        in_channels: int,
        dropout: float,
        deep_stem_stride: int | None = None,
    ) -> None:
        super().__init__()
        if deep_stem_stride is None:
            self.stem: nn.Module = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        else:
            self.stem = deep_stem(in_channels, widths[0], deep_stem_stride, dropout)
        self.relu = nn.ReLU()
        self.stem_pool = None if deep_stem_stride is None else nn.AvgPool2d(2)
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
        x = self.relu(self.stem(x))
        if self.stem_pool is not None:
            x = self.stem_pool(x)
        x = self.blocks(x)
        logits: Tensor = self.classifier(self.flatten(self.pool(x)))
        return logits
