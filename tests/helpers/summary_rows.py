"""Makes rows of a summary table of a sweep that never ran."""

from dataclasses import asdict
from typing import Any

from rmpsweep.results import SUMMARY_SCHEMA
from rmpsweep.stats import wilson_interval
from rmpsweep.terms import Setting


def summary_row(trial_id: str, time_steps: int, correct: int, images: int = 100, **columns: Any) -> dict[str, Any]:
    """Make a complete row: the default setting, `correct` of `images` classified correctly, and `columns` as given."""
    low, high = wilson_interval(correct, images)
    row = {
        "trial_id": trial_id,
        "network": "vgg-small",
        "dataset": "digits/test",
        **asdict(Setting()),
        "time_steps": time_steps,
        "images": images,
        "images_planned": images,
        "correct": correct,
        "accuracy": correct / images,
        "ci_low": float(low),
        "ci_high": float(high),
        "top5": 1.0,
        "ann_accuracy": 0.9,
        "spikes_per_image": 1e4 * time_steps,
        "firing_rate": 0.1,
        "synops_per_image": 1e6 * time_steps,
    }
    assert row.keys() >= columns.keys(), "not a column of the summary"
    row |= columns
    return {name: row[name] for name in SUMMARY_SCHEMA.names}
