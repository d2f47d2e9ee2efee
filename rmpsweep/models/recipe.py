"""How a network is trained, as data: the recipe, its digest, and the card saying what came of it. Needs no torch."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

TRAINING_VERSION = 2  # raised whenever training computes other weights from the same recipe


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Constrained training of one network; SGD with momentum on the cross-entropy.

    Fields:
        name: of the recipe, as it is listed.
        network: name in models.registry.NETWORKS.
        source, path, split, test_split, transform: the data, as rmpsweep.data.open_split takes them.
        epochs: passes over the training images.
        batch_size: images per step.
        learning_rate: at its peak, after the warm-up.
        momentum: of SGD.
        weight_decay: L2 penalty.
        schedule: after the warm-up, "cosine" to 0, or "step": a tenth at 60, 80 and 90 % of all steps.
        warmup_epochs: epochs over which the learning rate rises linearly from 0.
        label_smoothing: probability mass spread over all classes.
        augment: "crop-flip" = a crop of the image padded by 4 pixels, flipped left to right half of the time.
        dropout: probability after each convolution.
        max_grad_norm: gradients are scaled down to this L2 norm; None for no limit.
        weight_standardization: convolutions learn through weights of zero mean and unit norm and a gain per channel,
            folded into plain convolutions at the end (Qiao et al. 2019; Brock et al. 2021): what takes the place of
            batch norm.
        precision: of convolutions and products in training; "auto" = bfloat16 where the device multiplies it natively.
        seed: of initial weights, order, augmentation and dropout.

    Raises:
        ValueError: a field out of its range.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 (read by pydantic where recipes come from files)

    name: str
    network: str
    source: str
    path: str | None = None
    split: str = "train"
    test_split: str = "test"
    transform: str | None = None
    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "step"] = "cosine"
    warmup_epochs: int = 1
    label_smoothing: float = 0.0
    augment: Literal["none", "crop-flip"] = "none"
    dropout: float = 0.2
    max_grad_norm: float | None = None
    weight_standardization: bool = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        allowed: dict[str, tuple[Callable[[Any], bool], str]] = {
            "epochs": (lambda x: x >= 1, "1 or more"),
            "batch_size": (lambda x: x >= 1, "1 or more"),
            "learning_rate": (lambda x: x > 0, "more than 0"),
            "momentum": (lambda x: 0 <= x < 1, "0 or more and less than 1"),
            "weight_decay": (lambda x: x >= 0, "0 or more"),
            "schedule": (lambda x: x in ("cosine", "step"), "'cosine' or 'step'"),
            "warmup_epochs": (lambda x: 0 <= x <= self.epochs, "0 to epochs"),
            "label_smoothing": (lambda x: 0 <= x < 1, "0 or more and less than 1"),
            "augment": (lambda x: x in ("none", "crop-flip"), "'none' or 'crop-flip'"),
            "dropout": (lambda x: 0 <= x < 1, "0 or more and less than 1"),
            "max_grad_norm": (lambda x: x is None or x > 0, "more than 0, or none"),
            "precision": (lambda x: x in ("auto", "float32", "bfloat16"), "'auto', 'float32' or 'bfloat16'"),
            "seed": (lambda x: 0 <= x < 2**32, "0 or more and less than 2^32"),
        }
        for field, (accepts, expected) in allowed.items():
            if not accepts(value := getattr(self, field)):
                raise ValueError(f"{field}: got {value!r}, expected {expected}")


def digest(recipe: Recipe, data_fingerprint: str) -> str:
    """SHA-256 (hex) of everything the weights depend on; the fingerprint of the training images stands for the path."""
    fields = asdict(recipe)
    del fields["path"]
    identity = {"recipe": fields, "data": data_fingerprint, "training_version": TRAINING_VERSION}
    return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a training run made, kept as JSON beside the weights.

    Fields:
        recipe, recipe_digest: what was asked for; where the images lay is left out.
        data_fingerprint, test_fingerprint: of the training and the test images.
        test_accuracy: {"correct", "images"} of the last epoch's weights, eval mode, float32.
        history: of each epoch: loss, train_accuracy, test_accuracy, learning_rate, seconds.
        parameters: number of trained values.
        weights_sha256: of the weights file, hex.
        versions: of python, torch and rmpsweep.
        duration_s: of training, interruptions left out.
        device, torch_threads, precision: where and in what numbers it ran.
    """

    recipe: dict[str, Any]
    recipe_digest: str
    data_fingerprint: str
    test_fingerprint: str
    test_accuracy: dict[str, int]
    history: list[dict[str, float]]
    parameters: int
    weights_sha256: str
    versions: dict[str, str]
    duration_s: float
    device: str
    torch_threads: int
    precision: str


def card_path(weights_path: Path) -> Path:
    """Where the card of a weights file lies; written last, so that its presence means training was completed."""
    return weights_path.with_name(weights_path.name + ".json")


def read_card(weights_path: Path) -> Card | None:
    """The card beside a weights file; None if there is none, or none that this version wrote."""
    try:
        return Card(**json.loads(card_path(weights_path).read_text()))
    except (FileNotFoundError, TypeError, ValueError):
        return None
