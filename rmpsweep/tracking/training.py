"""Logs a training to one MLflow run, epoch by epoch. Logging again adds only epochs that are not logged yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rmpsweep.tracking.connection import connected, experiment_id

_TRAINING_ID, _ARTIFACTS = "rmpsweep.training_id", "rmpsweep.artifacts"
_EPOCH = "epoch"


@dataclass(frozen=True)
class TrainingRecord:
    """What is logged of a training."""

    training_id: str
    """The same for trainings that give the same weights; a resumed training continues its run."""
    experiment: str
    params: Mapping[str, str]
    """The recipe."""
    history: Sequence[Mapping[str, float]]
    """For each finished epoch: loss, train_accuracy, test_accuracy, learning_rate and seconds."""
    artifacts: tuple[Path, ...] = ()
    """The weights and their card once the training is complete; empty before that."""


def log_training(tracking_uri: str, record: TrainingRecord) -> str:
    """Log the epochs of a training that its run lacks, with step = epoch.

    If the record has artifacts, which means that the training is complete, they are logged once, and the run ends.

    Returns:
        The id of the run.
    Raises:
        InputError: the URI is malformed.
        TrackingError: the server or database cannot be reached or refuses, or an artifact cannot be read.
    """
    remedy = "What has been trained is kept; the same command continues, and does not log with --mlflow none"
    with connected(tracking_uri, record.artifacts, remedy) as (client, location):
        from mlflow.entities import Metric, Param

        experiment = experiment_id(client, record.experiment, location)
        found = client.search_runs([experiment], f"tags.`{_TRAINING_ID}` = '{record.training_id}'")
        tags = {_TRAINING_ID: record.training_id}
        run = found[0] if found else client.create_run(experiment, tags=tags, run_name=record.experiment)
        logged = int(run.data.metrics.get(_EPOCH, 0))
        began_ms = run.info.start_time
        metrics, elapsed = [], 0.0
        for epoch, values in enumerate(record.history, start=1):
            elapsed += values["seconds"]
            if epoch > logged:
                at = began_ms + round(1000 * elapsed)
                metrics += [Metric(key, value, at, epoch) for key, value in {**values, _EPOCH: float(epoch)}.items()]
        params = [Param(key, value) for key, value in record.params.items() if key not in run.data.params]
        client.log_batch(run.info.run_id, metrics=metrics, params=params, synchronous=True)
        if record.artifacts and _ARTIFACTS not in run.data.tags:
            for path in record.artifacts:
                client.log_artifact(run.info.run_id, str(path))
            client.set_tag(run.info.run_id, _ARTIFACTS, " ".join(path.name for path in record.artifacts))
            client.set_terminated(run.info.run_id, "FINISHED", end_time=began_ms + round(1000 * elapsed))
        return str(run.info.run_id)
