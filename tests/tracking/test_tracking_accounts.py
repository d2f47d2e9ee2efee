"""A real sweep in an MLflow server with accounts: who may log, what then lies there, and how MLflow's pages draw it."""

import json
import os
import re
import sys
import urllib.request
from base64 import b64encode
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, urlencode

import pyarrow.parquet as pq
import pytest

from tests.helpers.chrome import chrome
from tests.helpers.commands import TINY, rmpsweep, run_here
from tests.helpers.servers import Wire, free_port, serving
from tests.helpers.tracked import client_of

pytestmark = pytest.mark.server
PASSWORDS = {"admin": "long-secret-of-admin", "reader": "long-secret-of-reader"}
OF_THE_STORE = ("mlflow.parentRunId", "mlflow.user", "rmpsweep.digest")
"""Tags with the store's own ids, or digests of them."""

EXAMPLE = re.compile(r"python\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """As cluster/mlflow.yaml has it, on SQLite; the account "reader" may read only."""
    home, port = tmp_path_factory.mktemp("accounts"), free_port()
    (home / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{home}/users.db\nadmin_username = admin\n"
        "auth_cache_ttl_seconds = 600\n"
    )
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--backend-store-uri", f"sqlite:///{home}/server.db"]
    command += ["--artifacts-destination", str(home / "files")]
    settings = {
        "MLFLOW_AUTH_CONFIG_PATH": str(home / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORDS["admin"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "k",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    uri = f"http://127.0.0.1:{port}"
    with serving(command, f"{uri}/health", home / "log", **settings):
        request = urllib.request.Request(
            f"{uri}/api/2.0/mlflow/users/create",
            json.dumps({"username": "reader", "password": PASSWORDS["reader"]}).encode(),
            {"Content-Type": "application/json", "Authorization": "Basic " + b64encode(credentials("admin")).decode()},
        )
        urllib.request.urlopen(request, timeout=60)
        wire = Wire(port)
        yield SimpleNamespace(uri=f"http://127.0.0.1:{wire.port}", wire=wire, log=home / "log")


def credentials(user):
    return f"{user}:{PASSWORDS[user]}".encode()


@pytest.fixture
def user(monkeypatch):
    """Sets who logs."""

    def become(name, password=None):
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password or PASSWORDS[name])

    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    return become


@pytest.fixture(scope="session")
def results(weights, tmp_path_factory):
    """The tiny sweep, simulated and not logged."""
    home = tmp_path_factory.mktemp("swept")
    (home / "tiny.yaml").write_text(TINY.format(weights=weights, shard_size=32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RMPSWEEP_CACHE", str(home / "cache"))
        options = ("--results", home / "results", "--inline", "--limit", 64, "--mlflow", "none")
        rmpsweep("launch", home / "tiny.yaml", *options)
    return home / "results"


def runs_at(uri):
    client = client_of(uri)
    return client.search_runs([client.get_experiment_by_name("tiny").experiment_id])


def stored(uri):
    """Trial id ("" for the sweep) -> all that is stored, but for ids that the store gives."""
    client, found = client_of(uri), {}
    for run in runs_at(uri):
        tags = {key: value for key, value in run.data.tags.items() if key not in OF_THE_STORE}
        points = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        histories = {key: sorted((p.step, p.timestamp, p.value) for p in points[key]) for key in points}
        times = (run.info.run_name, run.info.status, run.info.start_time, run.info.end_time)
        inputs = [(i.dataset.to_dictionary(), [(t.key, t.value) for t in i.tags]) for i in run.inputs.dataset_inputs]
        files = [(file.path, file.file_size) for file in client.list_artifacts(run.info.run_id)]
        trial_id = tags.get("rmpsweep.trial_id", "")
        assert trial_id not in found
        found[trial_id] = (times, tags, run.data.params, histories, inputs, files)
    return found


def test_who_may_not_log_is_told_what_to_set(server, results, user):
    def refused(*words):
        code, _, errors = run_here(["log", str(results), "--mlflow", server.uri])
        assert (code, [word for word in words if word not in " ".join(errors.split())]) == (4, [])
        assert not any(password in errors for password in PASSWORDS.values())

    names = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    refused("the server requires a user", names)
    user("admin", "wrong-secret")
    refused("does not know user 'admin'", "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")


def test_a_sweep_logged_later_elsewhere_is_the_same_there_even_after_an_interruption(
    server, results, user, tmp_path, monkeypatch
):
    user("admin")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server.wire.cut_after(8_000)
    code, _, errors = run_here(["log", str(results), "--mlflow", server.uri])
    assert (code, "The results themselves are safe" in " ".join(errors.split())) == (4, True)
    server.wire.mend()
    begun = {run.info.run_id for run in runs_at(server.uri)}
    assert len(begun) > 0
    assert "RUNNING" in {run.info.status for run in runs_at(server.uri)}

    logged = rmpsweep("log", results, "--mlflow", server.uri)
    assert (logged["runs_total"], logged["runs_created"]) == (6, 6 - len(begun))
    assert {run.info.status for run in runs_at(server.uri)} == {"FINISHED"}
    here = f"sqlite:///{tmp_path}/mlflow.db"
    rmpsweep("log", results, "--mlflow", here)
    assert stored(server.uri) == stored(here)

    user("reader")
    code, _, errors = run_here(["log", str(results), "--mlflow", server.uri])
    assert code == 0, "nothing is left to log, and reading is allowed"
    for path in results.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not any(password.encode() in content for password in PASSWORDS.values()), path


def test_an_unchanged_trial_costs_no_request_and_a_new_one_four(server, results, user):
    user("admin")
    rmpsweep("log", results, "--mlflow", server.uri)
    requests = server.log.read_text(errors="replace").count("POST /api")
    rmpsweep("log", results, "--mlflow", server.uri)
    assert server.log.read_text(errors="replace").count("POST /api") - requests == 1, "the search"
    trial = next(run for run in runs_at(server.uri) if "mlflow.parentRunId" in run.data.tags)
    client_of(server.uri).delete_run(trial.info.run_id)
    requests = server.log.read_text(errors="replace").count("POST /api")
    assert rmpsweep("log", results, "--mlflow", server.uri)["runs_created"] == 1
    assert server.log.read_text(errors="replace").count("POST /api") - requests == 1 + 4


def test_who_may_only_read_is_told_whom_to_ask(server, results, user):
    user("admin")
    rmpsweep("log", results, "--mlflow", server.uri)
    trial = next(run for run in runs_at(server.uri) if "mlflow.parentRunId" in run.data.tags)
    client_of(server.uri).delete_tag(trial.info.run_id, "rmpsweep.digest")
    user("reader")
    code, _, errors = run_here(["log", str(results), "--mlflow", server.uri])
    assert code == 4
    assert "does not let user 'reader' do this: ask its administrator" in " ".join(errors.split())
    user("admin")
    rmpsweep("log", results, "--mlflow", server.uri)


def test_the_examples_of_the_docs_find_parent_and_children(server, results, user):
    user("admin")
    logged = rmpsweep("log", results, "--mlflow", server.uri)
    text = (Path(__file__).parents[2] / "docs" / "mlflow.md").read_text()
    scope = {}
    for example in EXAMPLE.findall(text):
        exec(example.replace("http://127.0.0.1:5000", server.uri).replace("cifar10-resnet20", "tiny"), scope)
    trials = pq.read_table(results / "summary.parquet")["trial_id"].unique().to_pylist()
    assert scope["sweep"].info.run_id == logged["parent_run_id"]
    assert sorted(run.data.tags["rmpsweep.trial_id"] for run in scope["trials"]) == sorted(trials)
    assert scope["front"]
    assert {run.info.run_id for run in scope["front"]} < {run.info.run_id for run in scope["trials"]}


@pytest.mark.browser
def test_the_compare_page_draws_accuracy_against_time_steps(server, results, user, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    user("admin")
    logged = rmpsweep("log", results, "--mlflow", server.uri)
    trials = sorted(
        (run for run in runs_at(server.uri) if "mlflow.parentRunId" in run.data.tags), key=lambda run: run.info.run_name
    )
    compared = {
        "runs": json.dumps([run.info.run_id for run in trials]),
        "experiments": json.dumps([logged["experiment_id"]]),
    }
    metric = compared | {"metric": '"accuracy"', "plot_metric_keys": '["accuracy"]', "x_axis": "step"}
    look = {"plot_layout": "{}", "y_axis_scale": "linear", "line_smoothness": "1", "show_point": "true"}
    with chrome(tmp_path / "profile", 1400, 900) as browser:
        wait = WebDriverWait(browser, 30)

        def show(page):
            browser.get("about:blank")
            browser.get(f"{server.uri}/#/{page}")

        def keep(name):
            if folder := os.environ.get("RMPSWEEP_SCREENSHOTS"):
                browser.save_screenshot(str(Path(folder) / f"mlflow-{name}.png"))

        # credentials in the address hold for the pages after it
        browser.get(server.uri.replace("//", f"//{credentials('admin').decode()}@"))
        for key, value in {"panelOpen": "false", "fab.autoOpenedOnFirstLoad": "true"}.items():
            browser.execute_script(f"localStorage.setItem('mlflow.assistant.{key}_v1', '{value}')")
        show(f"metric?{urlencode(metric | look, quote_via=quote)}")
        wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, "path.js-line"))
        browser.find_element(By.CSS_SELECTOR, "[data-component-id=fullscreen_button_chartcard]").click()
        lines = "[role=dialog] path.js-line[d*=L]"  # each run's line, and once more for its smoothing
        wait.until(lambda b: len(b.find_elements(By.CSS_SELECTOR, lines)) == 2 * len(trials))
        legend = browser.find_element(By.CSS_SELECTOR, "[role=dialog]").text
        assert [run.info.run_name for run in trials if f"{run.info.run_name} (accuracy)" not in legend] == []
        keep("compare")
        show(f"compare-runs?{urlencode(compared, quote_via=quote)}")
        wait.until(lambda b: b.find_elements(By.CSS_SELECTOR, ".axis-title"))
        axes = [axis.text for axis in browser.find_elements(By.CSS_SELECTOR, ".axis-title")]
        assert {"alpha", "accuracy"} <= set(axes), "parallel coordinates begin with settings that differ, and accuracy"
        keep("parallel")
