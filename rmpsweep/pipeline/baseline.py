"""The ANN's accuracy against what is known of it: is it the network, on the data, that the sweep means?"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rmpsweep.models.published import published_accuracy
from rmpsweep.models.recipe import read_card
from rmpsweep.results.records import BASELINE
from rmpsweep.stats import wilson_interval
from rmpsweep.sweep.schema import Network
from rmpsweep.terms import ANN

TOLERANCE = 0.003


@dataclass(frozen=True)
class Stated:
    """An accuracy, a fraction in [0, 1], and who states it."""

    accuracy: float
    by: str


def stated_accuracy(network: Network, weights: Path, identity: str, fingerprint: str) -> Stated | None:
    """What the card of the weights says: torchvision's, or the one that `rmpsweep train` writes beside them.

    Args:
        weights, identity: the file, and its SHA-256 (hex).
        fingerprint: of the images evaluated; the card of a training counts only where it is of the same.
    """
    published = published_accuracy(network.label, network.weights)
    if published is not None:
        return Stated(published, "torchvision, on the 50,000 validation images of ImageNet-1K")
    card = read_card(weights)
    if card is None or card.weights_sha256 != identity or card.test_fingerprint != fingerprint:
        return None
    images = card.test_accuracy["images"]
    return Stated(card.test_accuracy["correct"] / images, f"the card of its training, on {images:,} images")


def baseline_warnings(predictions: pa.Table, stated: Stated | None) -> list[str]:
    """Warnings about the ANN's own accuracy.

    It is off what is stated where it differs by more than TOLERANCE and the 95 % Wilson interval of what was measured
    does not hold the stated value: a few images do not cry wolf. It is no better than chance where the interval
    reaches down to 1 / classes and its upper end is nearer to that than to 100 %; labels in another order may put it
    far below. At least as many classes are taken for granted as the largest label or prediction says.

    Args:
        predictions: of a sweep; the rows of the trial `ann` count.
    """
    rows = predictions.filter(pc.equal(predictions["trial_id"], ANN))
    n = rows.num_rows
    if n == 0:
        return []
    correct = int(pc.sum(rows["correct"]).as_py())
    classes = 1 + int(max(np.max(rows[name].to_numpy()) for name in ("label", "prediction")))
    low, high = (float(bound) for bound in wilson_interval(correct, n))
    measured = f"{BASELINE}{correct / n:.2%} of {n:,} images (95 % interval {low:.2%} to {high:.2%})"
    warnings = []
    if stated is not None and abs(correct / n - stated.accuracy) > TOLERANCE and not low <= stated.accuracy <= high:
        warnings.append(
            f"{measured}, but {stated.accuracy:.2%} according to {stated.by}; usual causes: another transform or "
            "interpolation than the weights were made with (data.transform: weights takes theirs), labels in another "
            "order, lossy or resized copies of the images, images that are no fair sample"
        )
    chance = 1 / classes
    if classes > 1 and low <= chance and high < (1 + chance) / 2:
        warnings.append(
            f"{measured}, which is no better than chance among {classes} classes or more; usual causes: labels in "
            "another order than the network's outputs, another normalisation than in training, weights never trained"
        )
    return warnings
