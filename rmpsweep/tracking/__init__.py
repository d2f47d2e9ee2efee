"""Results and trainings -> MLflow. The only package that imports mlflow, and only once something is logged.

``connection`` reaches a server or database; ``content`` says what the runs of a sweep hold, ``sweeps`` logs them;
``training`` logs a training while it runs.
"""

from rmpsweep.tracking.connection import check_uri, without_password
from rmpsweep.tracking.content import SweepRecord
from rmpsweep.tracking.sweeps import LoggedSweep, log_sweep
from rmpsweep.tracking.training import TrainingRecord, log_training

__all__ = ["LoggedSweep", "SweepRecord", "TrainingRecord", "check_uri", "log_sweep", "log_training", "without_password"]
