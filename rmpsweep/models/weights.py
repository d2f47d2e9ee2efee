"""Weights files, read with every check that protects a long sweep from a wrong file, and written atomically."""

import hashlib
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmpsweep.errors import NetworkError
from rmpsweep.storage import write_atomic

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pt", ".pth")
PARALLEL_PREFIX = "module."


def file_sha256(path: Path) -> str:
    """The SHA-256 (hex) of a weights file.

    Raises:
        NetworkError: the file does not exist or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise NetworkError(f"{path}: cannot be read ({error.strerror})") from error


def save_weights(model: "nn.Module", path: Path) -> None:
    """Write the state dict of a model as safetensors; equal weights give equal bytes.

    Raises:
        NetworkError: the name of the file does not end in .safetensors.
        StorageError: the folder cannot be written.
    """
    from safetensors.torch import save

    if path.suffix != ".safetensors":
        raise NetworkError(f"{path}: weights are written as safetensors; got suffix {path.suffix!r}")
    write_atomic(path, save({key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}))


def load_weights(model: "nn.Module", path: Path) -> None:
    """Read a weights file into a model of your own, with the checks that a sweep makes.

    Sweeps themselves call `read_weights` and `put_weights` in turn, since they count the classes in between.

    Raises:
        NetworkError: the file cannot be read or does not fit the model; the model is then unchanged.
    """
    put_weights(model, read_weights(path), path)


def put_weights(model: "nn.Module", state: "Mapping[str, Tensor]", path: Path) -> None:
    """Put a state dict into a model; the model is unchanged if anything is wrong with the state dict.

    Two differences are accepted. In a state dict of torch.nn.DataParallel, every key starts with "module.". And
    num_batches_tracked of batch norm may be missing, since PyTorch before 0.4.1 did not save it and evaluation ignores
    it.

    Args:
        path: the file that the state dict was read from, for messages.
    Raises:
        NetworkError: keys or shapes do not fit, or values are not finite.
    """
    state = _unwrapped(model, state)
    expected: dict[str, Tensor] = {
        key: value
        for key, value in model.state_dict().items()
        if key in state or not key.endswith(".num_batches_tracked")
    }
    missing, unexpected = expected.keys() - state.keys(), state.keys() - expected.keys()
    if missing or unexpected:
        raise NetworkError(
            f"{path}: does not fit the network: missing {_some(missing)}; unexpected {_some(unexpected)}; "
            f"name the network these weights were trained for"
        )
    for key, current in expected.items():
        value = state[key]
        if value.shape != current.shape:
            got, want = list(value.shape), list(current.shape)
            last = key == _last_layer(model) and got and want
            hint = f" (the last layer: {got[0]} classes for {want[0]})" if last else ""
            raise NetworkError(f"{path}: {key}: got shape {got}, expected {want}{hint}")
        if value.is_floating_point() and not value.isfinite().all():
            raise NetworkError(
                f"{path}: {key}: holds NaN or infinite values; the training diverged or the file is damaged"
            )
    model.load_state_dict(state, strict=False)  # the keys have been checked above


def count_classes(model: "nn.Module", state: "Mapping[str, Tensor]") -> int:
    """The number of outputs of the model's last layer in a state dict, 0 if the state dict lacks that layer.

    The model may be on the meta device.
    """
    weight = _unwrapped(model, state).get(_last_layer(model))
    return 0 if weight is None or weight.dim() == 0 else len(weight)


def read_weights(path: Path) -> "dict[str, Tensor]":
    """Read the state dict in a weights file.

    Args:
        path: a .safetensors file, or a .pt or .pth file that holds a state dict, at the top or under the key
            "state_dict".
    Raises:
        NetworkError: the file is missing or unreadable, or does not hold a state dict.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise NetworkError(f"{path}: there is no such weights file")
    if path.suffix not in SUFFIXES:
        raise NetworkError(f"{path}: got a {path.suffix or 'suffixless'} file, expected one of {', '.join(SUFFIXES)}")
    try:
        if path.suffix == ".safetensors":
            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        refused = isinstance(error, pickle.UnpicklingError)  # torch's message tells the user to load the file anyway
        reason = "pickled objects could run code" if refused else str(error).partition("\n")[0] or type(error).__name__
        raise NetworkError(
            f"{path}: damaged, or not a file of plain tensors ({reason}); save model.state_dict()"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items()
    ):
        raise NetworkError(f"{path}: got {type(content).__name__}, expected a state dict (name -> tensor)")
    return content


def _unwrapped(model: "nn.Module", state: "Mapping[str, Tensor]") -> "Mapping[str, Tensor]":
    """Remove the prefix that torch.nn.DataParallel puts before every key, if the state dict has it."""
    wrapped = all(key.startswith(PARALLEL_PREFIX) for key in state)
    if not wrapped or state.keys() & model.state_dict().keys():
        return state
    return {key.removeprefix(PARALLEL_PREFIX): value for key, value in state.items()}


def _last_layer(model: "nn.Module") -> str:
    """The key of the last weight in the model's state dict, "" if there is none."""
    return next((key for key in reversed(model.state_dict()) if key.endswith(".weight")), "")


def _some(keys: Iterable[str]) -> str:
    names = sorted(keys)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "none") + more
