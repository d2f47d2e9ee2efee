"""Constrained training of a network from a recipe: deterministic, resumable, and stopped if it diverges.

N = images, C = channels, H, W = height and width in pixels. Epochs count from 1.
"""

import hashlib
import io
import json
import math
import pickle
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import rmpsweep
from rmpsweep.data.split import ImageSplit
from rmpsweep.errors import DataError, NetworkError
from rmpsweep.models.recipe import Card, Recipe, card_path, digest
from rmpsweep.models.registry import build
from rmpsweep.models.standardize import fold, standardize
from rmpsweep.models.weights import file_sha256, save_weights
from rmpsweep.storage import write_atomic

CROP_PADDING = 4
STEP_MILESTONES = (0.6, 0.8, 0.9)
EVALUATION_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """Progress after an epoch; accuracies are fractions."""

    epoch: int
    """The epoch that is done."""
    epochs: int
    """The number of epochs planned."""
    loss: float
    """The mean over the images of the epoch, with dropout and augmentation."""
    train_accuracy: float
    """Measured as the loss is, with dropout and augmentation."""
    test_accuracy: float
    """Measured on the test images in eval mode."""
    learning_rate: float
    """The learning rate of the last step."""
    seconds: float
    """Duration of this epoch."""
    eta_s: float
    """Seconds until the end at the pace of this epoch."""
    history: Sequence[Mapping[str, float]]
    """The `Card.history` of all epochs done."""


def train(
    recipe: Recipe,
    train_split: ImageSplit,
    test_split: ImageSplit,
    weights_path: Path,
    on_epoch: Callable[[EpochReport], None],
    device: str = "auto",
) -> Card:
    """Train a network, write its weights and, last, their card.

    A checkpoint beside the weights is replaced after each epoch, before the call of on_epoch, and removed at the end.
    Everything random in epoch e is derived from (seed, e). A run that was interrupted and started again therefore ends
    with exactly the weights of an undisturbed run, on the same machine and with the same versions and thread count. A
    checkpoint is ignored if it is damaged, or of another recipe, other data or another precision.

    Args:
        weights_path: a .safetensors file.
        on_epoch: called after every epoch; an exception from it stops training and leaves the checkpoint.
        device: "auto" (CUDA if there is any), or a torch device.
    Raises:
        DataError: training and test images differ in shape, or cannot be read.
        NetworkError: the network is unknown, or training diverges.
        StorageError: the folder cannot be written.
    """
    if train_split.image_shape != test_split.image_shape:
        raise DataError(
            f"recipe {recipe.name}: {train_split.name} has images of shape {train_split.image_shape}, "
            f"{test_split.name} of {test_split.image_shape}; expected the same"
        )
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    run_digest = digest(recipe, train_split.fingerprint)
    precision = _precision(recipe, where)
    checkpoint = weights_path.with_name(weights_path.name + ".ckpt")
    channels, height, width = train_split.image_shape
    classes = train_split.num_classes or 1 + max(train_split.max_label, test_split.max_label)

    cuda_devices = [where] if where.type == "cuda" else []
    with torch.random.fork_rng(cuda_devices), torch.backends.cudnn.flags(benchmark=False, deterministic=True):
        torch.manual_seed(_seed(recipe.seed, 0))
        model = build(recipe.network, classes, channels, (height, width), recipe.dropout)
        model.to(where).to(memory_format=torch.channels_last)
        if recipe.weight_standardization:
            standardize(model)
        parameters = dict(model.named_parameters())
        gains = [parameter for name, parameter in parameters.items() if name.endswith(".gain")]
        weights = [parameter for name, parameter in parameters.items() if not name.endswith(".gain")]
        groups: list[dict[str, Any]] = [
            {"params": weights},
            *([{"params": gains, "weight_decay": 0.0}] if gains else []),
        ]
        optimizer = torch.optim.SGD(groups, recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay)
        history = _resume(checkpoint, f"{run_digest}/{precision}", model, optimizer)
        train_images, train_labels = _load_all(train_split, where)
        test_images, test_labels = _load_all(test_split, where)
        for epoch in range(len(history) + 1, recipe.epochs + 1):
            start = time.perf_counter()
            loss, accuracy = _train_epoch(recipe, model, optimizer, train_images, train_labels, epoch, precision)
            correct = _count_correct(model, test_images, test_labels, precision)
            seconds = time.perf_counter() - start
            figures = {
                "loss": loss,
                "train_accuracy": accuracy,
                "test_accuracy": correct / len(test_labels),
                "learning_rate": optimizer.param_groups[0]["lr"],
                "seconds": seconds,
            }
            history.append(figures)
            _save_checkpoint(checkpoint, f"{run_digest}/{precision}", model, optimizer, history)
            eta_s = seconds * (recipe.epochs - epoch)
            on_epoch(EpochReport(**figures, epoch=epoch, epochs=recipe.epochs, eta_s=eta_s, history=tuple(history)))
        fold(model)
        correct = _count_correct(model, test_images, test_labels, "float32")

    save_weights(model, weights_path)
    card = Card(
        recipe={name: value for name, value in asdict(recipe).items() if name != "path"},
        recipe_digest=run_digest,
        data_fingerprint=train_split.fingerprint,
        test_fingerprint=test_split.fingerprint,
        test_accuracy={"correct": correct, "images": len(test_labels)},
        history=history,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        weights_sha256=file_sha256(weights_path),
        versions={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "rmpsweep": rmpsweep.__version__,
        },
        duration_s=round(sum(epoch["seconds"] for epoch in history), 3),
        device=torch.cuda.get_device_name(where) if where.type == "cuda" else f"{where} ({platform.machine()})",
        torch_threads=torch.get_num_threads(),
        precision=precision,
    )
    write_atomic(card_path(weights_path), (json.dumps(asdict(card), indent=2) + "\n").encode())
    checkpoint.unlink(missing_ok=True)
    return card


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0 over all epochs: a linear warm-up, then the recipe's schedule."""
    warmup, total = recipe.warmup_epochs * steps_per_epoch, recipe.epochs * steps_per_epoch
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    if recipe.schedule == "step":
        return recipe.learning_rate * 0.1 ** sum(step >= share * total for share in STEP_MILESTONES)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def crop_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Pad images [N, C, H, W] by 4 zeros, crop each to its size at a random place, and flip about half left to right.

    Source: He et al. 2016, section 4.2.
    """
    count, channels, height, width = images.shape
    top, left = torch.randint(0, 2 * CROP_PADDING + 1, (2, count, 1), generator=generator)
    flip = torch.rand(count, 1, generator=generator) < 0.5
    rows = top + torch.arange(height)
    columns = left + torch.where(flip, torch.arange(width).flip(0), torch.arange(width))
    padded = nn.functional.pad(images, [CROP_PADDING] * 4)
    n, c = torch.arange(count).view(-1, 1, 1, 1), torch.arange(channels).view(1, -1, 1, 1)
    return padded[n, c, rows[:, None, :, None], columns[:, None, None, :]]


def _train_epoch(
    recipe: Recipe,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    epoch: int,
    precision: str,
) -> tuple[float, float]:
    """Make one pass in random order over images [N, C, H, W]; return the mean loss and the fraction correct."""
    torch.manual_seed(_seed(recipe.seed, epoch))
    generator = torch.Generator().manual_seed(_seed(recipe.seed, epoch))
    model.train()
    steps = math.ceil(len(labels) / recipe.batch_size)
    batches = torch.randperm(len(labels), generator=generator).tensor_split(steps)
    total_loss, correct = 0.0, 0
    for index, batch in enumerate(batches):
        rate = learning_rate(recipe, (epoch - 1) * steps + index, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        x, y = images[batch.to(images.device)], labels[batch.to(labels.device)]
        if recipe.augment == "crop-flip":
            x = crop_flip(x, generator)
        logits = _logits(model, x.contiguous(memory_format=torch.channels_last), precision)
        loss = nn.functional.cross_entropy(logits, y, label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm or math.inf).item()
        if not math.isfinite(loss.item()) or not math.isfinite(norm) or norm == 0:
            raise _diverged(recipe, epoch, rate, f"loss {loss.item():.3g}, gradient norm {norm:.3g}")
        optimizer.step()
        total_loss += loss.item() * len(y)
        correct += int((logits.argmax(1) == y).sum())
    mean_loss = total_loss / len(labels)
    if epoch > recipe.warmup_epochs and mean_loss > 2 * math.log(logits.shape[1]):
        raise _diverged(recipe, epoch, rate, f"mean loss {mean_loss:.3g}, twice that of guessing")
    return mean_loss, correct / len(labels)


def _diverged(recipe: Recipe, epoch: int, rate: float, what: str) -> NetworkError:
    return NetworkError(
        f"recipe {recipe.name}: training diverged in epoch {epoch} of {recipe.epochs} at learning rate {rate:.3g} "
        f"({what}); lower learning_rate or max_grad_norm, or raise warmup_epochs"
    )


def _logits(model: nn.Module, images: Tensor, precision: str) -> Tensor:
    """The logits in float32, whatever the precision.

    Casts of weights are cached for one pass only, so that no cast outlives the weights that it copies.
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logits: Tensor = model(images)
    return logits.float()


