"""The table of one network: contenders are timed in alternation, and the memory of each in a child process."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import measure
from benchmarks.contenders import ANN, MULTI, OURS, SINGLE, Form, make
from benchmarks.networks import Case, firing_rate, prepare

COLUMNS = "{:18} {:>20} {:>9} {:>13} {:>10} {:>15} {:>9}"
HEADER = COLUMNS.format(
    "contender", "batch, format", "N x T", "image-steps/s", "to ANN x T", "to SpikingJelly", "peak MiB"
)
MIB = 2**20


@dataclass(frozen=True)
class Timed:
    """The measurements of one network."""

    figures: dict[str, Any]
    """The figures for the JSON file."""
    best_peer: tuple[str, Form]
    """SpikingJelly's faster step mode, and its form."""


def time_case(case: Case, labels: Sequence[str], rounds: int) -> Timed:
    """Measure a network and print a table. Ratios are medians over the rounds; above 1, the contender is faster."""
    prepared = prepare(case)
    images = prepared.images
    weights = "trained" if case.weights else "random"
    print(f"\n{case.network}, 3x{case.side}x{case.side}, {weights} weights", flush=True)
    made = {label: make(label, case, prepared) for label in labels}
    forms = {label: measure.probe(made[label], images) for label in labels}
    steps = {label: measure.enough_steps(made[label], images, forms[label], case.steps) for label in labels}
    longest = max(OURS.keys() & steps.keys(), key=steps.__getitem__)
    rate = firing_rate(prepared, steps[longest], OURS[longest])
    print(f"{rate:.4f} spikes per neuron and step over T = {steps[longest]}: the cost of ours depends on it")
    print(HEADER, flush=True)
    times = measure.alternate(
        {label: partial(made[label].run, images, steps[label], forms[label]) for label in labels}, rounds
    )
    cost = {label: [spent / (len(images) * steps[label]) for spent in times[label]] for label in labels}
    best = min((SINGLE, MULTI), key=lambda label: statistics.median(cost[label]))
    rows = []
    for label in labels:
        peak = measure.peak_bytes(case.network, label, forms[label], len(images), steps[label])
        row = {
            "contender": label,
            "form": "all at once" if label in OURS else str(forms[label]),
            "num_images": len(images),
            "steps": steps[label],
            "image_steps_per_s": 1 / statistics.median(cost[label]),
            "to_ann": measure.median_ratio(cost[ANN], cost[label]),
            "to_spikingjelly": measure.median_ratio(cost[best], cost[label]),
            "peak_bytes": peak,
            "seconds": times[label],
        }
        rows.append(row)
        work = f"{len(images)} x {steps[label]}"
        speeds = f"{row['image_steps_per_s']:,.0f}", f"{row['to_ann']:.2f}", f"{row['to_spikingjelly']:.2f}"
        print(COLUMNS.format(label, row["form"], work, *speeds, f"{peak / MIB:,.0f}"), flush=True)
    figures = {
        "network": case.network,
        "side": case.side,
        "weights": weights,
        "firing_rate": rate,
        "firing_rate_steps": steps[longest],
        "rows": rows,
    }
    return Timed(figures, (best, forms[best]))
