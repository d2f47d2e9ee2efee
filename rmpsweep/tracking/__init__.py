"""Logs results and trainings to MLflow. Only this package imports mlflow, and only when something is logged.

``connection`` connects to a server or database. ``content`` determines what the runs of a sweep hold, and ``sweeps``
logs them. ``training`` logs a training while it runs.
"""

from rmpsweep.tracking.connection import check_uri, get_ready, without_password
from rmpsweep.tracking.content import SweepRecord
from rmpsweep.tracking.sweeps import LoggedSweep, log_sweep
from rmpsweep.tracking.training import TrainingRecord, log_training

__all__ = [
    "LoggedSweep",
    "SweepRecord",
    "TrainingRecord",
    "check_uri",
    "get_ready",
    "log_sweep",
    "log_training",
    "without_password",
]
