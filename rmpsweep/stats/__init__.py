"""Statistics over results. Pure: knows tables and arrays only.

Accuracies are fractions in [0, 1]; differences are in percentage points and say so. ``intervals``, ``paired`` and
``unpaired`` compare; ``latency``, ``pareto`` and ``best`` choose; ``energy`` estimates; ``common`` finds the images
that trials share; ``settings`` names what makes a trial.
"""

from rmpsweep.stats.best import BestTrial, best_trials
from rmpsweep.stats.common import Cell, correct_by_cell, on_common_images
from rmpsweep.stats.energy import CONVENTIONS, Convention, Energy, energies, energy_per_image
from rmpsweep.stats.intervals import bootstrap_difference, paired_interval, wilson_interval
from rmpsweep.stats.latency import TimeStepsToReach, time_steps_to_reach, time_steps_within
from rmpsweep.stats.paired import ComparisonWithBest, PairedComparison, compare_paired, compare_with_best, holm, mcnemar
from rmpsweep.stats.pareto import pareto_front, pareto_rows
from rmpsweep.stats.settings import SETTINGS, varying_settings
from rmpsweep.stats.unpaired import fisher, newcombe_interval
from rmpsweep.terms import RESETS

__all__ = [
    "CONVENTIONS",
    "RESETS",
    "SETTINGS",
    "BestTrial",
    "Cell",
    "ComparisonWithBest",
    "Convention",
    "Energy",
    "PairedComparison",
    "TimeStepsToReach",
    "best_trials",
    "bootstrap_difference",
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
