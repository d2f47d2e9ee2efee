import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from rmpsweep.errors import InputError, TrackingError
from rmpsweep.stats import SETTINGS
from rmpsweep.tracking import SweepRecord, check_uri, log_sweep

CREATED_MS = 1_700_000_000_000
ANN = 0.92
IMAGES = {"images": 100, "images_planned": 100, "ann_accuracy": ANN}
STEP_METRICS = ("accuracy", "top5", "firing_rate", "spikes_per_image", "synops_per_image")


def row(trial_id, time_steps, correct, images=100, **setting):
    usual = ("vin_max", "layer", 0.8, "layer", "soft", "constant", 1.0, 0.0, "count", 0, "fixed16")
    counts = {"time_steps": time_steps, "images": images, "images_planned": 100, "correct": correct}
    rates = {"accuracy": correct / images, "ci_low": 0.0, "ci_high": 1.0, "top5": 0.99, "ann_accuracy": ANN}
    costs = {"spikes_per_image": 1e4 * time_steps, "firing_rate": 0.05, "synops_per_image": 1e6 * time_steps}
    names = {"trial_id": trial_id, "network": "resnet20", "dataset": "cifar10"}
    return names | dict(zip(SETTINGS, usual, strict=True)) | counts | rates | costs | setting


SOFT = [row("aa", 32, 70), row("aa", 64, 91), row("aa", 128, 92)]
HARD = [row("bb", 32, 30, reset="hard"), row("bb", 64, 80, reset="hard"), row("bb", 128, 85, reset="hard")]


def record_in(directory):
    report = directory / "report.html"
    report.write_text("first")
    sweep_id, experiment, digest = os.urandom(8).hex(), f"cifar10 {directory.name}", "d" * 64
    named = ("cifar10-resnet20", experiment, "resnet20", "cifar10", digest)
    return SweepRecord(sweep_id, *named, CREATED_MS, {"calibration": "512 images"}, {"git": "abc"}, (report,))


@pytest.fixture
def record(tmp_path):
    return record_in(tmp_path)


@pytest.fixture(scope="session")
def sqlite_uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/new/mlflow.db"


@pytest.fixture(scope="session")
def server_uri(tmp_path_factory):
    home = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{home}/server.db", "--artifacts-destination", str(home / "files")]
    settings = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (home / "log").open("w") as file:
        server = subprocess.Popen(command, cwd=home, env=settings, stdout=file, stderr=file, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not answers(port):
            assert (server.poll(), time.monotonic() < deadline) == (None, True), (home / "log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).status == 200
    except OSError:
        return False


@pytest.fixture(params=["sqlite", "server"])
def uri(request):
    return request.getfixturevalue(f"{request.param}_uri")


def client_of(uri):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def log(uri, record, rows):
    return log_sweep(uri, record, pa.Table.from_pylist(rows))


def runs_of(uri, record):
    """Trial id ("" for the sweep) -> run; fails on two runs of one trial."""
    client = client_of(uri)
    experiment = client.get_experiment_by_name(record.experiment)
    runs = client.search_runs([experiment.experiment_id], f"tags.`rmpsweep.sweep_id` = '{record.sweep_id}'")
    by_trial = {run.data.tags.get("rmpsweep.trial_id", ""): run for run in runs}
    assert len(by_trial) == len(runs)
    return by_trial


def history(uri, run, key):
    points = client_of(uri).get_metric_history(run.info.run_id, key)
    return sorted((point.step, point.timestamp - CREATED_MS, point.value) for point in points)


def everything(uri, record):
    """All that is stored of a sweep, to compare before and after."""
    state = {}
    for trial_id, run in runs_of(uri, record).items():
        histories = {key: history(uri, run, key) for key in run.data.metrics}
        inputs = [(i.dataset.name, i.dataset.digest, len(i.tags)) for i in run.inputs.dataset_inputs]
        state[trial_id] = (vars(run.info), run.data.tags, run.data.params, histories, inputs)
    return state


def test_a_sweep_is_a_run_and_its_trials_are_child_runs(uri, record):
    logged = log(uri, record, SOFT + HARD)
    runs = runs_of(uri, record)
    assert (logged.runs_created, logged.runs_total, logged.tracking_uri) == (3, 3, uri)
    assert runs.keys() == {"", "aa", "bb"}
    assert {run.data.tags["mlflow.parentRunId"] for key, run in runs.items() if key} == {logged.parent_run_id}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert {run.info.start_time for run in runs.values()} == {CREATED_MS}
    for run in runs.values():
        (given,) = run.inputs.dataset_inputs
        assert (given.dataset.name, given.dataset.digest) == ("cifar10", "d" * 36)
        assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "evaluation")]


