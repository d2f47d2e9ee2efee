"""Random ReLU networks of every shape that can be converted: chains, residual blocks, concatenations, pools, pads."""

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGE = (3, 8, 8)


@dataclass
class _Shape:
    channels: int
    side: int
    spikes: bool
    """Whether values are spikes or pooled or moved spikes; if not, they are the image or weighted sums."""
    weighted: int = 0
    """The number of weighted layers since the last ReLU."""


class RandomNetwork(nn.Module):
    """A network of a few random stages, drawn with a seed, for images of shape IMAGE."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.draw, self.shape = random.Random(seed), _Shape(IMAGE[0], IMAGE[1], False)
        self.stages = nn.ModuleList()
        self.names: list[str] = []
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._stage("conv")
            for _ in range(self.draw.randint(2, 6)):
                self._stage(self.draw.choice(self._choices()))
            if not self.shape.spikes:
                self._stage("relu")
            features = self.shape.channels * self.shape.side**2
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(features, 5))
            if self.draw.random() < 0.3:
                self.head.append(nn.Linear(5, 5))
            self.eval()

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return self.head(x)

    def _choices(self) -> list[str]:
        choices = ["relu", "clip", "pad"]
        if self.shape.weighted < 2:
            choices += ["conv", "conv"]
        if self.shape.side % 2 == 0 and self.shape.side > 2:
            choices += ["halve", "max"]
        if self.shape.channels > 2:
            choices += ["slice"]
        if self.shape.spikes:
            choices += ["residual", "residual", "concat", "smooth"]
        return choices

    def _stage(self, name: str) -> None:
        self.names.append(name)
        self.stages.append(getattr(self, f"_{name}")())

    def _conv(self) -> nn.Module:
        shape, draw = self.shape, self.draw
        outputs = draw.choice((4, 6, 8))
        groups = draw.choice([g for g in (1, 1, 2) if shape.channels % g == 0 and outputs % g == 0])
        taps, dilation = draw.choice(((1, 1), (3, 1), (3, 2)))
        stride = draw.choice((1, 1, 2)) if shape.side % 2 == 0 and shape.side > 2 else 1
        conv = nn.Conv2d(
            shape.channels, outputs, taps, stride, dilation * (taps // 2), dilation, groups, draw.random() < 0.7
        )
        _uneven(conv, draw)
        self.shape = _Shape(outputs, shape.side // stride, False, shape.weighted + 1)
        return nn.Sequential(conv, _norm(outputs)) if draw.random() < 0.4 else conv

    def _relu(self) -> nn.Module:
        self.shape = _Shape(self.shape.channels, self.shape.side, True)
        return nn.ReLU()

    def _clip(self) -> nn.Module:
        self.shape = _Shape(self.shape.channels, self.shape.side, True)
        return self.draw.choice((nn.ReLU6(), nn.Hardtanh(0.0, 0.3)))

    def _halve(self) -> nn.Module:
        self.shape.side //= 2
        return nn.AvgPool2d(2)

    def _max(self) -> nn.Module:
        self.shape.side //= 2
        return nn.MaxPool2d(2)

    def _smooth(self) -> nn.Module:
        return nn.AvgPool2d(3, 1, 1, count_include_pad=self.draw.random() < 0.5)

    def _pad(self) -> nn.Module:
        front, back = self.draw.choice(((0, 1), (1, 1), (2, 0)))
        self.shape.channels += front + back
        return _Pad((0, 0, 0, 0, front, back))

    def _slice(self) -> nn.Module:
        self.shape.channels -= 1
        return _Slice(self.draw.randint(0, 1), self.shape.channels)

    def _residual(self) -> nn.Module:
        channels = self.shape.channels
        first, second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        _uneven(second, self.draw)
        shortcut = nn.Conv2d(channels, channels, 1) if self.draw.random() < 0.5 else nn.Identity()
        return _Residual(nn.Sequential(first, nn.ReLU(), second), shortcut)

    def _concat(self) -> nn.Module:
        channels, more = self.shape.channels, self.draw.choice((2, 4))
        self.shape.channels += more
        return _Concat(nn.Sequential(nn.Conv2d(channels, more, 3, padding=1), nn.ReLU()))


class _Pad(nn.Module):
    def __init__(self, pad: tuple[int, ...]) -> None:
        super().__init__()
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.pad)


class _Slice(nn.Module):
    def __init__(self, start: int, channels: int) -> None:
        super().__init__()
        self.start, self.stop = start, start + channels

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.start : self.stop]


class _Residual(nn.Module):
    def __init__(self, block: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.block, self.shortcut, self.relu = block, shortcut, nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.block(x) + self.shortcut(x))


class _Concat(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.branch(x)], 1)


def _uneven(conv: nn.Conv2d, draw: random.Random) -> None:
    """Make the channels of a convolution differ in size as those of trained networks do; one may be all zero."""
    with torch.no_grad():
        conv.weight *= torch.exp(torch.randn(len(conv.weight), 1, 1, 1))
        if draw.random() < 0.3:
            conv.weight[draw.randrange(len(conv.weight))] = 0


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-0.3, 0.5)
    norm.running_mean = torch.randn(channels) * 0.2
    norm.running_var = torch.rand(channels) + 0.5
    return norm
