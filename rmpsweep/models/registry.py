"""Networks by name: the constrained ones that come with rmpsweep, those of `external`, and a user's own by
"package.module:factory".

Listing the names needs no torch.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rmpsweep.environment import find_function
from rmpsweep.errors import NetworkError
from rmpsweep.models.external import EXAMPLES, FORMS, build_external, is_external

if TYPE_CHECKING:
    from torch import nn

    Builder = Callable[[int, int, tuple[int, int], float], nn.Module]


@dataclass(frozen=True)
class NetworkInfo:
    """A constrained network that can be built by name.

    Fields:
        build: (num_classes, in_channels, (height, width), dropout) -> network.
        inputs: what it is made for: (channels, side in pixels, classes).
        min_side: of the images, in pixels.
    """

    build: "Builder"
    description: str
    source: str
    inputs: tuple[tuple[int, int, int], ...]
    min_side: int = 4


@dataclass(frozen=True)
class NetworkSize:
    """Trained values, and multiply-accumulate operations of one image's forward pass."""

    parameters: int
    macs_per_image: int


def _vgg_small(num_classes: int, in_channels: int, image_size: tuple[int, int], dropout: float) -> "nn.Module":
    from rmpsweep.models.vgg import VGG, VGG_SMALL

    return VGG(VGG_SMALL, [64], num_classes, in_channels, image_size, dropout, dropout)


def _vgg16(num_classes: int, in_channels: int, image_size: tuple[int, int], dropout: float) -> "nn.Module":
    from rmpsweep.models.vgg import POOL, VGG, VGG16

    features = VGG16 if max(image_size) <= 32 else (*VGG16, POOL)
    hidden_dropout = 0.5 if dropout else 0.0
    return VGG(features, [4096, 4096], num_classes, in_channels, image_size, dropout, hidden_dropout)


def _resnet20(num_classes: int, in_channels: int, image_size: tuple[int, int], dropout: float) -> "nn.Module":
    from rmpsweep.models.resnet import ResNet

    del image_size
    return ResNet([16, 32, 64], [3, 3, 3], num_classes, in_channels, dropout)


def _resnet20_wide(num_classes: int, in_channels: int, image_size: tuple[int, int], dropout: float) -> "nn.Module":
    from rmpsweep.models.resnet import ResNet

    del image_size
    return ResNet([64, 128, 256, 512], [2, 2, 2, 2], num_classes, in_channels, dropout, deep_stem_stride=1)


def _resnet34(num_classes: int, in_channels: int, image_size: tuple[int, int], dropout: float) -> "nn.Module":
    from rmpsweep.models.resnet import ResNet

    del image_size
    return ResNet([64, 128, 256, 512], [3, 4, 6, 3], num_classes, in_channels, dropout, deep_stem_stride=2)


_RMP = "Han, Srinivasan and Roy 2020 (RMP-SNN)"
_HYBRID = "nitin-rathi/hybrid-snn-conversion"
_CIFAR10, _IMAGENET = (3, 32, 10), (3, 224, 1000)

NETWORKS: dict[str, NetworkInfo] = {
    "vgg-small": NetworkInfo(
        _vgg_small, "4 convolutions (16, 16, 32, 32), 2 pools, FC 64; images of 8x8 to 32x32", _RMP, ((1, 8, 10),)
    ),
    "vgg16": NetworkInfo(
        _vgg16,
        "13 convolutions, FC 4096-4096; 4 pools up to 32x32, 5 for larger images",
        _RMP,
        (_CIFAR10, _IMAGENET),
        min_side=16,
    ),
    "resnet20": NetworkInfo(
        _resnet20, "ResNet-20 (16, 32, 64 channels) with 1x1 convolution shortcuts", "He et al. 2016", (_CIFAR10,)
    ),
    "resnet20-wide": NetworkInfo(
        _resnet20_wide,
        "the RMP laboratory's ResNet-20: 3 stem convolutions, 64 to 512 channels, 2-2-2-2 blocks",
        _HYBRID,
        (_CIFAR10,),
    ),
    "resnet34": NetworkInfo(
        _resnet34,
        "ResNet-34: 3 stem convolutions, 64 to 512 channels, 3-4-6-3 blocks",
        f"He et al. 2016; {_HYBRID}",
        (_IMAGENET,),
    ),
}

