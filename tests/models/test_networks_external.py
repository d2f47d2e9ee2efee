"""Networks and published weights of torchvision and timm; the hub is a folder here, so that no network is needed."""

import hashlib
import sys
from pathlib import Path

import pytest
import torch
from torchvision.models import ResNet18_Weights, SqueezeNet1_1_Weights, get_model, get_model_weights

from rmpsweep.errors import NetworkError
from rmpsweep.models.external import EXAMPLES, build_external, find_published, is_external
from rmpsweep.models.registry import build_any, describe, is_known
from rmpsweep.models.weights import count_classes, load_weights


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder whose files torchvision's squeezenet1_1 is published in; the cache is another one, and empty."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    return folder


def publish(hub: Path, monkeypatch: pytest.MonkeyPatch, digest: str | None = None) -> tuple[str, str]:
    """Random weights of squeezenet1_1, named as torchvision does; file name and SHA-256."""
    torch.save(get_model("squeezenet1_1").state_dict(), hub / "w.pth")
    sha256 = hashlib.sha256((hub / "w.pth").read_bytes()).hexdigest()
    name = f"squeezenet1_1-{digest or sha256[:8]}.pth"
    (hub / "w.pth").rename(hub / name)
    monkeypatch.setattr(SqueezeNet1_1_Weights.IMAGENET1K_V1.value, "url", (hub / name).as_uri())
    return name, sha256


@pytest.mark.parametrize(
    ("name", "external"),
    [
        ("torchvision:resnet34", True),
        ("timm:resnet34.a1_in1k", True),
        ("resnet34", False),
        ("torchvision:", False),
        ("torchvison:resnet34", False),
        ("mynets.nets:small", False),
    ],
)
def test_names_of_libraries(name: str, external: bool) -> None:
    assert is_external(name) == external
    assert is_known(name) == (external or name == "resnet34")


@pytest.mark.parametrize("name", EXAMPLES)
def test_figures_equal_those_torchvision_publishes(name: str) -> None:
    size, meta = describe(name, 1000, 3, 224), get_model_weights(name.partition(":")[2]).DEFAULT.meta
    assert (size.parameters, round(size.macs_per_image / 1e9, 2)) == (meta["num_params"], round(meta["_ops"], 2))


def test_published_weights_are_fetched_once_and_known_by_their_content(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, sha256 = publish(hub, monkeypatch)
    cached = tmp_path / "cache" / "hub" / "checkpoints" / name
    assert find_published("torchvision:squeezenet1_1", "IMAGENET1K_V1", download=False) == (cached, None)
    assert not cached.parent.exists()
    assert find_published("torchvision:squeezenet1_1", "DEFAULT", download=True) == (cached, sha256)
    (hub / name).unlink()
    assert find_published("torchvision:squeezenet1_1", "IMAGENET1K_V1", download=True) == (cached, sha256)
    load_weights(build_external("torchvision:squeezenet1_1", 1000), cached)
    cached.write_bytes(cached.read_bytes()[:-1])
    with pytest.raises(NetworkError, match=rf"{name}: damaged: its SHA-256 starts with .*; remove it"):
        find_published("torchvision:squeezenet1_1", "IMAGENET1K_V1", download=True)


def test_published_weights_that_cannot_be_fetched(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _ = publish(hub, monkeypatch, digest="0123abcd")
    with pytest.raises(NetworkError, match=r"0123abcd\.pth: damaged: .*, expected 0123abcd; try again"):
        find_published("torchvision:squeezenet1_1", "DEFAULT", download=True)
    (hub / name).unlink()
    with pytest.raises(NetworkError, match=rf"cannot be fetched from file://.*; fetch it .* put it at .*{name}, or"):
        find_published("torchvision:squeezenet1_1", "DEFAULT", download=True)
    assert not (tmp_path / "cache").exists()


def test_no_answer_within_the_deadline_is_an_error(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr("rmpsweep.models.external.DOWNLOAD_TIMEOUT_S", 0.2)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/resnet18-01234567.pth"
        monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "url", url)
        with pytest.raises(NetworkError, match=r"cannot be fetched from http://127\.0\.0\.1:.*timed out"):
            find_published("torchvision:resnet18", "DEFAULT", download=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnet35", r"network torchvision:resnet35: torchvision has no such classifier; did you .*34"),
        ("torchvision:fcn_resnet50", "network torchvision:fcn_resnet50: torchvision has no such classifier"),
    ],
)
def test_unknown_networks(name: str, message: str) -> None:
    for call in (lambda: build_external(name, 10), lambda: find_published(name, "DEFAULT", download=False)):
        with pytest.raises(NetworkError, match=message):
            call()


def test_unknown_weights() -> None:
    expected = r"got 'V9', expected a \.safetensors, \.pt, \.pth file, or weights published for torchvision:resnet50: "
    with pytest.raises(NetworkError, match=f"{expected}IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"):
        find_published("torchvision:resnet50", "V9", download=True)


def test_timm_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    for call in (
        lambda: build_external("timm:resnet34", 10),
        lambda: find_published("timm:resnet34", "pretrained", download=True),
    ):
        with pytest.raises(NetworkError, match="network timm:resnet34: timm is not installed; pip install timm"):
            call()


@pytest.mark.slow
def test_timm_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm", reason="timm is optional")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert describe("timm:resnet34.a1_in1k", 1000, 3, 224) == describe("torchvision:resnet34", 1000, 3, 224)
    torch.save(timm.create_model("resnet18", num_classes=7).state_dict(), tmp_path / "w.pt")
    load_weights(build_any("timm:resnet18", 7, 3, 32), tmp_path / "w.pt")
    for call, message in (
        (lambda: build_external("timm:resnet35", 10), r"Unknown model \(resnet35\); did you mean .*resnet34"),
        (lambda: build_external("timm:resnet34.v9", 10), r"Invalid pretrained tag \(v9\) for resnet34"),
        (lambda: find_published("timm:resnet34.v9", "pretrained", download=False), r"Invalid pretrained tag \(v9\)"),
        (lambda: find_published("timm:resnet34", "DEFAULT", download=False), "'DEFAULT', expected a .*: pretrained"),
    ):
        with pytest.raises(NetworkError, match=message):
            call()
    path, sha256 = find_published("timm:resnet34", "pretrained", download=False)
    assert (path.name, sha256) == ("model.safetensors", None)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:vgg11", "torchvision:squeezenet1_1", "vgg16"])
def test_the_number_of_classes_is_read_from_the_weights(name: str) -> None:
    with torch.device("meta"):
        network = build_any(name, 3, 3, 32)
        state = build_any(name, 17, 3, 32).state_dict()
    assert count_classes(network, state) == 17
    assert count_classes(network, {f"module.{key}": value for key, value in state.items()}) == 17
    assert count_classes(network, {}) == 0
