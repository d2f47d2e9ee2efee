"""Results and trainings -> MLflow. The only package that imports mlflow, and only once something is logged.

``connection`` reaches a server or database; ``sweeps`` logs a sweep and its trials; ``training`` logs a training while
it runs.
"""

from rmpsweep.tracking.connection import check_uri, without_password
from rmpsweep.tracking.sweeps import LoggedSweep, SweepRecord, log_sweep
from rmpsweep.tracking.training import TrainingRecord, log_training

__all__ = [
    "LoggedSweep",
    "SweepRecord",
    "TrainingRecord",
    "check_uri",
    "log_sweep",
    "log_training",
    "without_password",
]
