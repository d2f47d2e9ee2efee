import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rmpsweep.errors import InputError, TrackingError
from rmpsweep.terms import SETTINGS
from rmpsweep.tracking import check_uri
from tests.helpers.servers import free_port, serving
from tests.helpers.tracked import (
    ANN,
    CREATED_MS,
    HARD,
    IMAGES,
    SOFT,
    STEP_METRICS,
    client_of,
    everything,
    history,
    log,
    record_in,
    row,
    runs_of,
)


@pytest.fixture
def record(tmp_path):
    return record_in(tmp_path)


@pytest.fixture(scope="session")
def sqlite_uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/new/mlflow.db"


@pytest.fixture(scope="session")
def server_uri(tmp_path_factory):
    home, port = tmp_path_factory.mktemp("server"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{home}/server.db", "--artifacts-destination", str(home / "files")]
    with serving(command, f"http://127.0.0.1:{port}/health", home / "log", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(params=["sqlite", pytest.param("server", marks=pytest.mark.server)])
def uri(request):
    return request.getfixturevalue(f"{request.param}_uri")


@pytest.mark.slow
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
    at_99pct = {"points_below_ann": 0.0, "T_at_99pct": 128, "synops_per_image_at_99pct": 128e6}  # 0.91 is 98.9 %
    assert summaries == IMAGES | by_time_steps | at_99pct
    assert hard.data.metrics["points_below_ann"] == pytest.approx(100 * (ANN - 0.85))
    assert not {"T_at_99pct", "synops_per_image_at_99pct"} & hard.data.metrics.keys()
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
    for key in ("time_steps_within_1pt", "T_at_99pct", "synops_per_image_at_99pct"):
        assert shown[key] != shown[key], "NaN: no longer reached"
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


@pytest.mark.slow
def test_changed_tags_replace_and_params_of_any_length_and_number_fit(sqlite_uri, record):
    rows = [row("aa", t, 50) for t in range(1, 251)]
    many = replace(record, params={f"p{i}": "x" * 7000 for i in range(150)}, tags={"git": "y" * 9000})
    log(sqlite_uri, many, rows)
    log(sqlite_uri, replace(many, tags={"git": "def"}), rows)
    runs = runs_of(sqlite_uri, record)
    assert sorted(len(value) for value in runs[""].data.params.values())[2:] == [6000] * 150
    assert runs[""].data.tags["git"] == "def"
    assert len(history(sqlite_uri, runs["aa"], "accuracy")) == 250


@pytest.mark.slow
def test_run_names_say_what_varies_and_follow_it(sqlite_uri, record):
    rows = [row("aa", 32, 50, numerics="float32"), row("bb", 32, 50, alpha=1.0, reset="hard", numerics="float32")]
    log(sqlite_uri, record, rows)
    names = {trial_id: run.info.run_name for trial_id, run in runs_of(sqlite_uri, record).items() if trial_id}
    assert names == {"aa": "soft α=0.8", "bb": "hard α=1"}
    log(sqlite_uri, record, [*rows, row("cc", 32, 50, numerics="float32", threshold="vin_p99.7", seed=3)])
    names = {trial_id: run.info.run_name for trial_id, run in runs_of(sqlite_uri, record).items() if trial_id}
    assert names == {
        "aa": "soft α=0.8 vin_max seed=0",
        "bb": "hard α=1 vin_max seed=0",
        "cc": "soft α=0.8 vin_p99.7 seed=3",
    }


def test_trials_on_a_pareto_front_are_tagged(sqlite_uri, record):
    cheap = row("cheap", 64, 80, synops_per_image=1e6)
    fast = row("fast", 32, 80, synops_per_image=9e6)
    beaten = row("beaten", 64, 79, synops_per_image=9e6)
    few = row("few", 8, 50, images=50)  # 100 %, but of other images
    log(sqlite_uri, record, [cheap, fast, beaten, few])
    tags = {key: run.data.tags for key, run in runs_of(sqlite_uri, record).items() if key}
    assert {key for key in tags if tags[key]["rmpsweep.pareto_T"] == "true"} == {"fast"}
    assert {key for key in tags if tags[key]["rmpsweep.pareto_synops"] == "true"} == {"cheap"}
    assert {tag[key] for tag in tags.values() for key in tag if "pareto" in key} == {"true", "false"}


def test_trials_stopped_early_can_be_filtered_out(sqlite_uri, record):
    log(sqlite_uri, replace(record, stopped={"bb": 20}), SOFT + HARD)
    experiment = client_of(sqlite_uri).get_experiment_by_name(record.experiment).experiment_id
    stopped = "tags.`rmpsweep.stopped_after_images` LIKE '%'"
    (run,) = client_of(sqlite_uri).search_runs([experiment], stopped)
    assert (run.data.tags["rmpsweep.trial_id"], run.data.tags["rmpsweep.stopped_after_images"]) == ("bb", "20")
    log(sqlite_uri, record, SOFT + HARD)
    assert client_of(sqlite_uri).search_runs([experiment], stopped) == []


def test_logging_again_leaves_every_byte_of_the_database(sqlite_uri, record):
    database = Path(sqlite_uri.removeprefix("sqlite:///"))
    first = log(sqlite_uri, record, SOFT + HARD)
    before = database.read_bytes()
    assert log(sqlite_uri, record, SOFT + HARD) == replace(first, runs_created=0)
    assert database.read_bytes() == before
    assert not list(database.parent.glob("mlflow.db-*")), "no journal that is still to be applied"


@pytest.mark.soak
@pytest.mark.parametrize("trials", [200, 800])
def test_hundreds_of_trials_are_logged_once(record, tmp_path, trials):
    """Prints what it took."""
    rows = [row(f"t{i:03}", 2**k, 20 + 8 * k, alpha=round(0.3 + i / 1000, 4)) for i in range(trials) for k in range(10)]
    database = tmp_path / "mlflow.db"
    for what, created in (("first", trials + 1), ("again", 0)):
        started = time.monotonic()
        logged = log(f"sqlite:///{database}", record, rows)
        print(f"{trials} trials, {what}: {time.monotonic() - started:.1f} s, {database.stat().st_size} bytes")
        assert (logged.runs_total, logged.runs_created) == (trials + 1, created)


@pytest.mark.slow
def test_the_current_directory_is_ignored_and_nothing_is_printed(tmp_path):
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("name: Default")
    (tmp_path / "results").mkdir()
    code = "from tests.helpers.tracked import *; log('sqlite:///results/mlflow.db', record_in(Path('results')), SOFT)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
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


@pytest.mark.slow
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
