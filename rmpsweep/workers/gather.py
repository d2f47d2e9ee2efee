"""What the chunks of a unit gave, put together: rows of predictions and activity, the same however it was cut."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from rmpsweep.results import UNIT_SCHEMA, LayerActivity

Counts = dict[tuple[str, int], Tensor]
"""(layer, neurons) -> int64 [F, T], in the order of FIGURES."""


@dataclass(frozen=True)
class Part:
    """What some images gave under K trials: ids, labels [N]; logits [K, T, N, classes]; counts of each trial."""

    ids: np.ndarray
    labels: Tensor
    logits: Tensor
    counts: list[Counts]


def _joined(parts: Sequence[Part]) -> Part:
    """Of all their images, in order."""
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
    """Tables of UNIT_SCHEMA and activity of some trials over all images of their parts, in order."""
    whole = _joined(parts)
    activity = [
        LayerActivity(trial, layer, neurons, time_steps, tuple(map(tuple, counted.tolist())))
        for trial, counts in zip(trials, whole.counts, strict=True)
        for (layer, neurons), counted in counts.items()
    ]
    return [_prediction_rows(t, whole, time_steps, whole.logits[k]) for k, t in enumerate(trials)], activity


def _prediction_rows(trial: str, part: Part, time_steps: Sequence[int], logits: Tensor) -> pa.Table:
    """UNIT_SCHEMA rows of one trial. logits: [T, N, classes]; ties go to the lowest class."""
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