@torch.no_grad()
def _count_correct(model: nn.Module, images: Tensor, labels: Tensor, precision: str) -> int:
    model.eval()
    batches = zip(images.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True)
    return sum(int((_logits(model, x, precision).argmax(1) == y).sum()) for x, y in batches)


def _load_all(split: ImageSplit, device: torch.device) -> tuple[Tensor, Tensor]:
    images, labels = split.load(range(split.num_images))
    return images.to(device, memory_format=torch.channels_last), labels.to(device)


def _seed(seed: int, epoch: int) -> int:
    """The seed of an epoch; epoch 0 stands for the initial weights."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:8]) >> 1


def _precision(recipe: Recipe, device: torch.device) -> str:
    """The recipe's precision, with "auto" decided for the device."""
    if recipe.precision != "auto":
        return recipe.precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return "bfloat16" if native else "float32"


def _save_checkpoint(
    path: Path, run_digest: str, model: nn.Module, optimizer: torch.optim.Optimizer, history: list[dict[str, float]]
) -> None:
    buffer = io.BytesIO()
    content = {
        "digest": run_digest,
        "history": history,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, buffer)
    write_atomic(path, buffer.getvalue())


def _resume(path: Path, run_digest: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    """Restore a checkpoint of the same recipe, data and precision; return the history of its epochs, else []."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return []
    if content.get("digest") != run_digest:
        return []
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    history: list[dict[str, float]] = content["history"]
    return history