def test_a_trial_has_its_settings_a_curve_over_time_steps_and_plain_summaries(uri, record):
    log(uri, record, SOFT + HARD)
    soft, hard = runs_of(uri, record)["aa"], runs_of(uri, record)["bb"]
    assert soft.data.params == {key: str(SOFT[0][key]) for key in (*SETTINGS, "network", "dataset")}
    for key in STEP_METRICS:
        assert history(uri, soft, key) == [(r["time_steps"], 100, r[key]) for r in SOFT]
    summaries = {key: value for key, value in soft.data.metrics.items() if key not in STEP_METRICS}
    by_time_steps = {"accuracy_T32": 0.7, "accuracy_T64": 0.91, "accuracy_T128": 0.92, "time_steps_within_1pt": 64}
    assert summaries == IMAGES | by_time_steps
    assert "time_steps_within_1pt" not in hard.data.metrics


def test_the_sweep_has_its_params_tags_best_results_and_files(uri, record):
    log(uri, record, SOFT + HARD)
    run = runs_of(uri, record)[""]
    assert run.info.run_name == "cifar10-resnet20"
    assert run.data.params == {"network": "resnet20", "dataset": "cifar10", "calibration": "512 images"}
    assert (run.data.tags["git"], run.data.tags["rmpsweep.complete"]) == ("abc", "true")
    best = {"best_soft_accuracy": 0.92, "best_soft_time_steps_within_1pt": 64, "best_hard_accuracy": 0.85}
    assert run.data.metrics == {"trials": 2} | IMAGES | best
    assert [file.path for file in client_of(uri).list_artifacts(run.info.run_id)] == ["report.html"]


def test_logging_again_changes_nothing(uri, record, tmp_path):
    first = log(uri, record, SOFT + HARD)
    before = everything(uri, record)
    stored = Path(client_of(uri).download_artifacts(first.parent_run_id, "report.html", str(tmp_path)))
    assert stored.read_text() == "first"
    assert log(uri, record, SOFT + HARD) == replace(first, runs_created=0)
    assert everything(uri, record) == before


def test_writing_the_same_content_again_duplicates_nothing(uri, record):
    """As after an interruption between the metrics and the digest that is written last."""
    log(uri, record, SOFT)
    before = everything(uri, record)
    for run in runs_of(uri, record).values():
        client_of(uri).delete_tag(run.info.run_id, "rmpsweep.digest")
    log(uri, record, SOFT)
    assert everything(uri, record) == before


def test_a_new_trial_and_a_new_time_step_only_add(uri, record):
    log(uri, record, SOFT)
    before = everything(uri, record)["aa"]
    added = row("aa", 48, 91)
    logged = log(uri, record, SOFT + HARD + [added])
    assert (logged.runs_created, logged.runs_total) == (1, 3)
    after = everything(uri, record)["aa"]
    assert (after[0]["_run_id"], after[2]) == (before[0]["_run_id"], before[2])
    for key in STEP_METRICS:
        assert sorted([*before[3][key], (48, 100, added[key])]) == after[3][key]
    assert after[3]["accuracy_T32"] == before[3]["accuracy_T32"]
    assert runs_of(uri, record)["aa"].data.metrics["time_steps_within_1pt"] == 48
    assert runs_of(uri, record)[""].data.metrics["trials"] == 2


def test_more_images_win_even_where_the_accuracy_falls(uri, record):
    few = [row("aa", 32, 10, images=10), row("aa", 64, 10, images=10)]
    many = [row("aa", 32, 50), row("aa", 64, 60)]
    log(uri, record, few)
    assert runs_of(uri, record)[""].data.tags["rmpsweep.complete"] == "false"
    assert runs_of(uri, record)["aa"].data.metrics["time_steps_within_1pt"] == 32
    log(uri, record, many)
    run = runs_of(uri, record)["aa"]
    shown = run.data.metrics
    assert (shown["accuracy"], shown["accuracy_T32"], shown["accuracy_T64"], shown["images"]) == (0.6, 0.5, 0.6, 100)
    assert shown["time_steps_within_1pt"] != shown["time_steps_within_1pt"], "NaN: no longer reached"
    assert history(uri, run, "accuracy") == [(32, 10, 1.0), (32, 100, 0.5), (64, 10, 1.0), (64, 100, 0.6)]
    assert runs_of(uri, record)[""].data.tags["rmpsweep.complete"] == "true"


def test_files_are_uploaded_only_when_they_change(sqlite_uri, record):
    plan = record.artifacts[0].with_name("plan.json")
    plan.write_text("plan")
    record = replace(record, artifacts=(*record.artifacts, plan))
    logged = log(sqlite_uri, record, SOFT)
    home = Path(sqlite_uri.removeprefix("sqlite:///")).parent
    stored = home / "mlartifacts" / logged.parent_run_id / "artifacts"
    for file in stored.iterdir():
        os.utime(file, ns=(0, 0))
    plan.write_text("another plan")
    log(sqlite_uri, record, SOFT)
    assert (stored / "report.html").stat().st_mtime_ns == 0
    assert (stored / "plan.json").read_text() == "another plan"


