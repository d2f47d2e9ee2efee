"""Weights files: read with every check that protects a long sweep from a wrong one, and written atomically."""

import hashlib
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmpsweep.errors import NetworkError
from rmpsweep.files import write_atomic

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIXES = (".safetensors", ".pt", ".pth")


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file.

    Raises:
        NetworkError: no such file.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise NetworkError(f"{path}: cannot be read ({error.strerror})") from error


def save_weights(model: "nn.Module", path: Path) -> None:
    """Write a state dict as safetensors; equal weights give equal bytes.

    Raises:
        NetworkError: the file is not named .safetensors. StorageError: the folder cannot be written.
    """
    from safetensors.torch import save

    if path.suffix != ".safetensors":
        raise NetworkError(f"{path}: weights are written as safetensors; got suffix {path.suffix!r}")
    write_atomic(path, save({key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}))


def load_weights(model: "nn.Module", path: Path) -> None:
    """Put the weights of a file into a model; the model is unchanged if there is anything wrong with them.

    Args:
        path: .safetensors, or .pt / .pth holding a state dict, also under the key "state_dict".
    Raises:
        NetworkError: missing or unreadable file, not a state dict, keys or shapes that do not fit, values not finite.
    """
    state = _read(path)
    expected: dict[str, Tensor] = model.state_dict()
    missing, unexpected = expected.keys() - state.keys(), state.keys() - expected.keys()
    if missing or unexpected:
        raise NetworkError(
            f"{path}: does not fit the network: missing {_some(missing)}; unexpected {_some(unexpected)}; "
            f"name the network these weights were trained for"
        )
    last = [key for key in expected if key.endswith(".weight")][-1:]
    for key, current in expected.items():
        value = state[key]
        if value.shape != current.shape:
            got, want = list(value.shape), list(current.shape)
            hint = f" (the last layer: {got[0]} classes for {want[0]})" if [key] == last and got and want else ""
            raise NetworkError(f"{path}: {key}: got shape {got}, expected {want}{hint}")
        if value.is_floating_point() and not value.isfinite().all():
            raise NetworkError(
                f"{path}: {key}: holds NaN or infinite values; the training diverged or the file is damaged"
            )
    model.load_state_dict(state)


def _read(path: Path) -> "dict[str, Tensor]":
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise NetworkError(f"{path}: there is no such weights file")
    if path.suffix not in SUFFIXES:
        raise NetworkError(f"{path}: got a {path.suffix or 'nameless'} file, expected one of {', '.join(SUFFIXES)}")
    try:
        if path.suffix == ".safetensors":
            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        refused = isinstance(error, pickle.UnpicklingError)  # torch's own words tell the user to load it all the same
        reason = "pickled objects could run code" if refused else str(error).partition("\n")[0] or type(error).__name__
        raise NetworkError(
            f"{path}: damaged, or not a file of plain tensors ({reason}); save model.state_dict()"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise NetworkError(f"{path}: got {type(content).__name__}, expected a state dict (name -> tensor)")
    return content


def _some(keys: Iterable[str]) -> str:
    names = sorted(keys)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "none") + more
