"""The main command from end to end, in processes of its own, on real digits, real Ray and real MLflow."""

import json

import pyarrow.parquet as pq
import pytest

from tests.helpers.commands import rmpsweep, run_here
from tests.helpers.results import TABLES, tables, unit_files

pytestmark = pytest.mark.usefixtures("environment")


@pytest.mark.ray
def test_results_are_the_same_bytes_inline_and_with_two_actors_and_any_shard_size(write_sweep, cluster, tmp_path):
    found = {}
    for label, shard_size, options in [
        ("inline-64", 64, ["--inline"]),
        ("inline-7", 7, ["--inline"]),
        ("two-7", 7, ["--actors", 2, "--address", cluster.address]),
    ]:
        results = tmp_path / label
        command = ["launch", write_sweep(shard_size), "--results", results, "--limit", 90, "--mlflow", "none", *options]
        code, _, errors = run_here(list(map(str, command)))
        assert code == 0, errors
        found[label] = tables(results)
    reference = found.pop("inline-64")
    for label, each in found.items():
        assert each == reference, label


@pytest.mark.slow
def test_second_launch_does_nothing_and_mlflow_gains_no_run(write_sweep, tmp_path):
    from mlflow import MlflowClient

    results = tmp_path / "results"
    command = ("launch", write_sweep(), "--results", results, "--limit", 40, "--inline")
    first = rmpsweep(*command)
    assert first["units_run"] == 3

    def state():
        client = MlflowClient(f"sqlite:///{results / 'mlflow.db'}")
        runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
        files = {p: p.stat().st_mtime_ns for p in results.rglob("*") if p.is_file() and "mlflow.db" not in p.name}
        return {run.info.run_id: run.data.to_dictionary() for run in runs}, files

    before = state()
    assert len(before[0]) == 6
    second = rmpsweep(*command)
    assert second["units_run"] == 0
    assert second["summary"] == first["summary"]
    assert state() == before


@pytest.mark.slow
def test_a_new_alpha_a_new_time_step_and_a_larger_limit_compute_only_what_is_missing(write_sweep, tmp_path):
    sweep, results = write_sweep(), tmp_path / "grown"
    options = ("--results", results, "--inline", "--mlflow", "none")

    def cells(*change):
        before = unit_files(results)
        rmpsweep("launch", sweep, *options, *change)
        after = unit_files(results)
        assert {name: after[name] for name in before} == before
        return sum(pq.ParquetFile(results / "units" / name).metadata.num_rows for name in after.keys() - before.keys())

    assert cells("--limit", 30) == 30 * (5 * 2 + 1)
    alpha = ("--set", "grid.alpha=[0.5, 0.7, 1.0]")
    # the three values on both grids: one more α on the first (two resets), two more on the second
    assert cells("--limit", 30, *alpha) == 30 * 4 * 2
    steps = (*alpha, "--set", "time_steps=[4, 8, 12]")
    assert cells("--limit", 30, *steps) == 30 * 9
    assert cells("--limit", 50, *steps) == 20 * (9 * 3 + 1)
    assert cells("--limit", 50, "--set", "data.shard_size=9", *steps) == 0

    fresh = tmp_path / "fresh"
    rmpsweep("launch", sweep, "--results", fresh, "--inline", "--mlflow", "none", "--limit", 50, *steps)
    assert tables(fresh) == tables(results)


@pytest.mark.slow
def test_damaged_unit_files_are_found_out_and_computed_again(write_sweep, results):
    command = ("launch", write_sweep(), "--results", results, "--limit", 40, "--inline", "--mlflow", "none")
    undisturbed = tables(results)
    files = sorted((results / "units").glob("*.parquet"))
    files[0].write_bytes(files[0].read_bytes()[:-100])
    content = bytearray(files[1].read_bytes())
    content[40] ^= 4
    files[1].write_bytes(bytes(content))
    assert {entry["done"] < entry["cells"] for entry in rmpsweep("status", results)["trials"]} != {False}
    assert rmpsweep(*command)["units_run"] == 2
    assert tables(results) == undisturbed


