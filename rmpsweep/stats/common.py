"""The images that trials classified correctly, and the images that trials have in common."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Cell = tuple[NDArray[np.int64], NDArray[np.bool_]]
"""The ids of images, ascending [N], and whether each image was classified correctly [N]."""


def correct_by_cell(predictions: pa.Table) -> dict[tuple[str, int], Cell]:
    """(trial_id, T) -> image ids and correctness; the key of the ANN is ("ann", 0).

    Args:
        predictions: a table of trial_id, time_steps, image_id and correct, sorted by the first three, as in results.
    """
    if not predictions.num_rows:
        return {}
    trials = predictions["trial_id"].combine_chunks().dictionary_encode()
    names, trial = trials.dictionary.to_pylist(), trials.indices.to_numpy()
    time_steps, image_id, correct = (predictions[name].to_numpy() for name in ("time_steps", "image_id", "correct"))
    starts = np.flatnonzero((np.diff(trial) != 0) | (np.diff(time_steps) != 0)) + 1
    firsts = [0, *starts.tolist()]
    cells = zip(np.split(image_id, starts), np.split(correct, starts), strict=True)
    return {(names[trial[i]], int(time_steps[i])): cell for i, cell in zip(firsts, cells, strict=True)}


def on_common_images(cells: Sequence[Cell]) -> Cell:
    """The ids [N] of the images that all cells hold, and the correctness of each cell on them, [len(cells), N].

    Raises:
        ValueError: no cell is given.
    """
    if not cells:
        raise ValueError("cells: got none, expected at least one")
    common = cells[0][0]
    for ids, _ in cells[1:]:
        if not np.array_equal(ids, common):
            common = np.intersect1d(common, ids, assume_unique=True)
    rows = [correct if len(ids) == len(common) else correct[np.isin(ids, common)] for ids, correct in cells]
    return common, np.stack(rows)
