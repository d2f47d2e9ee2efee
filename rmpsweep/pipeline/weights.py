"""The weights of a sweep: a file, weights that a library publishes, or weights that a recipe trains if missing."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rmpsweep.data import cache_dir, open_split
from rmpsweep.data.transforms import WEIGHTS
from rmpsweep.errors import NetworkError
from rmpsweep.models.external import find_published, is_external
from rmpsweep.models.published import published_transform
from rmpsweep.models.recipe import Recipe, card_path, digest, read_card
from rmpsweep.models.weights import file_sha256
from rmpsweep.sweep.schema import Sweep
from rmpsweep.tracking import TrainingRecord, log_training


@dataclass(frozen=True)
class Weights:
    """Weights that exist, or a recipe that will make them."""

    path: Path
    """Where the weights are or will be."""
    identity: str
    """SHA-256 (hex) of the file, or the digest of the recipe while they are untrained. For published weights that have
    not been fetched and have no known SHA-256, their name and the network's."""
    recipe: Recipe | None
    """How to make the weights; None if they need no training."""


def find_weights(sweep: Sweep, download: bool = False) -> Weights:
    """Find the weights file of a sweep, or the recipe and the path where it will put its weights.

    Args:
        download: fetch what is missing: weights that a library publishes, and the data of the recipe.
    Raises:
        NetworkError: the weights are missing or cannot be used.
        DataError: the data of the recipe are missing or cannot be used.
    """
    network = sweep.network
    if network.published is not None:
        path, sha256 = find_published(network.label, network.published, download)
        return Weights(path, sha256 or f"{network.published} of {network.label}", None)
    if network.weights is not None and network.weights.exists():
        return Weights(network.weights, file_sha256(network.weights), None)
    if network.train is None:
        remedy = (
            "name weights that its library publishes"
            if is_external(network.label)
            else ("train names a recipe that makes them")
        )
        raise NetworkError(f"network.weights: {network.weights}: no such file; {remedy}")
    return trained_weights(network.train, network.weights, download)


def with_transform(sweep: Sweep) -> Sweep:
    """Return the sweep with `data.transform: weights` replaced by the transform that the published weights state.

    Raises:
        NetworkError, DataError: the weights are unknown, or state no transform that can be used.
    """
    if sweep.data.transform != WEIGHTS:
        return sweep
    network = sweep.network
    transform = published_transform(network.label, network.weights)
    return sweep.model_copy(update={"data": sweep.data.model_copy(update={"transform": transform})})


def trained_weights(recipe: Recipe, path: Path | None = None, download: bool = False) -> Weights:
    """Find the weights of a recipe, which may have been trained already. Raises DataError.

    Args:
        path: where the weights are kept; default a file in the cache.
        download: fetch the data of the recipe where it is missing.
    """
    split = open_split(recipe.source, recipe.path, recipe.split, recipe.transform, download)
    recipe_digest = digest(recipe, split.fingerprint)
    path = path or cache_dir() / "weights" / f"{recipe.name}-{recipe_digest[:16]}.safetensors"
    card = read_card(path)
    if card is not None and card.recipe_digest == recipe_digest and path.is_file():
        found = file_sha256(path)
        if found == card.weights_sha256:
            return Weights(path, found, None)
    return Weights(path, recipe_digest, recipe)


def train_recipe(recipe: Recipe, path: Path, on_epoch: Callable[[Any], None], mlflow_uri: str | None = None) -> Any:
    """Train the network of a recipe and save its weights and card.

    Args:
        path: the weights file to write.
        on_epoch: called with the report on each epoch.
        mlflow_uri: where to log each epoch; None logs nothing.
    Returns:
        The card of the training.
    Raises:
        NetworkError, DataError: the network or the data cannot be used, or the training diverges.
        StorageError: the folder cannot be written.
        TrackingError: MLflow cannot be used.
    """
    from rmpsweep.models.training import train

    splits = [open_split(recipe.source, recipe.path, s, recipe.transform) for s in (recipe.split, recipe.test_split)]
    params = {name: str(value) for name, value in asdict(recipe).items()}
    record = TrainingRecord(digest(recipe, splits[0].fingerprint), f"training {recipe.name}", params, ())

    def report(epoch: Any) -> None:
        on_epoch(epoch)
        if mlflow_uri is not None:
            log_training(mlflow_uri, replace(record, history=epoch.history))

    card = train(recipe, splits[0], splits[1], path, report)
    if mlflow_uri is not None:
        log_training(mlflow_uri, replace(record, history=card.history, artifacts=(path, card_path(path))))
    return card
