import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import StochasticDepth

from rmpsweep.engine import convert
from rmpsweep.engine.network import activations
from rmpsweep.errors import ConversionError
from tests.helpers.nets import Chain, Residual

IMAGE = torch.rand(2, 3, 8, 8)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding="same"), nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = self.relu(self.conv1(x))
        y = self.relu(self.conv2(x))
        y += x
        y = F.dropout(F.relu(y), 0.5, self.training)
        y = F.max_pool2d(F.avg_pool2d(y, 2), kernel_size=2)
        return self.fc(torch.relu(y).view(y.size(0), -1))


class Reordered(nn.Module):
    """The shortcut's spiking layer comes later than it looks: m is decided by forward order, not operand order."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        early = F.relu(self.a(x))
        late = F.relu(self.b(early))
        return F.relu(late + early) + F.relu(early + late)


class Joined(nn.Module):
    """Concatenations: of a list, a tuple, one tensor; nested, pooled, flattened, of one layer twice; a ReLU after."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        parts = [F.relu(self.a(x)), F.relu(self.b(x))]
        x = F.relu(F.max_pool2d(torch.cat(parts, 1), 2))
        x = torch.cat((F.relu6(self.c(x)), torch.cat([x], dim=1), F.avg_pool2d(parts[0], 2)), dim=-3)
        return torch.concat(tensors=[x[:, 2:].flatten(1), x.flatten(1)], dim=-1)


