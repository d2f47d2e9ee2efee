"""Statistics over results: pure functions of tables and arrays.

Accuracies are fractions in [0, 1]. A difference is in percentage points if its name has "points", else a fraction too.

``intervals``, ``paired`` and ``unpaired`` compare accuracies, and ``comparison`` compares the trials of several sweeps.
``sequential`` compares trials while images come in. ``latency``, ``pareto`` and ``best`` choose; ``energy`` estimates;
``firing`` flags layers. ``common`` finds the images that trials share, and ``settings`` the settings in which they
differ.
"""

from rmpsweep.stats.best import BestTrial, best_trials
from rmpsweep.stats.common import Cell, correct_by_cell, on_common_images
from rmpsweep.stats.energy import CONVENTIONS, Convention, Energy, energies, energy_per_image
from rmpsweep.stats.intervals import paired_interval, wilson_interval
from rmpsweep.stats.latency import TimeStepsToReach, time_steps_to_reach, time_steps_within
from rmpsweep.stats.paired import ComparisonWithBest, PairedComparison, compare_paired, compare_with_best, holm, mcnemar
from rmpsweep.stats.pareto import pareto_front, pareto_rows
from rmpsweep.stats.settings import varying_settings
from rmpsweep.stats.unpaired import fisher, newcombe_interval

__all__ = [
    "CONVENTIONS",
    "BestTrial",
    "Cell",
    "ComparisonWithBest",
    "Convention",
    "Energy",
    "PairedComparison",
    "TimeStepsToReach",
    "best_trials",
    "compare_paired",
    "compare_with_best",
    "correct_by_cell",
    "energies",
    "energy_per_image",
    "fisher",
    "holm",
    "mcnemar",
    "newcombe_interval",
    "on_common_images",
    "paired_interval",
    "pareto_front",
    "pareto_rows",
    "time_steps_to_reach",
    "time_steps_within",
    "varying_settings",
    "wilson_interval",
]