def test_changed_tags_replace_and_params_of_any_length_and_number_fit(sqlite_uri, record):
    rows = [row("aa", t, 50) for t in range(1, 251)]
    many = replace(record, params={f"p{i}": "x" * 7000 for i in range(150)}, tags={"git": "y" * 9000})
    log(sqlite_uri, many, rows)
    log(sqlite_uri, replace(many, tags={"git": "def"}), rows)
    runs = runs_of(sqlite_uri, record)
    assert sorted(len(value) for value in runs[""].data.params.values())[2:] == [6000] * 150
    assert runs[""].data.tags["git"] == "def"
    assert len(history(sqlite_uri, runs["aa"], "accuracy")) == 250


def test_run_names_say_what_is_unusual(sqlite_uri, record):
    settings = {
        "soft α=1 vin_max": {"alpha": 1.0},
        "soft α=0.8 vin_p99.7 granularity=channel": {"threshold": "vin_p99.7", "granularity": "channel"},
        "hard α=0.8 vin_max encoding=poisson seed=3": {"encoding": "poisson", "seed": 3, "reset": "hard"},
    }
    log(sqlite_uri, record, [row(name, 32, 50, **setting) for name, setting in settings.items()])
    names = {trial_id: run.info.run_name for trial_id, run in runs_of(sqlite_uri, record).items() if trial_id}
    assert names == {name: name for name in settings}


def test_the_current_directory_is_ignored_and_nothing_is_printed(tmp_path):
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("name: Default")
    (tmp_path / "results").mkdir()
    code = "from test_tracking import *; log('sqlite:///results/mlflow.db', record_in(Path('results')), SOFT)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlruns", "results"]
    assert list((tmp_path / "mlruns").rglob("*.*")) == [tmp_path / "mlruns" / "0" / "meta.yaml"]
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["mlartifacts", "mlflow.db", "report.html"]


def test_a_deleted_run_is_made_again(sqlite_uri, record):
    first = log(sqlite_uri, record, SOFT)
    client_of(sqlite_uri).delete_run(first.parent_run_id)
    second = log(sqlite_uri, record, SOFT)
    assert (second.runs_created, second.runs_total) == (1, 2)
    assert runs_of(sqlite_uri, record)["aa"].data.tags["mlflow.parentRunId"] == second.parent_run_id


def test_a_server_that_is_not_there_is_an_error_soon_and_keeps_the_password(record):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(TrackingError, match=f"me:\\*\\*\\*@{address}.*rmpsweep log") as caught:
            log(f"http://me:secret@{address}", record, SOFT)
    assert time.monotonic() - started < 30
    assert "secret" not in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_broken_database_is_an_error_at_once(record, tmp_path):
    (tmp_path / "broken.db").write_text("no database " * 1000)
    started = time.monotonic()
    for place in ("broken.db", "broken.db/mlflow.db"):
        with pytest.raises(TrackingError, match=place):
            log(f"sqlite:///{tmp_path}/{place}", record, SOFT)
    assert time.monotonic() - started < 5


GOOD_URIS = """
    sqlite:///mlflow.db sqlite:////data/results/mlflow.db http://localhost:5000 http://[::1]:5000
    https://user:password@mlflow.example.org/prefix postgresql://user:password@host/mlflow
    mysql+pymysql://user@host:3306/mlflow databricks databricks://profile
"""
BAD_URIS = """
    none mlruns ./mlruns /data/mlruns file:mlruns file:///data/mlruns sqlite:mlflow.db sqlite:// sqlite:///
    sqlite:///:memory: sqlite:///results/ http:// http:host http://host:port ftp://host postgres://host/db postgresql://
"""


def test_good_uris():
    for uri in GOOD_URIS.split():
        check_uri(uri)


@pytest.mark.parametrize("bad", ["", *BAD_URIS.split()])
def test_bad_uris_are_refused_before_anything_is_written(bad, record, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="expected sqlite:///<file>, http"):
        log(bad, record, SOFT)
    assert list(tmp_path.iterdir()) == list(record.artifacts)


@pytest.mark.parametrize("directory", ["file:///data/mlruns", "/data/mlruns", "file:/data/mlruns/"])
def test_a_directory_is_refused_with_the_database_to_use_instead(directory):
    with pytest.raises(InputError, match=r"use sqlite:////data/mlruns/mlflow[.]db"):
        check_uri(directory)


def test_checking_a_uri_imports_no_mlflow():
    code = "import sys, rmpsweep.tracking as t; t.check_uri('databricks'); print('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
