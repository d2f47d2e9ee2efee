"""Estimates of the energy of an inference, from counted operations.

There are two conventions, and both price arithmetic alone. Neither includes memory, moving data, updates of membrane
potentials, pooling or idle hardware, and no hardware was measured. The figures serve to compare, not to predict.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from rmpsweep.terms import ANN, INPUT


@dataclass(frozen=True, kw_only=True, slots=True)
class Convention:
    """The prices that a convention puts on operations."""

    label: str
    dense_joule: float
    """The energy of one multiply-accumulate (MAC) of the ANN, or of an analog input."""
    spike_joule: float
    """The energy of one synaptic operation caused by a spike."""
    source: str


CONVENTIONS = {
    "mac_ac": Convention(
        label="estimate: 4.6 pJ per MAC, 0.9 pJ per AC",
        dense_joule=4.6e-12,
        spike_joule=0.9e-12,
        source="Horowitz, ISSCC 2014: 32-bit floating point in 45 nm, multiplication 3.7 pJ and addition 0.9 pJ",
    ),
    "flop_sop": Convention(
        label="estimate: 12.5 pJ per FLOP (one per MAC), 77 fJ per SOP",
        dense_joule=12.5e-12,
        spike_joule=77e-15,
        source="as in Local Threshold Balancing, CVPR 2025, appendix F; 77 fJ: Qiao et al. 2015 (ROLLS)",
    ),
}
"""Name of a convention, as used in tables -> the convention. In "flop_sop", a MAC counts as one FLOP: this reproduces
the figures of LTB (ResNet-34 with 3.6 GMAC at 22 images per joule), and two FLOPs per MAC would favour the SNN."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Energy:
    """Estimated joules per image."""

    snn_joule: float
    ann_joule: float | None
    """None if the operations of the ANN were not recorded."""


def energy_per_image(
    layers: Iterable[Mapping[str, Any]], ann_layers: Iterable[Mapping[str, Any]], encoding: str, convention: Convention
) -> Energy:
    """Estimate the energy of one inference of a trial up to a T, and of the ANN.

    Every synaptic operation of a spiking layer (spikes x fan-out) is one addition, also called AC or SOP. The cost of
    the input depends on its encoding:

    - "poisson": the spikes of the input are +1 or -1 and cost additions, as the spikes of any layer do.
    - "constant": the input is analog and causes the same current at every step, so its dense MACs count once per image.
      If the operations of the ANN were not recorded, the operations of nonzero pixels stand in for them.

    The ANN costs its dense MACs, including those on zeros, but without those on padding beyond the border.

    Args:
        layers: rows of the activity table of one trial at one T.
        ann_layers: rows of trial "ann" in that table; none in results made before these were recorded.
        encoding: the input encoding of the trial.
    """
    dense = {row["layer"]: row["synops"] / row["images"] for row in ann_layers}
    macs = additions = 0.0
    for row in layers:
        operations = row["synops"] / row["images"]
        if row["layer"] != INPUT or encoding == "poisson":
            additions += operations
        else:
            macs += dense.get(INPUT, operations / row["time_steps"])
    return Energy(
        snn_joule=macs * convention.dense_joule + additions * convention.spike_joule,
        ann_joule=sum(dense.values()) * convention.dense_joule if dense else None,
    )


def energies(summary: pa.Table, activity: pa.Table, convention: Convention) -> dict[tuple[str, int], Energy]:
    """(trial_id, T) -> `energy_per_image`, for every row of a summary table.

    Args:
        activity: a table of one row per (trial, layer, T).
    """
    layers: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in activity.to_pylist():
        layers.setdefault((row["trial_id"], row["time_steps"]), []).append(row)
    ann_layers = layers.get((ANN, 0), [])
    columns = (summary[name].to_pylist() for name in ("trial_id", "time_steps", "encoding"))
    return {
        (trial_id, time_steps): energy_per_image(layers[trial_id, time_steps], ann_layers, encoding, convention)
        for trial_id, time_steps, encoding in zip(*columns, strict=True)
    }