class Global(nn.Module):
    """Global pooling and clipping, each as people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.clip = nn.Conv2d(3, 4, 3), nn.Hardtanh(0, 0.25)
        self.clip6 = nn.ReLU6(inplace=True)

    def forward(self, x):
        z = self.conv(x)
        x, y = self.clip(z), F.hardtanh(z, 0.0, 0.125)
        parts = [x.mean((2, 3)), x.mean([-1, -2]), torch.mean(x, dim=(2, 3)), x.mean((2, 3), keepdim=True).flatten(1)]
        parts += [F.adaptive_avg_pool2d(self.clip6(y), (1, 1)).flatten(1), F.relu6(y).mean((3, 2))]
        return torch.cat(parts, 1)


class Sized(nn.Module):
    """Decides, loops and computes by shapes, as timm's VGG does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        batch, _, height, width = x.shape
        for _ in range(len(x.shape) - 2):
            if x.shape[-2] < height / 2 or x.size(3) != width or x.dim() != 4 or not x.numel():
                raise ValueError
            x = F.relu(self.conv(x))
        x = F.avg_pool2d(x, (x.size()[2] // 2, max(width // 2, 1)))
        return x.reshape(batch, x.shape[1] * x.shape[2] * x.shape[3])


class Stochastic(nn.Module):
    """Stochastic depth: a function of torchvision's that is a leaf of traces."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop = nn.Conv2d(3, 3, 1), StochasticDepth(0.5, "row")

    def forward(self, x):
        return F.relu(x + self.drop(self.conv(x)))


def batch_norm_net(norm_after_relu: bool = False) -> nn.Module:
    layers = [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8)]
    net = nn.Sequential(*layers, nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5))
    if norm_after_relu:
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return net


@pytest.mark.parametrize(
    "ann",
    [
        Functional(),
        Reordered(),
        batch_norm_net(),
        nn.Sequential(
            nn.Conv2d(3, 6, 3, groups=3), nn.ReLU(), nn.AdaptiveAvgPool2d((3, 1)), nn.Identity(), nn.Flatten()
        ),
        nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(192, 7), nn.ReLU(), nn.Linear(7, 2)),
        nn.Sequential(nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True), nn.Conv2d(3, 2, 1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AvgPool2d(2, padding=1, count_include_pad=False), nn.Flatten()),
        Joined(),
        Global(),
        Sized(),
        Stochastic(),
    ],
    ids=[
        "functional",
        "reordered",
        "batch-norm",
        "adaptive",
        "linear",
        "max-pool",
        "avg-pool",
        "joined",
        "global",
        "sized",
        "stochastic",
    ],
)
def test_converted_network_computes_the_anns_function(ann):
    net = convert(ann, IMAGE)
    ann.eval()
    with torch.no_grad():
        wide = net.to(dtype=torch.float64)
        torch.testing.assert_close(
            activations(wide, IMAGE.double(), [net.output])[net.output],
            ann.double()(IMAGE.double()),
            rtol=1e-5,
            atol=1e-6,
        )
    ann.float()


def test_layers_are_named_by_module_in_forward_order_and_numbered_when_reused():
    assert convert(Functional(), IMAGE).layers == ["relu", "relu_1", "relu_2", "relu_3"]
    assert convert(Residual(), torch.rand(1, 2, 6, 6)).layers == ["act0", "act1", "act2", "act3", "act4"]


def test_relu_after_a_concatenation_of_spikes_is_no_layer_of_its_own():
    net = convert(Joined(), IMAGE)
    assert net.layers == ["relu", "relu_1", "relu6"]
    assert [net.ceiling(layer) for layer in net.layers] == [float("inf"), float("inf"), 6.0]


def test_a_junction_is_measured_in_the_layer_that_comes_last_whatever_the_operand_order():
    net = convert(Reordered(), IMAGE)
    adds = [node for node in net.nodes if node.op == "add"]
    assert [node.scale_of for node in adds[:2]] == ["relu_1", "relu_1"]
    assert [node.inputs for node in adds[:2]] == [("relu_1", "relu"), ("relu", "relu_1")]


class Stateful(nn.Module):
    """Counts its calls in a buffer and keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.register_buffer("calls", torch.zeros(()))
        self.seen = None

    def forward(self, x):
        self.calls += 1
        self.seen = x
        return F.relu(self.norm(self.conv(x)))


def test_the_ann_is_left_as_it_was():
    ann = Stateful()
    ann.norm.eval()
    before = {k: v.clone() for k, v in ann.state_dict().items()}
    convert(ann, IMAGE)
    assert [module.training for module in ann.modules()] == [True, True, False]
    assert all(torch.equal(before[k], v) and v.dtype == before[k].dtype for k, v in ann.state_dict().items())
    assert ann.seen is None


def test_the_network_has_weights_of_its_own():
    ann = Chain()
    net = convert(ann, torch.rand(1, 2, 6, 6))
    before = {name: weight.clone() for name, (weight, _) in net.weights.items()}
    with torch.no_grad():
        for parameter in ann.parameters():
            parameter.add_(1)
    assert all(torch.equal(net.weights[name][0], weight) for name, weight in before.items())


class Branching(nn.Module):
    def forward(self, x):
        return F.relu(x) if x.sum() > 0 else x


class Scaled(nn.Module):
    def forward(self, x):
        return F.relu(x * 2)


class WithInput(nn.Module):
    """Concatenates the input, and what no ReLU has seen yet."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self.conv, self.part = nn.Conv2d(3, 3, 1), part

    def forward(self, x):
        y = self.conv(x)
        parts = {"input": x, "current": F.avg_pool2d(y, 1), "batch": F.relu(x)}
        return F.relu(torch.cat([F.relu(y), parts[self.part]], 0 if self.part == "batch" else 1))


class ClippedLate(nn.Module):
    def forward(self, x):
        return F.relu6(F.max_pool2d(torch.cat((F.relu(x), F.relu(x)), -3), 2))


class Averaged(nn.Module):
    def __init__(self, dim) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x):
        return F.relu(x).mean(self.dim)


class Measured(nn.Module):
    """A threshold taken from the image."""

    def forward(self, x):
        return F.relu(x) + F.relu(x) if x.abs().max().item() > 0.1 else F.relu(x)


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return F.relu(x + y)


class Mutating(nn.Module):
    """Reads a tensor again after an in-place operation changed it: the traced graph cannot show that."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        x = self.conv(x)
        y = F.relu(x, inplace=True)
        return y + x


def poisoned() -> nn.Module:
    net = Chain()
    net.conv2.weight.data[0, 0, 0, 0] = float("nan")
    return net


@pytest.mark.parametrize(
    ("ann", "message"),
    [
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid()), "node '_1' (Sigmoid at '1') has no faithful spiking"),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.Hardtanh()), "(Hardtanh at '1') clips to [-1.0, 1.0]; only [0, c]"),
        (nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), nn.ReLU()), "padding_mode='reflect'"),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(3)), "unequal windows"),
        (nn.Sequential(nn.Linear(8, 4), nn.ReLU()), "flatten first"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.AvgPool2d(2)), "no ReLU found"),
        (nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, dilation=2)), "dilation"),
        (batch_norm_net(norm_after_relu=True), "(BatchNorm2d at '2') can be folded only directly after"),
        (Branching(), "node 'gt': forward turns values of a tensor into a number or a decision"),
        (Measured(), "node 'item': forward turns values"),
        (TwoInputs(), "node 'y': the network takes more than one input"),
        (Scaled(), "(mul) has no faithful spiking counterpart"),
        (WithInput("input"), "node 'cat' (cat) concatenates the network's input; apply the ReLU to each part"),
        (WithInput("current"), "node 'cat' (cat) concatenates 'conv' before its ReLU"),
        (WithInput("batch"), "node 'cat' (cat) concatenates along dimension 0; only channels"),
        (ClippedLate(), "node 'relu6' (relu6) clips what was concatenated; clip each part before"),
        (Averaged(1), "(mean) averages over dimensions (1,); only height and width"),
        (Averaged((1, 2)), "(mean) averages over dimensions (1, 2)"),
        (Mutating(), "differs from the ANN"),
        (nn.Sequential(nn.Conv2d(5, 3, 1), nn.ReLU()), "cannot be traced on an example of shape (2, 3, 8, 8)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else value[:20],
)
def test_what_cannot_be_converted_faithfully_is_refused_by_name(ann, message):
    with pytest.raises(ConversionError) as error:
        convert(ann, IMAGE)
    assert message in str(error.value)


def test_nan_weights_are_refused_by_name():
    with pytest.raises(ConversionError, match=r"Conv2d at 'conv2'\) its weight holds NaN"):
        convert(poisoned(), torch.rand(1, 2, 6, 6))


class AlwaysDropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 4, 3), nn.ReLU()

    def forward(self, x):
        return F.dropout(self.relu(self.conv(x)), 0.5)


def doubling() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU())
    net.register_forward_hook(lambda module, inputs, output: 2 * output)
    return net


@pytest.mark.parametrize("build", [AlwaysDropping, doubling])
@pytest.mark.parametrize("example", [torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), -1.0)], ids=["black", "dark"])
def test_an_example_on_which_the_network_does_nothing_hides_nothing(build, example):
    ann = build()
    with torch.no_grad():
        ann.get_submodule("conv" if isinstance(ann, AlwaysDropping) else "0").weight.abs_()
    with pytest.raises(ConversionError, match="differs from the ANN"):
        convert(ann, example)


def test_a_network_that_tells_no_images_apart_is_converted_with_a_warning():
    ann = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    nn.init.zeros_(ann[0].weight)
    with pytest.warns(UserWarning, match="its output is the same for different images, so its conversion could not"):
        convert(ann, torch.rand(1, 3, 8, 8))