def test_lost_thresholds_are_found_again_and_results_kept(write_sweep, results):
    command = ("launch", write_sweep(), "--results", results, "--limit", 40, "--inline", "--mlflow", "none")
    for path in (results / "calibration").glob("*"):
        path.unlink()
    assert rmpsweep(*command)["units_run"] == 0
    rows = pq.read_table(next((results / "calibration").glob("*"))).to_pylist()
    rows[1]["threshold"] *= 1.5
    from rmpsweep.results import write_thresholds

    changed: dict[str, list[float]] = {}
    for row in rows:
        changed.setdefault(row["layer"], []).append(row["threshold"])
    write_thresholds(next((results / "calibration").glob("*")), changed)
    assert rmpsweep(*command)["units_run"] > 0


@pytest.mark.slow
def test_status_merge_report_and_log_work_from_the_results_directory_alone(results, tmp_path):
    status = rmpsweep("status", results)
    assert status["units_left"] == 0
    assert {row["done"] for row in status["trials"]} == {40, 80}
    before = tables(results)
    for name in TABLES:
        (results / name).unlink()
    assert rmpsweep("merge", results)["predictions"] == 40 * 11
    assert tables(results) == before
    (results / "report.html").unlink()
    assert rmpsweep("report", results)["report"] == str(results / "report.html")
    assert "tiny" in (results / "report.html").read_text()
    uri = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    assert rmpsweep("log", results, "--mlflow", uri)["runs_created"] == 6
    assert rmpsweep("log", results, "--mlflow", uri)["runs_created"] == 0


@pytest.mark.slow
def test_a_unit_that_cannot_be_computed_is_quarantined_and_the_rest_completes(weights, tmp_path):
    """A BMP with a good header and no pixels passes the index; its unit fails, the rest is there: exit code 3."""
    import io

    import numpy as np
    import pyarrow as pa
    import torch
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, number in (("train", 8), ("test", 24)):
        rows = []
        for i in range(number):
            sink = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(sink, "BMP")
            content = sink.getvalue()[:60] if (split, i) == ("test", 5) else sink.getvalue()
            rows.append({"image": {"bytes": content, "path": f"{i:03}.bmp"}, "label": i % 10})
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{split}.parquet")
    from rmpsweep.models.registry import build
    from rmpsweep.models.weights import save_weights

    colour = tmp_path / "colour.safetensors"
    torch.manual_seed(0)
    save_weights(build("vgg-small", 10, 3, 8), colour)
    sweep = tmp_path / "poison.yaml"
    sweep.write_text(
        f"name: poison\nnetwork: {{name: vgg-small, weights: {colour}}}\n"
        f"data: {{source: parquet, path: {tmp_path}, transform: unit, shard_size: 4}}\n"
        "calibration: {images: 8, time_steps: 64}\ngrid: {alpha: [1.0]}\ntime_steps: [2, 4]\n"
    )
    results = tmp_path / "results"
    document = rmpsweep("launch", sweep, "--results", results, "--inline", "--mlflow", "none", expected=3)
    assert (document["units_run"], document["units_left"]) == (5, 1)
    assert {row["images"] for row in document["summary"]} == {20}
    assert {row["images_planned"] for row in document["summary"]} == {24}
    quarantined = json.loads((results / "run.json").read_text())["quarantined"]
    assert "(key '005')" in quarantined[0]["message"]
    assert "quarantined" in (results / "report.html").read_text()


@pytest.mark.slow
def test_a_run_killed_between_its_last_unit_and_its_record_goes_on(write_sweep, tmp_path):
    results = tmp_path / "results"
    command = ("launch", write_sweep(), "--results", results, "--inline", "--mlflow", "none")
    rmpsweep(*command, "--limit", 20)
    run = json.loads((results / "run.json").read_text())
    (results / "run.json").write_text(json.dumps({"created_ms": run["created_ms"], "launches": []}))
    assert rmpsweep(*command, "--limit", 20)["units_run"] == 0
    assert rmpsweep(*command, "--limit", 30)["units_run"] > 0


