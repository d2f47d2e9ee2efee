"""Measures how cost grows on resnet20: seconds against T and number of trials, and peak memory against T."""

import math
import statistics
from functools import partial

from benchmarks import measure
from benchmarks.contenders import OURS, make
from benchmarks.networks import CASES, prepare
from rmpsweep.engine import simulate_many

CASE = CASES["resnet20"]
TIME_STEPS = (32, 64, 128, 256)
TRIALS = (1, 2, 4, 8, 16)


def run(label: str, rounds: int) -> dict[str, object]:
    """Measure the contender `label`, one of ours.

    Returns:
        Median seconds by T and by number of trials, the least-squares slope of log seconds against the logarithm of
        each (1 is linear), and peak bytes at each T.
    """
    prepared = prepare(CASE)

    def simulate(trials: int, steps: int) -> None:
        settings = [
            {"thresholds": prepared.thresholds, "v_init": 0.5 * k / trials, "numerics": OURS[label]}
            for k in range(trials)
        ]
        simulate_many(prepared.net, prepared.images, settings, [steps], keep_state=False)

    points = dict.fromkeys([*((1, steps) for steps in TIME_STEPS), *((trials, TIME_STEPS[0]) for trials in TRIALS)])
    simulate(1, 4)  # the first call compiles
    times = measure.alternate({str(point): partial(simulate, *point) for point in points}, rounds)
    seconds = {point: statistics.median(times[str(point)]) for point in points}
    by_steps = {steps: seconds[1, steps] for steps in TIME_STEPS}
    by_trials = {trials: seconds[trials, TIME_STEPS[0]] for trials in TRIALS}
    form = make(label, CASE, prepared).forms[0]
    return {
        "contender": label,
        "num_images": CASE.num_images,
        "seconds_by_steps": by_steps,
        "slope_by_steps": _slope(by_steps),
        "seconds_by_trials": by_trials,
        "slope_by_trials": _slope(by_trials),
        "peak_bytes_by_steps": {
            steps: measure.peak_bytes(CASE.network, label, form, CASE.num_images, steps) for steps in TIME_STEPS
        },
    }


def _slope(seconds: dict[int, float]) -> float:
    logs = [(math.log(size), math.log(spent)) for size, spent in seconds.items()]
    return statistics.linear_regression(*zip(*logs, strict=True)).slope
