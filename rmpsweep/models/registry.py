"""Networks by name: constrained networks that come with rmpsweep, those of `external`, and a user's own.

A user's own network is named by its factory, "package.module:factory". Listing the names needs no torch.
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
    """A constrained network that can be built by name."""

    build: "Builder"
    """(num_classes, in_channels, (height, width), dropout) -> the network."""
    description: str
    source: str
    inputs: tuple[tuple[int, int, int], ...]
    """The inputs that the network is made for: (channels, side in pixels, classes)."""
    min_side: int = 4
    """The shortest side, in pixels, that an image may have."""


@dataclass(frozen=True)
class NetworkSize:
    """The size of a network."""

    parameters: int
    """The number of trained values."""
    macs_per_image: int
    """Multiply-accumulate operations of the forward pass of one image."""


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
"""All forms of a network's name, as messages show them."""

ANY_EXTERNAL = (
    "Any other classifier of torchvision (or timm, if it is installed) is torchvision:NAME or timm:NAME;\n"
    "one with a layer that cannot be converted faithfully is refused, and the layer named."
)


def is_known(name: str) -> bool:
    """Whether a name is in NETWORKS or has the form of a library's network; the library itself is not asked."""
    return name in NETWORKS or is_external(name)


def build(
    name: str, num_classes: int, in_channels: int, image_size: int | tuple[int, int], dropout: float = 0.0
) -> "nn.Module":
    """Build a constrained network, in train mode, with initial weights from torch's global random generator.

    Args:
        name: a name in NETWORKS.
        image_size: the height and width in pixels, or one number for squares.
        dropout: the probability of dropout after convolutions. Unless this is 0, vgg16 uses 0.5 after its hidden fully
            connected layers.
    Raises:
        NetworkError: the name is unknown, or the images are too small for the network's pools.
    """
    if name not in NETWORKS:
        raise NetworkError(f"network: got {name!r}, expected one of {', '.join(NETWORKS)}")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    smallest = NETWORKS[name].min_side
    if min(size) < smallest:
        raise NetworkError(f"network {name}: got images of {size[0]}x{size[1]}, expected {smallest}x{smallest} or more")
    return NETWORKS[name].build(num_classes, in_channels, size, dropout)


def build_any(name: str, num_classes: int, in_channels: int, image_size: int | tuple[int, int]) -> "nn.Module":
    """Call `build`, or `build_external` for a library's name, which needs neither `in_channels` nor `image_size`.

    Networks of a library take images of 3 channels; another number is not refused here.

    Raises:
        NetworkError: as `build` and `build_external` do.
    """
    if is_external(name):
        return build_external(name, num_classes)
    return build(name, num_classes, in_channels, image_size)


def build_from_module(spec: str) -> "nn.Module":
    """Call a user's factory, such as "mynets.resnet:pretrained"; its module may be in the current directory.

    Raises:
        NetworkError: the spec is malformed, the module or attribute is missing, or the factory fails or returns
            something else than an nn.Module.
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
    """Measure a network by name, without computing anything or allocating its weights.

    Raises:
        NetworkError: as `build_any` does.
    """
    import torch

    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    with torch.device("meta"):
        return measure(build_any(name, num_classes, in_channels, image_size), (in_channels, height, width))


def list_networks() -> list[dict[str, str | int]]:
    """List networks at the inputs they are made for.

    Each row holds name, image (CxHxW), classes, parameters, macs_per_image and source.
    """
    entries = [(name, info.source, shape) for name, info in NETWORKS.items() for shape in info.inputs]
    entries += [(name, "torchvision (unconstrained)", _IMAGENET) for name in EXAMPLES]
    rows: list[dict[str, str | int]] = []
    for name, source, (channels, side, classes) in entries:
        size = describe(name, classes, channels, side)
        image = f"{channels}x{side}x{side}"
        rows.append({"name": name, "image": image, "classes": classes, **asdict(size), "source": source})
    return rows


def measure(network: "nn.Module", image_shape: tuple[int, int, int]) -> NetworkSize:
    """Count the parameters of a network, and the MACs of its convolutions and linear layers for one image [C, H, W]."""
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