@pytest.mark.slow
def test_what_a_kill_leaves_of_the_first_write_does_not_block_the_directory(write_sweep, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    (results / ".sweep.yaml.0123.tmp").write_text("name: ti")
    command = ("launch", write_sweep(), "--results", results, "--inline", "--mlflow", "none", "--limit", 20)
    rmpsweep(*command)
    path = next((results / "calibration").glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:50])
    assert rmpsweep(*command)["units_run"] == 0
    assert len(path.read_bytes()) > 50


def test_a_trial_out_of_floats_range_is_quarantined_not_counted(write_sweep, tmp_path):
    results = tmp_path / "results"
    tiny = (
        "--set",
        "grid.alpha=[1e-30]",
        "--set",
        "grid.alpha_scope=layer",
        "--set",
        "grid.numerics=[float32]",
        "--set",
        "run.retries=0",
    )
    command = ("launch", write_sweep(), "--results", results, "--inline", "--mlflow", "none", "--limit", 8, *tiny)
    assert rmpsweep(*command, expected=3)["summary"] == []
    quarantined = json.loads((results / "run.json").read_text())["quarantined"]
    assert "out of the range of torch.float32" in quarantined[0]["message"]


@pytest.mark.slow
def test_no_password_reaches_disk_or_screen(write_sweep, tmp_path):
    results = tmp_path / "results"
    secret = ("--set", "mlflow.tracking_uri=http://me:s3cret@127.0.0.1:1", "--inline", "--limit", 8)
    rmpsweep("launch", write_sweep(), "--results", results, "--mlflow", "none", *secret)
    assert "s3cret" not in json.dumps(rmpsweep("plan", write_sweep(), "--results", results, *secret))
    for path in results.rglob("*"):
        assert not path.is_file() or b"s3cret" not in path.read_bytes(), path


@pytest.mark.slow
def test_silent_channels_and_clipped_inputs_are_warned_of_and_kept_for_the_report(write_sweep, tmp_path):
    results = tmp_path / "results"
    options = ("--inline", "--mlflow", "none", "--limit", 8, "--set", "grid.input_scale=[0.5]")
    rmpsweep("launch", write_sweep(), "--results", results, *options)
    notes = json.loads((results / "run.json").read_text())["warnings"]
    assert any("activation_p99.9 by channel: layer" in note and "channels are silent" in note for note in notes)
    assert any("exceed the input scale 0.5" in note for note in notes)
    assert "channels are silent" in (results / "report.html").read_text()


def test_inline_and_actors_exclude_each_other(write_sweep, tmp_path):
    for command in ("launch", "plan"):
        code, _, errors = run_here([command, str(write_sweep()), "--inline", "--actors", "2"])
        assert (code, "give it, or --actors" in errors) == (2, True)


@pytest.mark.slow
def test_plan_expects_what_the_last_launch_took(write_sweep, tmp_path):
    sweep, results = write_sweep(), tmp_path / "results"
    rmpsweep("launch", sweep, "--results", results, "--inline", "--mlflow", "none", "--limit", 8)
    run = json.loads((results / "run.json").read_text())
    run["launches"][-1] |= {"image_steps": 1000, "worker_s": 10.0, "wall_s": 12.0, "workers": 2}
    (results / "run.json").write_text(json.dumps(run))
    plan = rmpsweep("plan", sweep, "--results", results, "--limit", 40, "--actors", 4)
    assert plan["image_steps_missing"] == 32 * 5 * 12
    assert plan["eta_s"] == round(7 + 32 * 5 * 12 / (100 * 4))
    assert rmpsweep("plan", sweep, "--results", results, "--limit", 8)["eta_s"] == 0
