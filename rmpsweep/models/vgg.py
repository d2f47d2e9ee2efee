"""VGG networks under the constraints of conversion: no bias and no batch norm, only ReLU, average pooling and dropout.

Source: Han, Srinivasan and Roy 2020 (RMP-SNN); the layers follow nitin-rathi/hybrid-snn-conversion, self_models/vgg.py.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

POOL = "pool"
VGG_SMALL: tuple[int | str, ...] = (16, 16, POOL, 32, 32, POOL)
VGG16: tuple[int | str, ...] = (
    *(64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL, 512, 512, 512, POOL, 512, 512, 512),
)


class VGG(nn.Module):
    """3x3 convolutions with ReLU and dropout, 2x2 average pooling, and a fully connected classifier.

    A convolution that is followed by pooling has no dropout. Weights start as He normal (He et al. 2015).

    Args:
        features: the layers in order: the number of channels for a convolution, or POOL.
        hidden: the widths of the hidden fully connected layers.
        image_size: the height and width of the input in pixels.
        dropout: the probability of dropout after convolutions.
        hidden_dropout: the probability of dropout after hidden fully connected layers.
    Shape:
        [N, in_channels, H, W] -> [N, num_classes].
    """

    def __init__(
        self,
        features: Sequence[int | str],
        hidden: Sequence[int],
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        dropout: float,
        hidden_dropout: float,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, (height, width) = in_channels, image_size
        for position, feature in enumerate(features):
            if isinstance(feature, str):
                layers.append(nn.AvgPool2d(2))
                height, width = height // 2, width // 2
                continue
            layers += [nn.Conv2d(channels, feature, 3, padding=1, bias=False), nn.ReLU()]
            channels = feature
            if features[position + 1 : position + 2] != (POOL,):
                layers.append(nn.Dropout(dropout))
        self.features = nn.Sequential(*layers)
        widths = [channels * height * width, *hidden]
        layers = [nn.Flatten()]
        for inputs, outputs in zip(widths, hidden, strict=False):
            layers += [nn.Linear(inputs, outputs, bias=False), nn.ReLU(), nn.Dropout(hidden_dropout)]
        layers.append(nn.Linear(widths[-1], num_classes, bias=False))
        self.classifier = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_in))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x))
        return logits
