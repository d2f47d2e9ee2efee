"""Small networks with dyadic weights. Every sum is exact in float32, so any order of addition gives the same spikes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dyadic(shape: tuple[int, ...], seed: int, bits: int = 5, limit: float = 0.5) -> Tensor:
    """Random multiples of 2^-bits in [-limit, limit]."""
    generator = torch.Generator().manual_seed(seed)
    top = int(limit * 2**bits)
    return torch.randint(-top, top + 1, shape, generator=generator) / 2**bits


def make_dyadic(net: nn.Module, seed: int = 0) -> nn.Module:
    with torch.no_grad():
        for i, parameter in enumerate(net.parameters()):
            parameter.copy_(dyadic(tuple(parameter.shape), seed * 100 + i))
    return net.eval()


def dyadic_images(n: int = 3, channels: int = 2, size: int = 6, seed: int = 7) -> Tensor:
    return dyadic((n, channels, size, size), seed, limit=1.0)


def powers_of_two(net, exponents: tuple[int, ...] = (0, 1, -1)) -> dict[str, Tensor]:
    """Thresholds 2^e, with the exponents in turn over the layers, and Λ_0 = 1 for the input."""
    thresholds = {
        layer: torch.tensor(2.0 ** exponents[i % len(exponents)], dtype=torch.float64)
        for i, layer in enumerate(net.layers)
    }
    return {"input": torch.tensor(1.0, dtype=torch.float64), **thresholds}


class Chain(nn.Module):
    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=bias)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 5, 3, stride=2, padding=1, bias=bias)
        self.act2 = nn.ReLU()
        self.fc = nn.Linear(45, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.conv1(x))
        x = self.act2(self.conv2(x))
        return self.fc(x.flatten(1))


class Pooled(nn.Module):
    """A network with average pooling between spiking layers and before the read-out, and with biases everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.act1 = nn.ReLU()
        self.pool = nn.AvgPool2d(2)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.act2 = nn.ReLU()
        self.head = nn.AvgPool2d(2, stride=1)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act1(self.conv1(x)))
        x = self.head(self.act2(self.conv2(x)))
        return self.fc(torch.flatten(x, 1))


class Residual(nn.Module):
    """A block with an identity shortcut, then one with a convolution in its shortcut; the operands of their additions
    are in either order."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.stem, self.act0 = nn.Conv2d(2, 4, 3, padding=1, bias=bias), nn.ReLU()
        self.conv1, self.act1 = nn.Conv2d(4, 4, 3, padding=1, bias=bias), nn.ReLU()
        self.conv2, self.act2 = nn.Conv2d(4, 4, 3, padding=1, bias=bias), nn.ReLU()
        self.conv3, self.act3 = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=bias), nn.ReLU()
        self.conv4, self.act4 = nn.Conv2d(6, 6, 3, padding=1, bias=bias), nn.ReLU()
        self.shortcut = nn.Conv2d(4, 6, 1, stride=2, bias=bias)
        self.fc = nn.Linear(54, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act0(self.stem(x))
        x = self.act2(self.conv2(self.act1(self.conv1(x))) + x)
        x = self.act4(self.shortcut(x) + self.conv4(self.act3(self.conv3(x))))
        return self.fc(x.flatten(1))


class MaxPooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.pool, self.act1, self.act2, self.fc = nn.MaxPool2d(2), nn.ReLU(), nn.ReLU(), nn.Linear(54, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act2(self.conv2(self.pool(self.act1(self.conv1(x))))).flatten(1))


class Shortcuts(nn.Module):
    """A network with rectangular pooling windows that overlap and are cut off at the border, and with a shortcut that
    slices and pads what was pooled."""

    def __init__(self, largest: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 3, (3, 2), padding=(2, 1), dilation=(2, 1))
        pool = nn.MaxPool2d if largest else nn.AvgPool2d
        self.pool = pool((2, 3), stride=2, padding=(1, 0), ceil_mode=True)
        self.conv1 = nn.Conv2d(3, 17, 3, stride=(1, 2), padding=1)
        self.conv2 = nn.Conv2d(17, 7, 1)
        self.fc = nn.Linear(56, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.stem(x)))
        out = self.conv2(F.relu(self.conv1(x)))
        out = F.relu(out + F.pad(x[:, :, :, ::2], (0, 0, 0, 0, 2, 2)))
        return self.fc(out.flatten(1))


class Concatenated(nn.Module):
    """A network that concatenates the spikes of two layers, pools them, concatenates them again, and uses them as a
    shortcut and before the read-out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.left, self.right = nn.Conv2d(4, 5, 1), nn.Conv2d(4, 7, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.mixed, self.branch = nn.Conv2d(12, 6, 3, padding=1), nn.Conv2d(18, 18, 1)
        self.fc = nn.Linear((18 + 12) * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        parts = [F.relu(self.left(x)), F.relu(self.right(x))]
        x = self.pool(torch.cat(parts, 1))
        x = torch.cat((F.relu(self.mixed(x)), x), dim=1)
        x = F.relu(self.branch(x) + x)
        pooled = F.avg_pool2d(torch.cat(parts, 1), 2)
        return self.fc(torch.cat([x, pooled], 1).flatten(1))


class Clipped(nn.Module):
    """A network whose ReLUs have ceilings; the second ceiling is above every value that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.act1 = nn.Conv2d(2, 4, 3, padding=1), nn.Hardtanh(0, 0.5)
        self.conv2, self.act2 = nn.Conv2d(4, 5, 3, padding=1), nn.ReLU6()
        self.fc = nn.Linear(180, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act2(self.conv2(self.act1(self.conv1(x)))).flatten(1))


class Bottlenecks(nn.Module):
    """A network as MobileNetV2: the current of a linear bottleneck is added to another one's and read by the next
    convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.expand = nn.ModuleList(nn.Conv2d(4, 12, 1) for _ in range(2))
        self.deep = nn.ModuleList(nn.Conv2d(12, 12, 3, padding=1, groups=12) for _ in range(2))
        self.project = nn.ModuleList(nn.Conv2d(12, 4, 1) for _ in range(2))
        self.head, self.fc = nn.Conv2d(4, 10, 1), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x))
        for expand, deep, project in zip(self.expand, self.deep, self.project, strict=True):
            x = x + project(F.relu6(deep(F.relu6(expand(x)))))
        return self.fc(F.relu6(self.head(x)).mean((2, 3)))


class GlobalPooled(nn.Module):
    """A network that pools globally: sums of 144 spikes do not fit into int8."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.pool, self.conv2 = nn.Conv2d(2, 4, 3, padding=1), nn.AvgPool2d(12), nn.Conv2d(4, 5, 1)
        self.fc = nn.Linear(5, 3)
        nn.init.constant_(self.conv1.bias, 2.0)
        nn.init.uniform_(self.conv2.weight, -0.2, 0.8)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv2(self.pool(F.relu(self.conv1(x))))).flatten(1))
