"""The constrained networks, building by name and by module, and weights files."""

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from rmpsweep.errors import NetworkError
from rmpsweep.models.recipe import Recipe, digest
from rmpsweep.models.registry import NETWORKS, build, build_from_module, describe, measure
from rmpsweep.models.weights import file_sha256, load_weights, save_weights

ALLOWED = (nn.Conv2d, nn.Linear, nn.ReLU, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Flatten)


def test_names_and_recipes_need_no_torch() -> None:
    code = "import sys, rmpsweep.models.registry, rmpsweep.models.recipe; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_obey_the_constraints_of_conversion(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, 7, 2, 32, dropout=0.1)
    leaves = [module for module in network.modules() if not list(module.children())]
    assert {type(module) for module in leaves} <= set(ALLOWED)
    assert all(not key.endswith("bias") for key in network.state_dict())
    used = [node.target for node in fx.symbolic_trace(network).graph.nodes if node.op == "call_module"]
    assert len(used) == len(set(used)) == len(leaves)
    images = torch.randn(3, 2, 32, 32)
    network.eval()
    assert network(images).shape == (3, 7)
    assert torch.equal(fx.symbolic_trace(network)(images), network(images))


@pytest.mark.parametrize("name", NETWORKS)
def test_initial_outputs_are_of_the_size_of_the_input(name: str) -> None:
    torch.manual_seed(0)
    outputs = build(name, 10, 3, 32).eval()(torch.randn(8, 3, 32, 32))
    assert 0.1 < outputs.std() < 10


@pytest.mark.parametrize(
    ("name", "side"), [("vgg16", 32), ("vgg16", 64), ("resnet20", 32), ("resnet20-wide", 32), ("resnet34", 64)]
)
def test_initial_activations_neither_explode_nor_vanish(name: str, side: int) -> None:
    """He's weights keep the second moment; averaging 4 values keeps a quarter to all of a variance; n residual branches
    of 1/n of it each make it (1 + 1/n)^n < e times as large. A factor of 2 is left for chance.
    """
    torch.manual_seed(0)
    network = build(name, 10, 3, side).eval()
    variances: list[float] = []
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda _, inputs, output: variances.append(output.var().item()))
    network(torch.randn(4, 3, side, side))
    pools = sum(isinstance(module, nn.AvgPool2d) for module in network.modules())
    assert 4.0**-pools / 2 < variances[-1] / variances[0] < 2 * math.e


def conv(kernel: int, inputs: int, outputs: int, side: int) -> tuple[int, int]:
    """Parameters and MACs of a square convolution."""
    parameters = kernel * kernel * inputs * outputs
    return parameters, parameters * side * side


@pytest.mark.parametrize(
    ("name", "image", "layers"),
    [
        (
            "vgg-small",
            (1, 8),
            [
                conv(3, 1, 16, 8),
                conv(3, 16, 16, 8),
                conv(3, 16, 32, 4),
                conv(3, 32, 32, 4),
                conv(1, 128, 64, 1),
                conv(1, 64, 10, 1),
            ],
        ),
        (
            "vgg16",
            (3, 32),
            [
                conv(3, 3, 64, 32),
                conv(3, 64, 64, 32),
                conv(3, 64, 128, 16),
                conv(3, 128, 128, 16),
                conv(3, 128, 256, 8),
                *[conv(3, 256, 256, 8)] * 2,
                conv(3, 256, 512, 4),
                *[conv(3, 512, 512, 4)] * 2,
                *[conv(3, 512, 512, 2)] * 3,
                conv(1, 2048, 4096, 1),
                conv(1, 4096, 4096, 1),
                conv(1, 4096, 10, 1),
            ],
        ),
        (
            "resnet20",
            (3, 32),
            [
                conv(3, 3, 16, 32),
                *[conv(3, 16, 16, 32)] * 6,
                conv(1, 16, 32, 16),
                conv(3, 16, 32, 16),
                *[conv(3, 32, 32, 16)] * 5,
                conv(1, 32, 64, 8),
                conv(3, 32, 64, 8),
                *[conv(3, 64, 64, 8)] * 5,
                conv(1, 64, 10, 1),
            ],
        ),
        (
            "resnet20-wide",
            (3, 32),
            [
                conv(3, 3, 64, 32),
                *[conv(3, 64, 64, 32)] * 2,
                *[conv(3, 64, 64, 16)] * 4,
                conv(1, 64, 128, 8),
                conv(3, 64, 128, 8),
                *[conv(3, 128, 128, 8)] * 3,
                conv(1, 128, 256, 4),
                conv(3, 128, 256, 4),
                *[conv(3, 256, 256, 4)] * 3,
                conv(1, 256, 512, 2),
                conv(3, 256, 512, 2),
                *[conv(3, 512, 512, 2)] * 3,
                conv(1, 512, 10, 1),
            ],
        ),
        (
            "resnet34",
            (3, 224),
            [
                conv(3, 3, 64, 112),
                *[conv(3, 64, 64, 112)] * 2,
                *[conv(3, 64, 64, 56)] * 6,
                conv(1, 64, 128, 28),
                conv(3, 64, 128, 28),
                *[conv(3, 128, 128, 28)] * 7,
                conv(1, 128, 256, 14),
                conv(3, 128, 256, 14),
                *[conv(3, 256, 256, 14)] * 11,
                conv(1, 256, 512, 7),
                conv(3, 256, 512, 7),
                *[conv(3, 512, 512, 7)] * 5,
                conv(1, 512, 10, 1),
            ],
        ),
    ],
)
def test_describe_counts_parameters_and_macs(name: str, image: tuple[int, int], layers: list[tuple[int, int]]) -> None:
    size = describe(name, 10, *image)
    assert size.parameters == sum(parameters for parameters, _ in layers)
    assert size.macs_per_image == sum(macs for _, macs in layers)


