"""Networks of torchvision and timm with random weights: converted, or refused by the name of a node.

Where they convert, the logits approach the ANN's as 1/T; test_torchvision.py says by which slope that is told. Random
networks have activations of one size in all layers where batch norm has the statistics of the images; those without
batch norm (VGG, SqueezeNet) keep them by torchvision's own initialisation, which is He's. The deeper a random network,
the more it amplifies errors and the later the slope is reached; where there are shortcuts, the branches beside them are
given a fifth of their weight, nearer to what training does.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import MobileNetV2, get_model, vgg
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import Bottleneck

from rmpsweep.engine import SpikingNetwork, calibrate, convert, simulate
from rmpsweep.engine.constants import make_constants
from rmpsweep.engine.numerics import CalibratedSetting
from rmpsweep.engine.program import make_program
from rmpsweep.errors import ConversionError
from tests.helpers.cifar_resnet import with_statistics_of

pytestmark = pytest.mark.filterwarnings("ignore:layer .* channels are silent")
SHORT, LONG, LONGER = [128, 256, 512], [128, 256, 512, 1024], [512, 1024, 2048, 4096]


def named(name: str) -> nn.Module:
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    net = get_model(name, weights=None, num_classes=10, **options)
    for block in net.modules():
        if isinstance(block, Bottleneck) or (isinstance(block, InvertedResidual) and block.use_res_connect):
            norm = block.bn3 if isinstance(block, Bottleneck) else block.conv[-1]
            nn.init.constant_(norm.weight, 0.2)
    return net


def narrow_vgg16(batch_norm: bool) -> nn.Module:
    """torchvision's, an eighth as wide, for 32 x 32 pixels."""
    widths = [8, 8, "M", 16, 16, "M", 32, 32, 32, "M", 64, 64, 64, "M", 64, 64, 64, "M"]
    net = vgg.VGG(vgg.make_layers(widths, batch_norm))
    net.avgpool, net.classifier[0] = nn.AdaptiveAvgPool2d(1), nn.Linear(64, 64)
    net.classifier[3], net.classifier[6] = nn.Linear(64, 64), nn.Linear(64, 10)
    return net


def short_mobilenet_v2() -> nn.Module:
    """torchvision's with five of its blocks, a quarter as wide."""
    blocks = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2]]
    return MobileNetV2(num_classes=10, width_mult=0.25, inverted_residual_setting=blocks)


def prepared(build: Callable[[], nn.Module], size: int) -> tuple[nn.Module, Tensor]:
    """Random weights, and two images of those whose statistics batch norm has."""
    torch.manual_seed(0)
    ann, images = build(), torch.randn(16, 3, size, size)
    has_norm = any(isinstance(module, nn.BatchNorm2d) for module in ann.modules())
    return with_statistics_of(ann, images) if has_norm else ann.eval(), images[:2]


def has_program(net: SpikingNetwork, thresholds: dict[str, Tensor]) -> bool:
    return make_program(make_constants(net, [CalibratedSetting(thresholds=thresholds)], 10.0)) is not None


@torch.no_grad()
def slope(ann: nn.Module, net: SpikingNetwork, thresholds, images: Tensor, steps: list[int], numerics) -> float:
    """Of the mean error of the logits over T, both logarithmic."""
    sims = simulate(net, images, thresholds, steps, numerics=numerics, batch_size=2)
    errors = (sims.logits - ann(images)).abs().mean((1, 2))
    return float(np.polyfit(np.log(steps), errors.log().numpy(), 1)[0])


@pytest.mark.parametrize(
    ("name", "layers", "size"),
    [
        ("resnet50", 49, 64),
        ("mobilenet_v2", 35, 64),
        ("squeezenet1_1", 26, 64),
        ("googlenet", 57, 64),
        pytest.param("vgg16_bn", 15, 224, marks=pytest.mark.soak),
    ],
)
def test_torchvisions_networks_convert(name, layers, size):
    torch.manual_seed(0)
    assert len(convert(named(name), torch.randn(1, 3, size, size)).layers) == layers


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("densenet121", "BatchNorm2d at 'features.denseblock1.denselayer1.norm1') can be folded only directly after"),
        ("shufflenet_v2_x0_5", "node 'view' (view) only flattening"),
        ("mobilenet_v3_small", "(Hardswish at 'features.0.2') has no faithful spiking counterpart"),
    ],
)
def test_torchvisions_networks_that_are_refused(name, message):
    with pytest.raises(ConversionError) as error:
        convert(get_model(name, weights=None), torch.randn(1, 3, 64, 64))
    assert message in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "size", "steps", "numerics", "granularity", "program"),
    [
        (lambda: narrow_vgg16(False), 32, SHORT, "fixed16", "layer", True),
        (lambda: narrow_vgg16(True), 32, LONGER, "float32", "layer", True),
        (lambda: named("squeezenet1_1"), 64, SHORT, "fixed16", "layer", True),
        (lambda: named("squeezenet1_1"), 64, LONG, "float32", "channel", True),
        (lambda: named("resnet50"), 32, SHORT, "float32", "layer", True),
        (short_mobilenet_v2, 32, SHORT, "fixed16", "layer", False),
        (short_mobilenet_v2, 32, SHORT, "float32", "channel", False),
    ],
    ids=[
        "vgg16",
        "vgg16-bn",
        "squeezenet1_1",
        "squeezenet1_1-channel",
        "resnet50",
        "mobilenet_v2",
        "mobilenet_v2-channel",
    ],
)
def test_law_3_the_output_approaches_the_anns_as_one_over_T(build, size, steps, numerics, granularity, program):
    ann, images = prepared(build, size)
    net = convert(ann, images)
    thresholds = calibrate(net, images, "activation_max", granularity, batch_size=2)
    assert has_program(net, thresholds) == program
    assert abs(slope(ann, net, thresholds, images, steps, numerics) + 1) < 1 / 4


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "size", "steps", "granularity"),
    [
        ("resnet50", 64, [256, 512, 1024], "layer"),
        ("vgg16", 224, [32, 64, 128, 256], "layer"),
        ("googlenet", 64, [2048, 4096, 8192], "layer"),
        ("mobilenet_v2", 32, [1024, 2048, 4096], "channel"),
    ],
)
def test_law_3_of_whole_networks(name, size, steps, granularity):
    ann, images = prepared(lambda: named(name), size)
    net = convert(ann, images)
    thresholds = calibrate(net, images, "activation_max", granularity, batch_size=2)
    assert abs(slope(ann, net, thresholds, images, steps, "float32") + 1) < 1 / 4


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layers"), [("resnet18", 17), ("resnet50d", 51)])
def test_timms_resnets_convert(name, layers):
    timm = pytest.importorskip("timm")
    ann = timm.create_model(name, num_classes=10, drop_path_rate=0.1, drop_rate=0.1)
    assert len(convert(ann, torch.randn(1, 3, 64, 64)).layers) == layers


def test_timms_vgg_converts_at_sizes_that_its_head_does_not_pool():
    """Its head asks for the image's size; with less than 224 pixels it pools 2 x 2 to 7 x 7."""
    timm_vgg = pytest.importorskip("timm.models.vgg")
    widths = [4, "M", 4, "M", 8, "M", 8, "M", 16, "M"]
    ann = timm_vgg.VGG(widths, num_classes=10, mlp_ratio=1 / 64)
    assert len(convert(ann, torch.randn(1, 3, 224, 224)).layers) == 7
    with pytest.raises(ConversionError, match=r"\(adaptive_avg_pool2d\) pools 2x2 to 7x7 with unequal windows"):
        convert(ann, torch.randn(1, 3, 64, 64))
