"""`launch --submit`, which runs a launch as a Ray Job, and cancel, which stops a launch wherever it runs."""

import hashlib
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rmpsweep.cli.options import JsonOption, LaunchOptions, ResultsOption, TargetArgument, results_directory
from rmpsweep.errors import SweepError

if TYPE_CHECKING:
    from rmpsweep.cli.display import Display
    from rmpsweep.sweep.schema import Sweep

MOST_BYTES = 100 << 20
"""Weights up to this size travel with the job. Larger ones must lie at a path that is the same on every node."""


def submit_launch(
    sweep: "Sweep", results: str | None, address: str | None, options: LaunchOptions, display: "Display"
) -> None:
    """Send the launch as a job to the cluster at `address`. Until the job has ended, the same command finds it again.

    Raises:
        SweepError: there is no dashboard address, the results or a threshold file lie at a path that the job may not
            find, or the tracking URI holds a password. ClusterError: the cluster takes no jobs.
    """
    from rmpsweep.sweep.file import dump_sweep, without_secret
    from rmpsweep.workers.pools.submission import submit

    if address is None or not address.startswith(("http://", "https://")):
        raise SweepError(f"--submit: got --address {address}, expected the dashboard's, such as http://127.0.0.1:8265")
    if results is None or not ("://" in results or Path(results).is_absolute()):
        raise SweepError(
            f"--submit: got --results {results}, expected a place that every node reaches: an absolute path, s3:// or gs://"
        )
    if without_secret(sweep) != sweep:
        raise SweepError(
            "--submit: mlflow.tracking_uri holds a password, which a job would show; leave it out, and set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD where the cluster starts"
        )
    weights = sweep.network.weights
    if weights is not None and weights.is_file() and weights.stat().st_size <= MOST_BYTES:
        network = sweep.network.model_copy(update={"weights": Path(weights.name)})
        sweep = sweep.model_copy(update={"network": network})
    else:
        weights = None
    for path in {setting.threshold_file for setting in sweep.settings()}:
        if path is not None and not path.is_absolute():
            raise SweepError(f"--submit: threshold file {path}: expected an absolute path, the same on every node")
    text = dump_sweep(sweep)
    command = ["rmpsweep", "launch", "sweep.yaml", "--results", results, "--address", "auto", *options.to_argv()]
    digest = hashlib.sha256("\0".join([text, *command]).encode()).hexdigest()[:12]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sweep.yaml").write_text(text, encoding="utf-8")
        if weights is not None:
            shutil.copy(weights, folder)
        job = submit(address, command, f"rmpsweep-{sweep.name}-{digest}", Path(folder))
    display.line(f"{'sent' if job.is_new else 'is there already'}: {job.submission_id}, {job.status}")
    display.line(f"follow it with: ray job logs --address {address} --follow {job.submission_id}")
    display.line(f"stop it with:   rmpsweep cancel {results}")
    display.document(asdict(job))


def cancel(target: TargetArgument, results: ResultsOption = None, json_: JsonOption = False) -> None:
    """Ask the launch that is running on a results directory to stop. Units in flight are finished first.

    Usage: rmpsweep cancel quickstart
    """
    from rmpsweep.cli.display import Display
    from rmpsweep.results import Layout, PlanFile, write_text

    display = Display(json_)
    layout = Layout(results_directory(target, results))
    PlanFile.read(layout)
    # The file may be old: a unit that is computed in the driver's own process keeps the driver from writing it.
    running = layout.progress.is_file()
    if running:
        write_text(layout.cancel, "")
        display.line(f"{layout.root}: asked to stop; units in flight are finished first, the same launch continues")
    else:
        display.line(f"{layout.root}: no launch runs here")
    display.document({"cancelled": running})
