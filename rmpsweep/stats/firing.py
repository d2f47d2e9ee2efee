"""Firing rates of layers, and layers that no longer carry what they should because they are saturated or silent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rmpsweep.terms import INPUT

SATURATED_SHARE = 0.05


def firing_rate(row: Mapping[str, Any]) -> float:
    """The spikes per neuron and step in a row of the activity table."""
    return float(row["spikes"] / (row["neurons"] * row["images"] * row["time_steps"]))


@dataclass(frozen=True)
class FlaggedTrial:
    """A trial with saturated or silent layers at its largest T."""

    trial_id: str
    reset: str
    threshold: str
    alpha: float
    time_steps: int
    """The largest T that the trial reports."""
    saturated: tuple[tuple[str, float], ...]
    """The saturated layers, each with its share of saturated neurons.

    A neuron is saturated if it spikes at `terms.SATURATED_RATE` or more of the steps: whatever its activation needs
    beyond one spike per step is lost. A layer is saturated if at least SATURATED_SHARE of its neurons are, on average
    over the images.
    """
    silent: tuple[str, ...]
    """The layers that did not emit a single spike."""

    def __str__(self) -> str:
        parts = []
        if self.saturated:
            shares = [f"{layer} ({share:.0%} of neurons)" for layer, share in self.saturated]
            parts.append("saturated " + ", ".join(_first(shares, "layers")))
        if self.silent:
            parts.append("silent " + ", ".join(_first(self.silent, "layers")))
        name = f"{self.reset} reset, α {self.alpha:g}, {self.threshold}"
        return f"{name} (trial {self.trial_id}) at T = {self.time_steps}: {'; '.join(parts)}"


def flag_layers(summary: pa.Table, activity: pa.Table) -> list[FlaggedTrial]:
    """The trials of a summary table that have saturated or silent layers at their largest T, in the table's order.

    Args:
        activity: a table of one row per (trial, layer, T).
    """
    layers: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in activity.to_pylist():
        if row["layer"] != INPUT:
            layers.setdefault((row["trial_id"], row["time_steps"]), []).append(row)
    last = {row["trial_id"]: row for row in sorted(summary.to_pylist(), key=lambda row: row["time_steps"])}
    flagged = []
    for trial_id in dict.fromkeys(summary["trial_id"].to_pylist()):
        trial = last[trial_id]
        rows = layers.get((trial_id, trial["time_steps"]), [])
        shares = [(row["layer"], row["saturated"] / (row["neurons"] * row["images"])) for row in rows]
        saturated = tuple((layer, share) for layer, share in shares if share >= SATURATED_SHARE)
        silent = tuple(row["layer"] for row in rows if row["spikes"] == 0)
        if saturated or silent:
            settings = {name: trial[name] for name in ("reset", "threshold", "alpha", "time_steps")}
            flagged.append(FlaggedTrial(trial_id=trial_id, saturated=saturated, silent=silent, **settings))
    return flagged


def shortened(flagged: Sequence[FlaggedTrial]) -> list[str]:
    """The first five flagged trials as a text each, and how many more there are.

    A text names at most five saturated and five silent layers, and how many more there are of each.
    """
    return _first([str(trial) for trial in flagged], "trials")


def _first(texts: Sequence[str], what: str, limit: int = 5) -> list[str]:
    more = [f"and {len(texts) - limit} more {what}"] if len(texts) > limit else []
    return [*texts[:limit], *more]
