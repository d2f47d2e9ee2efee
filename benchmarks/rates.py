"""Measures what firing costs: image-steps per second of vgg16 against the mean firing rate, which α determines."""

import statistics
from functools import partial
from typing import Any

from benchmarks import measure
from benchmarks.networks import CASES, prepare
from rmpsweep.engine import simulate_many

CASE = CASES["vgg16"]
ALPHAS = (2.0, 1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125)
STEPS = 32


def run(numerics: str, rounds: int) -> list[dict[str, float]]:
    """For each α: the mean firing rate (spikes per neuron per step) and the median of image-steps per second."""
    prepared = prepare(CASE)
    neurons = sum(prepared.net.fan_out[layer].numel() for layer in prepared.net.layers)

    def simulate(alpha: float) -> Any:
        setting = {"thresholds": prepared.thresholds, "alpha": alpha, "alpha_scope": "network", "numerics": numerics}
        return simulate_many(prepared.net, prepared.images, [setting], [STEPS], keep_state=False)[0]

    image_steps = len(prepared.images) * STEPS
    rates = {alpha: sum(int(n) for n in simulate(alpha).spike_counts.values()) for alpha in ALPHAS}
    times = measure.alternate({str(alpha): partial(simulate, alpha) for alpha in ALPHAS}, rounds)
    return [
        {
            "alpha": alpha,
            "firing_rate": rates[alpha] / neurons / image_steps,
            "image_steps_per_s": image_steps / statistics.median(times[str(alpha)]),
        }
        for alpha in ALPHAS
    ]
