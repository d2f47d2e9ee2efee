"""How a network is trained, as data: the recipe, its digest, and the card that records the result. Needs no torch."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

TRAINING_VERSION = 2  # to be raised whenever training computes other weights from the same recipe


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Constrained training of one network by SGD with momentum on the cross-entropy.

    The fields source, path, split, test_split and transform name the data, as `rmpsweep.data.open_split` takes them.

    Raises:
        ValueError: a field is out of its range.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 (read by pydantic where recipes come from files)

    name: str
    network: str
    """A name in `models.registry.NETWORKS`."""
    source: str
    path: str | None = None
    split: str = "train"
    test_split: str = "test"
    transform: str | None = None
    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.05
    """The peak of the learning rate, after the warm-up."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    """The factor of the L2 penalty on weights; gains of weight standardisation have none."""
    schedule: Literal["cosine", "step"] = "cosine"
    """The learning rate after the warm-up: with "cosine" it falls to 0; with "step" it is divided by 10 after 60, 80
    and 90 % of all steps."""
    warmup_epochs: int = 1
    """The number of epochs over which the learning rate rises linearly from 0."""
    label_smoothing: float = 0.0
    """The probability mass that is spread over all classes."""
    augment: Literal["none", "crop-flip"] = "none"
    """With "crop-flip", each image is padded by 4 pixels, cropped at random, and mirrored half of the time."""
    dropout: float = 0.2
    """The probability of dropout after convolutions, as the network's builder applies it."""
    max_grad_norm: float | None = None
    """Gradients with a larger L2 norm are scaled down to this one; None for no limit."""
    weight_standardization: bool = False
    """In place of batch norm, let convolutions learn through weights of zero mean and unit norm and a gain per channel.

    They are folded into plain convolutions at the end (Qiao et al. 2019; Brock et al. 2021).
    """
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """The number format of convolutions and products in training; "auto" takes bfloat16 if the device multiplies it
    natively, else float32."""
    seed: int = 0
    """The seed of initial weights, order of images, augmentation and dropout."""

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
    """The SHA-256 (hex) of all that the weights depend on; the fingerprint of the training images replaces the path."""
    fields = asdict(recipe)
    del fields["path"]
    identity = {"recipe": fields, "data": data_fingerprint, "training_version": TRAINING_VERSION}
    return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Card:
    """The record of a finished training run, kept as JSON beside the weights."""

    recipe: dict[str, Any]
    """The fields of the `Recipe`, without the path of the images."""
    recipe_digest: str
    data_fingerprint: str
    """The `ImageSplit.fingerprint` of the training images."""
    test_fingerprint: str
    """The `ImageSplit.fingerprint` of the test images."""
    test_accuracy: dict[str, int]
    """The counts "correct" and "images" of the last epoch's weights, in eval mode and float32."""
    history: list[dict[str, float]]
    """For each epoch its loss, train_accuracy, test_accuracy, learning_rate and seconds."""
    parameters: int
    """The number of values in the network that was trained."""
    weights_sha256: str
    """The SHA-256 (hex) of the weights file."""
    versions: dict[str, str]
    """The versions of python, torch and rmpsweep."""
    duration_s: float
    """Seconds spent on all epochs, without interruptions."""
    device: str
    torch_threads: int
    precision: str
    """The precision that training used, "float32" or "bfloat16"."""


def card_path(weights_path: Path) -> Path:
    """The path of the card of a weights file. The card is written last, so if it exists, training was completed."""
    return weights_path.with_name(weights_path.name + ".json")


def read_card(weights_path: Path) -> Card | None:
    """The card beside a weights file; None if there is none, or if it has other fields than this version's cards."""
    try:
        return Card(**json.loads(card_path(weights_path).read_text()))
    except (FileNotFoundError, TypeError, ValueError):
        return None
