"""Put the results of a unit's chunks together: rows of predictions, and activity.

The result does not depend on how the unit was cut into chunks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from rmpsweep.results import UNIT_SCHEMA, LayerActivity

Counts = dict[tuple[str, int], Tensor]
"""(layer, number of its neurons) -> counts, int64 [F, T], in the order of FIGURES."""


@dataclass(frozen=True)
class Part:
    """The results of some images under K trials."""

    ids: np.ndarray
    """The image ids, int64 [N]."""
    labels: Tensor
    """The labels, int64 [N]."""
    logits: Tensor
    """The logits, [K, T, N, classes]."""
    counts: list[Counts]
    """The counts of each trial, added over the images."""


def _joined(parts: Sequence[Part]) -> Part:
    """Join parts into one of all their images, in order."""
    counts = [
        {key: torch.stack([each[key] for each in of_trial]).sum(0) for key in of_trial[0]}
        for of_trial in zip(*(part.counts for part in parts), strict=True)
    ]
    return Part(
        np.concatenate([part.ids for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat([part.logits for part in parts], 2),
        counts,
    )


def gather(
    trials: Sequence[str], time_steps: tuple[int, ...], parts: Sequence[Part]
) -> tuple[list[pa.Table], list[LayerActivity]]:
    """Make the predictions and the activity of some trials over all images of the parts.

    Args:
        trials: the K trials of the parts, in the order of their logits.
    Returns:
        A table of UNIT_SCHEMA for each trial, with images in the order of the parts; and the activity of each layer
        under each trial.
    """
    whole = _joined(parts)
    activity = [
        LayerActivity(trial, layer, neurons, time_steps, tuple(map(tuple, counted.tolist())))
        for trial, counts in zip(trials, whole.counts, strict=True)
        for (layer, neurons), counted in counts.items()
    ]
    return [_prediction_rows(t, whole, time_steps, whole.logits[k]) for k, t in enumerate(trials)], activity


def _prediction_rows(trial: str, part: Part, time_steps: Sequence[int], logits: Tensor) -> pa.Table:
    """Return rows of UNIT_SCHEMA for one trial from its logits [T, N, classes]. Ties go to the lowest class."""
    ids, labels = part.ids, part.labels
    own = logits.gather(2, labels.expand(len(logits), -1)[..., None])
    classes = torch.arange(logits.shape[2])
    ahead = (logits > own) | ((logits == own) & (classes < labels[:, None]))
    num = len(ids)
    columns = [
        pa.array([trial] * (num * len(time_steps))),
        np.tile(ids, len(time_steps)),
        np.tile(labels.numpy(), len(time_steps)),
        np.repeat(np.array(time_steps), num),
        logits.argmax(2).flatten().numpy(),
        ahead.sum(2).flatten().numpy(),
    ]
    arrays = [pa.array(column).cast(field.type) for column, field in zip(columns, UNIT_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=UNIT_SCHEMA)