def test_vgg16_of_imagenet_size() -> None:
    size = describe("vgg16", 1000, 3, 224)
    assert size.parameters == 138_344_128  # torchvision's vgg16, 138,357,544, without its 13,416 biases
    assert size.macs_per_image == describe("torchvision:vgg16", 1000, 3, 224).macs_per_image
    with torch.device("meta"):
        network = build("vgg16", 1000, 3, 224)
    kinds = [type(module) for module in network.modules()]
    assert [kinds.count(kind) for kind in (nn.Conv2d, nn.AvgPool2d, nn.Linear)] == [13, 5, 3]
    assert [module.out_features for module in network.modules() if isinstance(module, nn.Linear)] == [4096, 4096, 1000]


def test_measure_counts_a_users_network() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, groups=2), nn.Flatten(), nn.Linear(36, 5))
    assert asdict(measure(network, (2, 7, 7))) == {"parameters": 40 + 185, "macs_per_image": 36 * 9 + 36 * 5}


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        ("vgg17", 32, "network: got 'vgg17', expected one of vgg-small, vgg16, resnet20"),
        ("vgg16", 8, "network vgg16: got images of 8x8, expected 16x16 or more"),
    ],
)
def test_build_refuses(name: str, side: int, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        build(name, 10, 3, side)


def test_build_from_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mynets_in_cwd.py").write_text(
        "from torch import nn\ndef small(): return nn.Linear(2, 3)\ndef number(): return 3\ndef fails(): return 1 / 0\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert isinstance(build_from_module("mynets_in_cwd:small"), nn.Linear)
    for spec, message in {
        "mynets_in_cwd": "expected 'package.module:function'",
        "no_such_package.nets:small": "cannot import no_such_package.nets",
        "mynets_in_cwd:large": "has no function large; it has small, number, fails",
        "mynets_in_cwd:number": "returned int, expected torch.nn.Module",
        "mynets_in_cwd:fails": "the factory failed: ZeroDivisionError",
    }.items():
        with pytest.raises(NetworkError, match=message):
            build_from_module(spec)


def tiny() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 4))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", "nested.pt"])
def test_weights_round_trip(suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained, loaded, path = tiny().to(memory_format=torch.channels_last), tiny(), tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_weights(trained, path)
    else:
        torch.save({"state_dict": trained.state_dict()} if suffix == "nested.pt" else trained.state_dict(), path)
    load_weights(loaded, path)
    for key, value in trained.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_state_dicts_of_data_parallel_and_of_old_versions_fit(tmp_path: Path) -> None:
    parallel, old = tmp_path / "parallel.pt", tmp_path / "old.pt"
    torch.save(nn.DataParallel(tiny()).state_dict(), parallel)
    state = tiny().state_dict()
    del state["1.num_batches_tracked"]
    torch.save(state, old)
    for path in (parallel, old):
        loaded = tiny()
        load_weights(loaded, path)
        saved = torch.load(path)
        assert torch.equal(loaded.state_dict()["3.weight"], saved.get("module.3.weight", saved.get("3.weight")))
    wrapper = nn.ModuleDict({"module": tiny()})
    save_weights(wrapper, tmp_path / "wrapper.safetensors")
    load_weights(wrapper, tmp_path / "wrapper.safetensors")


def test_equal_weights_are_equal_bytes(tmp_path: Path) -> None:
    model = tiny()
    save_weights(model, tmp_path / "a.safetensors")
    save_weights(model.to(memory_format=torch.channels_last), tmp_path / "b.safetensors")
    assert file_sha256(tmp_path / "a.safetensors") == file_sha256(tmp_path / "b.safetensors")


def edited(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        state = {key: value.clone() for key, value in tiny().state_dict().items()}
        change(state)
        save_file(state, path)

    return write


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("w.pt", lambda path: None, "there is no such weights file"),
        ("w.bin", lambda path: path.write_bytes(b"x"), "got a .bin file, expected one of .safetensors, .pt, .pth"),
        ("w.safetensors", lambda path: path.write_bytes(b"x" * 100), "damaged, or not a file of plain tensors"),
        ("w.pt", lambda path: path.write_bytes(b"x" * 100), "damaged, or not a file of plain tensors"),
        ("w.pt", lambda path: path.write_bytes(b""), "damaged, or not a file of plain tensors"),
        ("w.pth", lambda path: torch.save(tiny(), path), "not a file of plain tensors .*; save model.state_dict()"),
        ("w.pth", lambda path: torch.save([1, 2], path), "got list, expected a state dict"),
        ("w.pth", lambda path: torch.save({"epoch": 3}, path), "got dict, expected a state dict"),
        ("w.pth", lambda path: torch.save({0: torch.ones(1)}, path), "got dict, expected a state dict"),
        ("w.safetensors", edited(lambda state: state.pop("0.bias")), "missing 0.bias; unexpected none"),
        (
            "w.safetensors",
            edited(lambda state: state.update({f"extra{i}": torch.ones(1) for i in range(7)})),
            "missing none; unexpected extra0, extra1, extra2, extra3, extra4 and 2 more",
        ),
        (
            "w.safetensors",
            edited(lambda state: state.update({"0.weight": torch.ones(2, 3, 3, 3)})),
            r"0.weight: got shape \[2, 3, 3, 3\], expected \[2, 1, 3, 3\]$",
        ),
        (
            "w.safetensors",
            edited(lambda state: state.update({"3.weight": torch.ones(100, 8), "3.bias": torch.ones(100)})),
            r"3.weight: got shape \[100, 8\], expected \[4, 8\] \(the last layer: 100 classes for 4\)",
        ),
        ("w.safetensors", edited(lambda state: state["3.bias"].fill_(math.nan)), "3.bias: holds NaN or infinite"),
        (
            "w.safetensors",
            edited(lambda state: state["0.weight"][0].fill_(math.inf)),
            "0.weight: holds NaN or infinite",
        ),
    ],
)
def test_weights_that_cannot_be_used(name: str, write: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    path, model = tmp_path / name, tiny()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    write(path)
    with pytest.raises(NetworkError, match=message):
        load_weights(model, path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_digest_of_a_missing_weights_file(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"w\.pt: cannot be read"):
        file_sha256(tmp_path / "w.pt")


RECIPE = Recipe(name="x", network="vgg-small", source="digits", epochs=3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("momentum", 1.0),
        ("weight_decay", -1e-4),
        ("schedule", "linear"),
        ("warmup_epochs", 4),
        ("label_smoothing", 1.0),
        ("augment", "flip"),
        ("dropout", 1.0),
        ("max_grad_norm", 0.0),
        ("seed", -1),
    ],
)
def test_recipe_refuses(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: got {value!r}, expected"):
        replace(RECIPE, **{field: value})


def test_recipe_digest_covers_everything_but_the_path() -> None:
    changed = {"network": "vgg16", "epochs": 4, "seed": 1, "max_grad_norm": 1.0, "transform": "unit", "dropout": 0.0}
    others = {digest(replace(RECIPE, **{field: value}), "data") for field, value in changed.items()}
    assert len(others | {digest(RECIPE, "data"), digest(RECIPE, "other data")}) == len(changed) + 2
    assert digest(replace(RECIPE, path="elsewhere"), "data") == digest(RECIPE, "data")
