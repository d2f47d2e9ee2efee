"""The checks of this machine: its packages and devices, where it can write, and everything that a sweep names."""

import shutil
import socket
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from rmpsweep import environment
from rmpsweep.checks.doctor.finding import Finding, look
from rmpsweep.checks.doctor.probe import nearest, remove, write
from rmpsweep.data import cache_dir
from rmpsweep.errors import RmpsweepError
from rmpsweep.pipeline.look import look as look_at
from rmpsweep.pipeline.prepare import Prepared, prepare, try_network
from rmpsweep.pipeline.publish import tracking_uri
from rmpsweep.pipeline.weights import find_weights, with_transform
from rmpsweep.results import Layout, check_directory, check_space
from rmpsweep.storage import Location, ObjectPath
from rmpsweep.sweep.schema import Sweep
from rmpsweep.tracking import check_uri, without_password
from rmpsweep.tracking.connection import connected

FREE_BYTES = 1 << 30
CONNECT_S = 10.0


@dataclass(frozen=True)
class Here:
    """The results of the checks of this machine."""

    findings: list[Finding]
    prepared: Prepared | None
    """The prepared sweep; None if there is no sweep, or it cannot be prepared."""


def examine_here(results: Location, mlflow_uri: str | None, sweep: Sweep | None) -> Here:
    """Run the checks of this machine. No check raises."""
    findings = [
        look("packages", _packages, "pip install rmpsweep"),
        look("device", _device, ""),
        look("results", partial(_results, results, sweep), "name another place with --results"),
        look("cache", partial(_writable, cache_dir()), "set RMPSWEEP_CACHE to a directory that can be written"),
    ]
    prepared = None
    if sweep is not None:
        inputs = [
            look("data", partial(_data, sweep), "name the data's folder in data.path"),
            look("weights", partial(_weights, sweep), "name the weights file in network.weights"),
        ]
        findings += inputs
        if all(finding.ok for finding in inputs):
            try:
                prepared = prepare(sweep, results)
            except RmpsweepError as error:
                if all(finding.detail != str(error) for finding in findings):
                    findings.append(Finding("plan", False, str(error)))
    if prepared is not None:
        findings.append(look("network", partial(_network, prepared), "name the network these weights are of"))
        findings.append(look("space", partial(_space, prepared), "name a larger place with --results"))
    findings += _tracking(mlflow_uri, sweep, prepared)
    return Here(findings, prepared)


def _packages() -> str:
    return ", ".join(f"{name} {version}" for name, version in environment.versions().items())


def _device() -> str:
    import psutil
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    memory = psutil.virtual_memory().total / 2**30
    return f"{', '.join(gpus) or 'no GPU'}; {environment.hardware()}; {memory:.0f} GiB memory"


def _results(results: Location, sweep: Sweep | None) -> str:
    if sweep is not None:
        check_directory(Layout(results), sweep)
    return _writable(results)


def _writable(directory: Location) -> str:
    if isinstance(directory, ObjectPath):
        directory.check_bucket()
        remove(directory, write(directory))
        return f"{directory} can be written"
    existing = nearest(directory)
    remove(existing, write(existing))
    free = shutil.disk_usage(existing).free
    if free < FREE_BYTES:
        raise OSError(f"{existing} has {free / 2**30:.2f} GiB free, expected at least {FREE_BYTES / 2**30:.0f}")
    return f"{existing} can be written, {free / 2**30:.0f} GiB free"


def _data(sweep: Sweep) -> str:
    data = with_transform(sweep).data
    splits = dict.fromkeys((data.split, data.calibration_split))
    found = [data.open(split) for split in splits]
    return ", ".join(f"{split.name}: {split.num_images:,} images" for split in found)


def _weights(sweep: Sweep) -> str:
    weights = find_weights(sweep)
    if weights.recipe is not None:
        return f"launch trains them by the recipe {weights.recipe.name}"
    return str(weights.path) if weights.path.is_file() else f"launch fetches them: {weights.identity}"


def _network(prepared: Prepared) -> str:
    label = prepared.sweep.network.label
    if not prepared.weights.path.is_file():
        return f"{label}: not checked, since its weights are not there yet"
    try_network(prepared)
    return f"{label}: its weights fit, and it can be converted"


def _space(prepared: Prepared) -> str:
    now = look_at(prepared)
    check_space(now.layout.root, now.plan, now.todo)
    return f"enough for {now.cells_left:,} results to come"


def _tracking(option: str | None, sweep: Sweep | None, prepared: Prepared | None) -> list[Finding]:
    """Check the tracking URI that a launch would use; there is no finding if it would log nowhere."""
    remedy = "start the server, or name another with --mlflow"
    uri = option or (sweep.mlflow.tracking_uri if sweep is not None else None)
    try:
        if prepared is not None:
            uri = tracking_uri(prepared, option)
    except RmpsweepError as error:
        return [Finding("mlflow", False, str(error), remedy)]
    return [] if uri in (None, "none") else [look("mlflow", partial(_reach, str(uri)), remedy)]


def _reach(uri: str) -> str:
    """Connect to a server or database as a launch would. A database file that does not exist yet is not made."""
    check_uri(uri)
    shown = without_password(uri)
    file = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
    if file is not None and not file.exists():
        existing = nearest(file)
        remove(existing, write(existing))
        return f"{shown}: launch makes it"
    server = urlsplit(uri)
    if server.scheme in ("http", "https") and server.hostname:  # MLflow by itself would try for two minutes
        port = server.port or (443 if server.scheme == "https" else 80)
        try:
            socket.create_connection((server.hostname, port), CONNECT_S).close()
        except OSError as error:
            raise OSError(f"{shown}: cannot be reached ({error})") from error
    with connected(uri, (), "") as (client, _):
        client.search_experiments(max_results=1)
    return f"{shown} answers"
