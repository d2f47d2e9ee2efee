"""The best trial of each reset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pyarrow as pa

from rmpsweep.stats.latency import is_within, time_steps_within
from rmpsweep.terms import RESETS, SETTINGS, Setting


@dataclass(frozen=True, kw_only=True, slots=True)
class BestTrial:
    """The best trial of one reset: its setting and its results at the largest T."""

    trial_id: str
    setting: Setting
    """The setting as the summary has it, where `input_scale` is always a number."""
    time_steps: int
    """The largest T that the trials of this reset report."""
    images: int
    time_steps_within_1pt: int | None
    """The smallest reported T with an accuracy at most 1 percentage point below the ANN's; None if there is none."""
    final_accuracy: float
    ci_low: float
    ci_high: float
    ann_accuracy: float
    firing_rate: float
    synops_per_image: float
    synops_within_1pt: float | None
    """Synops per image up to `time_steps_within_1pt`; None without it."""


def best_trials(summary: pa.Table) -> dict[str, BestTrial]:
    """Reset -> its best trial, with "soft" first; a reset without rows is left out.

    Only trials that report the largest T of their reset take part, and of those only the trials with the most images.
    A trial that was stopped early, or has not got as far yet, may be better by chance.

    1. Trials that end (at the largest T) at most 1 percentage point below the ANN come before those that do not.
    2. Of these, the best trial is the one that came within 1 point at the smallest T. Ties are broken by the higher
       mean accuracy over the reported T, then by trial_id.
    3. If no trial ends within 1 point, the one of the highest accuracy at the largest T is best, with ties broken
       likewise.

    Args:
        summary: a table of one row per (trial, T).
    """
    best: dict[str, BestTrial] = {}
    for reset in RESETS:
        rows = [row for row in summary.to_pylist() if row["reset"] == reset]
        trials: dict[str, list[dict[str, Any]]] = {}
        for row in sorted(rows, key=lambda row: row["time_steps"]):
            trials.setdefault(row["trial_id"], []).append(row)
        largest = max((row["time_steps"] for row in rows), default=0)
        ranked = [trial for trial in trials.values() if trial[-1]["time_steps"] == largest]
        most = max((trial[-1]["images"] for trial in ranked), default=0)
        ranked = [trial for trial in ranked if trial[-1]["images"] == most]
        if ranked:
            best[reset] = _best_trial(min(ranked, key=_rank))
    return best


def _rank(trial: Sequence[Mapping[str, Any]]) -> tuple[bool, float, float, str]:
    """The key by which trials (the rows of each in ascending T) sort best first."""
    last, first = trial[-1], _first_within(trial)
    ties = (-fmean(row["accuracy"] for row in trial), last["trial_id"])
    if first is not None and is_within(last["correct"], last["images"], last["ann_accuracy"], points=1.0):
        return False, first, *ties
    return True, -last["accuracy"], *ties


def _first_within(trial: Sequence[Mapping[str, Any]]) -> int | None:
    counts = {row["time_steps"]: (row["correct"], row["images"]) for row in trial}
    return time_steps_within(counts, trial[-1]["ann_accuracy"])


def _best_trial(trial: Sequence[Mapping[str, Any]]) -> BestTrial:
    last = trial[-1]
    within = _first_within(trial)
    synops = {row["time_steps"]: row["synops_per_image"] for row in trial}
    return BestTrial(
        trial_id=last["trial_id"],
        setting=Setting(**{name: last[name] for name in SETTINGS}),
        time_steps=last["time_steps"],
        images=last["images"],
        time_steps_within_1pt=within,
        final_accuracy=last["accuracy"],
        ci_low=last["ci_low"],
        ci_high=last["ci_high"],
        ann_accuracy=last["ann_accuracy"],
        firing_rate=last["firing_rate"],
        synops_per_image=last["synops_per_image"],
        synops_within_1pt=None if within is None else synops[within],
    )
