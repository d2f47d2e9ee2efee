"""Networks and published weights of torchvision and timm, by name: "torchvision:resnet34", "timm:resnet34.a1_in1k".

Only this module imports timm, which is optional. No library is imported before a network is built or its weights are
looked up.
"""

import difflib
import hashlib
import re
import urllib.request
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmpsweep.errors import NetworkError
from rmpsweep.models.weights import SUFFIXES, file_sha256
from rmpsweep.storage import write_atomic

if TYPE_CHECKING:
    from torch import nn

LIBRARIES = ("torchvision", "timm")
FORMS = "torchvision:NAME, timm:NAME"
EXAMPLES = (
    "torchvision:resnet18",
    "torchvision:resnet34",
    "torchvision:resnet50",
    "torchvision:vgg16",
    "torchvision:vgg16_bn",
)
TIMM_WEIGHTS = "pretrained"
DOWNLOAD_TIMEOUT_S = 60


def is_external(name: str) -> bool:
    """Whether a network's name has the form "torchvision:NAME" or "timm:NAME"."""
    library, _, model = name.partition(":")
    return library in LIBRARIES and model != ""


def build_external(name: str, num_classes: int) -> "nn.Module":
    """Build a classifier of torchvision or a network of timm, with initial weights.

    Raises:
        NetworkError: the library has no such network, or is not installed.
    """
    library, _, model = name.partition(":")
    network: nn.Module
    if library == "torchvision":
        from torchvision import models

        _check_torchvision_name(name)
        network = models.get_model(model, weights=None, num_classes=num_classes)
        return network
    timm = _import_timm(name)
    try:
        network = timm.create_model(model, pretrained=False, num_classes=num_classes)
    except RuntimeError as error:  # timm raises this for an unknown model or tag
        raise NetworkError(f"network {name}: {error}{_close(model, timm.list_models())}") from error
    return network


def find_published(name: str, weights: str, download: bool) -> tuple[Path, str | None]:
    """Find the weights file that a library publishes, in the place where the library itself keeps it.

    Args:
        name: "torchvision:NAME" or "timm:NAME".
        weights: for torchvision a member of the network's weights enum, or DEFAULT; for timm "pretrained".
        download: fetch the file if it is missing.
    Returns:
        The path of the file and its SHA-256 (hex), which is None if the file is missing and was not to be fetched.
    Raises:
        NetworkError: the network or the weights are unknown, or the file is damaged or cannot be fetched.
        StorageError: the cache cannot be written.
    """
    if name.startswith("torchvision:"):
        return _find_torchvision(name, weights, download)
    path = _find_timm(name, weights, download)
    return path, file_sha256(path) if path.is_file() else None


def torchvision_weights(name: str, weights: str) -> Any:
    """A member of the weights enum of "torchvision:NAME", with url, meta and transforms.

    Raises:
        NetworkError: torchvision has no such classifier or weights.
    """
    from torchvision import models

    _check_torchvision_name(name)
    known = models.get_model_weights(name.partition(":")[2]).__members__
    if weights not in known:
        raise _unknown_weights(name, weights, known)
    return known[weights]


def torchvision_file(name: str) -> Any:
    """The member of any classifier's weights enum that is published as a file of this name; None if there is none."""
    from torchvision import models

    every = (weights for model in models.list_models(module=models) for weights in models.get_model_weights(model))
    return next((weights for weights in every if weights.url.rpartition("/")[2] == name), None)


def _find_torchvision(name: str, weights: str, download: bool) -> tuple[Path, str | None]:
    import torch

    url = torchvision_weights(name, weights).url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        if not download:
            return path, None
        try:
            with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as response:
                content = response.read()
        except (OSError, HTTPException) as error:
            raise NetworkError(
                f"network.weights: {weights} of {name}: cannot be fetched from {url} ({error}); fetch it elsewhere and "
                f"put it at {path}, or name a file"
            ) from error
        _check_hash(hashlib.sha256(content).hexdigest(), url, "try again")
        write_atomic(path, content)
    sha256 = file_sha256(path)
    _check_hash(sha256, str(path), "remove it, and launch fetches it again")
    return path, sha256


def _check_hash(sha256: str, where: str, remedy: str) -> None:
    """Check a file against its name, to which torchvision appends the first digits of its SHA-256."""
    expected = re.search(r"-([0-9a-f]{8,})\.pth$", where)
    if expected is not None and not sha256.startswith(expected[1]):
        raise NetworkError(f"{where}: damaged: its SHA-256 starts with {sha256[:8]}, expected {expected[1]}; {remedy}")


def timm_data_config(name: str) -> Mapping[str, Any]:
    """How timm prepares images for the weights that it publishes for "timm:NAME".

    The keys include input_size, crop_pct, crop_mode, interpolation, mean and std.

    Raises:
        NetworkError: timm is not installed, or has no such network.
    """
    published = _timm_published(name)
    from timm.data import resolve_data_config

    config: Mapping[str, Any] = resolve_data_config(pretrained_cfg=published.to_dict())
    return config


def _timm_published(name: str) -> Any:
    timm = _import_timm(name)
    model = name.partition(":")[2]
    try:
        return timm.get_pretrained_cfg(model, allow_unregistered=False)
    except RuntimeError as error:
        raise NetworkError(f"network {name}: {error}{_close(model, timm.list_models())}") from error


def _find_timm(name: str, weights: str, download: bool) -> Path:
    _import_timm(name)
    from huggingface_hub import hf_hub_download

    if weights != TIMM_WEIGHTS:
        raise _unknown_weights(name, weights, [TIMM_WEIGHTS])
    published = _timm_published(name)
    if not published.hf_hub_id:
        raise NetworkError(f"network {name}: timm publishes no weights of it on the Hugging Face hub; name a file")
    try:
        return Path(hf_hub_download(published.hf_hub_id, "model.safetensors", local_files_only=not download))
    except Exception as error:  # the hub's errors have no common base class
        if not download:
            return Path(published.hf_hub_id) / "model.safetensors"
        raise NetworkError(
            f"network.weights: {weights} of {name}: model.safetensors cannot be fetched from "
            f"https://huggingface.co/{published.hf_hub_id} ({error}); fetch it elsewhere and name the file"
        ) from error


def _unknown_weights(name: str, weights: str, known: Iterable[str]) -> NetworkError:
    return NetworkError(
        f"network.weights: got {weights!r}, expected a {', '.join(SUFFIXES)} file, or weights published for {name}: "
        f"{', '.join(known)}"
    )


def _check_torchvision_name(name: str) -> None:
    from torchvision import models

    model, known = name.partition(":")[2], models.list_models(module=models)
    if model not in known:
        raise NetworkError(f"network {name}: torchvision has no such classifier{_close(model, known)}")


def _close(model: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(model, known, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _import_timm(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise NetworkError(f"network {name}: timm is not installed; pip install timm") from error
    return timm
