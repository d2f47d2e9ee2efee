"""rmpsweep train as a process: killed and started again, and logged to MLflow while it runs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.helpers.commands import rmpsweep, run_here

CHANGES = ["--set", "epochs=3", "--set", "weight_standardization=true", "--set", "precision=auto"]


def command(out: Path) -> list[str]:
    return ["train", "digits-vgg-small", "--out", str(out), *CHANGES]


@pytest.mark.slow
@pytest.mark.usefixtures("environment")
def test_killed_training_ends_with_the_weights_and_the_log_of_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed = rmpsweep(*command(tmp_path / "a" / "w.safetensors"), "--mlflow", "none")
    out = tmp_path / "b" / "w.safetensors"
    with subprocess.Popen(
        [sys.executable, "-m", "rmpsweep", *command(out)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 1/3"):
                process.send_signal(signal.SIGKILL)
    assert not out.exists()
    code, shown, _ = run_here(command(out))
    assert (code, shown.splitlines()[0].startswith("epoch 2/3")) == (0, True)
    resumed = rmpsweep(*command(out))
    assert resumed["weights_sha256"] == undisturbed["weights_sha256"]
    losses = [[epoch["loss"] for epoch in card["history"]] for card in (undisturbed, resumed)]
    assert losses[0] == losses[1]

    client = MlflowClient(f"sqlite:///{out.parent}/mlflow.db")
    (experiment,) = (e for e in client.search_experiments() if e.name == "training digits-vgg-small")
    (run,) = client.search_runs([experiment.experiment_id])
    logged = client.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in logged] == list(enumerate(losses[0], start=1))
    assert (run.info.status, run.data.params["epochs"]) == ("FINISHED", "3")
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"w.safetensors", "w.safetensors.json"}


@pytest.mark.usefixtures("environment")
def test_without_mlflow_nothing_is_logged(tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    rmpsweep(*command(out), "--set", "epochs=2", "--mlflow", "none")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["w.safetensors", "w.safetensors.json"]


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "epochs=0"], "epochs: got 0, expected 1 or more"),
        (["--set", "precision=float16"], "precision"),
        (["--set", "split=train[9000:]"], "digits/train has 1297 images"),
        (["--mlflow", "nonsense"], "mlflow tracking URI: got 'nonsense'"),
    ],
)
def test_what_cannot_be_trained_is_refused_at_once(options: list[str], message: str, tmp_path: Path) -> None:
    code, _, errors = run_here([*command(tmp_path / "w.safetensors"), *options])
    assert (code, message in errors) == (2, True), errors
    assert not list(tmp_path.glob("w*"))
