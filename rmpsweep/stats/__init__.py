"""Statistics over results. Pure: knows tables and arrays only.

Accuracies are fractions in [0, 1]; differences are in percentage points and say so. ``intervals`` and ``paired``
compare; ``latency``, ``pareto`` and ``best`` choose; ``settings`` names what makes a trial.
"""

from rmpsweep.stats.best import BestTrial, best_trials
from rmpsweep.stats.intervals import paired_interval, wilson_interval
from rmpsweep.stats.latency import time_steps_within
from rmpsweep.stats.paired import PairedComparison, compare_paired, holm, mcnemar
from rmpsweep.stats.pareto import pareto_front
from rmpsweep.stats.settings import RESETS, SETTINGS, varying_settings

__all__ = [
    "RESETS",
    "SETTINGS",
    "BestTrial",
    "PairedComparison",
    "best_trials",
    "compare_paired",
    "holm",
    "mcnemar",
    "paired_interval",
    "pareto_front",
    "time_steps_within",
    "varying_settings",
    "wilson_interval",
]