NAMES = ", ".join((*NETWORKS, FORMS))
"""Every form of a network's name, as messages show it."""

ANY_EXTERNAL = (
    "Any other classifier of torchvision (or timm, if it is installed) is torchvision:NAME or timm:NAME;\n"
    "one with a layer that cannot be converted faithfully is refused, and the layer named."
)


def is_known(name: str) -> bool:
    """Whether a name is in NETWORKS or of the form of a library's; the library itself is not asked."""
    return name in NETWORKS or is_external(name)


def build(
    name: str, num_classes: int, in_channels: int, image_size: int | tuple[int, int], dropout: float = 0.0
) -> "nn.Module":
    """A constrained network with initial weights from torch's global random generator, in train mode.

    Args:
        name: a name in NETWORKS.
        image_size: height and width in pixels; one number for squares.
        dropout: probability after convolutions; vgg16 uses 0.5 after hidden fully connected layers unless it is 0.
    Raises:
        NetworkError: unknown name, or images too small for the network's pools.
    """
    if name not in NETWORKS:
        raise NetworkError(f"network: got {name!r}, expected one of {', '.join(NETWORKS)}")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    smallest = NETWORKS[name].min_side
    if min(size) < smallest:
        raise NetworkError(f"network {name}: got images of {size[0]}x{size[1]}, expected {smallest}x{smallest} or more")
    return NETWORKS[name].build(num_classes, in_channels, size, dropout)


def build_any(name: str, num_classes: int, in_channels: int, image_size: int | tuple[int, int]) -> "nn.Module":
    """`build`, or `build_external` for a library's name; those take images of 3 channels. Raises NetworkError."""
    if is_external(name):
        return build_external(name, num_classes)
    return build(name, num_classes, in_channels, image_size)


def build_from_module(spec: str) -> "nn.Module":
    """Call a user's factory, e.g. "mynets.resnet:pretrained"; modules in the current directory are found.

    Raises:
        NetworkError: a malformed spec, a missing module or attribute, a factory that fails or returns no nn.Module.
    """
    from torch import nn

    factory = find_function(spec, "network.module", NetworkError)
    try:
        network = factory()
    except Exception as error:
        raise NetworkError(f"network.module: {spec}: the factory failed: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise NetworkError(f"network.module: {spec}: returned {type(network).__name__}, expected torch.nn.Module")
    return network


def describe(name: str, num_classes: int, in_channels: int, image_size: int | tuple[int, int]) -> NetworkSize:
    """Parameters and MACs per image of a network by name, without computing anything."""
    import torch

    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    with torch.device("meta"):
        return measure(build_any(name, num_classes, in_channels, image_size), (in_channels, height, width))


def list_networks() -> list[dict[str, str | int]]:
    """Networks at the inputs they are made for: name, image (CxHxW), classes, parameters, macs_per_image, source."""
    entries = [(name, info.source, shape) for name, info in NETWORKS.items() for shape in info.inputs]
    entries += [(name, "torchvision (unconstrained)", _IMAGENET) for name in EXAMPLES]
    rows: list[dict[str, str | int]] = []
    for name, source, (channels, side, classes) in entries:
        size = describe(name, classes, channels, side)
        image = f"{channels}x{side}x{side}"
        rows.append({"name": name, "image": image, "classes": classes, **asdict(size), "source": source})
    return rows


def measure(network: "nn.Module", image_shape: tuple[int, int, int]) -> NetworkSize:
    """Parameters, and MACs of the convolutions and linear layers for one image [C, H, W]."""
    import torch
    from torch import Tensor, nn

    macs = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        if isinstance(module, nn.Conv2d | nn.Linear):
            macs += output.numel() * module.weight[0].numel()

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    parameter = next(network.parameters())
    with torch.no_grad():
        network(torch.zeros(1, *image_shape, device=parameter.device, dtype=parameter.dtype))
    for handle in handles:
        handle.remove()
    return NetworkSize(sum(p.numel() for p in network.parameters()), macs)
