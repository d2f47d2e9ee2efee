"""The weights of a sweep: a file, a library's own, or what a recipe makes, trained where it is missing."""

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
    """Where the weights are or will be; recipe: how to make them, None where they exist."""

    path: Path
    identity: str
    recipe: Recipe | None


def find_weights(sweep: Sweep, download: bool = False) -> Weights:
    """The weights file, or the recipe and where it will put its weights; download: fetch those a library publishes.

    Raises:
        NetworkError, DataError: weights, or the data of the recipe, are missing or unusable.
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
    """With `data.transform: weights` replaced by what the published weights say.

    Raises:
        NetworkError, DataError: they are unknown, or say nothing of it.
    """
    if sweep.data.transform != WEIGHTS:
        return sweep
    network = sweep.network
    transform = published_transform(network.label, network.weights)
    return sweep.model_copy(update={"data": sweep.data.model_copy(update={"transform": transform})})


def trained_weights(recipe: Recipe, path: Path | None = None, download: bool = False) -> Weights:
    """What a recipe has made, if it has; kept in the cache unless a path is given. Raises DataError."""
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
    """Train and save, logging each epoch where there is a URI; returns the card. Raises TrackingError."""
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
