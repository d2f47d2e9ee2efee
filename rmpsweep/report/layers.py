"""What the page says about layers: the activity of the best trials, and the thresholds."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rmpsweep.stats import BestTrial
from rmpsweep.stats.firing import firing_rate
from rmpsweep.terms import INPUT

Row = dict[str, Any]


def layer_rows(best: Mapping[str, BestTrial], activity: pa.Table) -> list[Row]:
    """The activity of the best trials: firing rate (spikes per neuron per step) and synops per image.

    Returns:
        Rows with panel, reset, layer, time_steps, firing_rate and synops_per_image, layers in forward order.
    """
    rows = []
    for reset, trial in best.items():
        for row in activity.filter(pc.field("trial_id") == trial.trial_id).to_pylist():
            rows.append(
                {
                    "panel": f"{reset.capitalize()} reset · α = {trial.setting.alpha:g} · {trial.setting.threshold}",
                    "reset": reset,
                    "layer": row["layer"],
                    "time_steps": row["time_steps"],
                    "firing_rate": float(f"{firing_rate(row):.4g}"),
                    "synops_per_image": float(f"{row['synops'] / row['images']:.4g}"),
                }
            )
    return rows


def threshold_rows(calibration: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Smallest, median and largest threshold of the channels, one row for each rule and layer, in forward order."""
    values: dict[tuple[str, str], list[float]] = {}
    for row in calibration:
        if row["layer"] != INPUT:
            values.setdefault((row["layer"], row["rule"]), []).append(row["threshold"])
    return [
        {
            "layer": layer,
            "rule": rule,
            "channels": len(of),
            **{name: float(f"{f(of):.5g}") for name, f in (("low", min), ("middle", median), ("high", max))},
        }
        for (layer, rule), of in values.items()
    ]
