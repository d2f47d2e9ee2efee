"""Compare the ANN's measured accuracy with its stated one, to find wrong weights, labels or transforms."""

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
"""The difference from the stated accuracy, as a fraction, up to which nothing is warned about."""


@dataclass(frozen=True)
class Stated:
    """An accuracy that somebody states for the ANN."""

    accuracy: float
    """A fraction in [0, 1]."""
    by: str
    """Who states it, for messages."""


def stated_accuracy(network: Network, weights: Path, identity: str, fingerprint: str) -> Stated | None:
    """Return the accuracy that torchvision states, or that of the card which `rmpsweep train` writes beside weights.

    Args:
        weights: the weights file.
        identity: the SHA-256 (hex) of this file; a card of other weights does not count.
        fingerprint: the fingerprint of the evaluated images; a card measured on other images does not count.
    Returns:
        None if no accuracy is stated.
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
    """Return warnings about the ANN's own accuracy.

    There are two checks. First, the accuracy contradicts the stated one if it differs by more than TOLERANCE and the
    95 % Wilson interval of the measurement excludes the stated value, so a few images raise no false alarm. Second, the
    accuracy is no better than chance if the interval reaches down to 1 / classes and its upper end is nearer to that
    than to 100 %. Labels in another order may put the accuracy far below chance. The number of classes is taken to be
    one more than the largest label or prediction.

    Args:
        predictions: the predictions of a sweep, of which the rows of the trial `ann` count.
        stated: the accuracy to compare with; None skips the first check.
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
