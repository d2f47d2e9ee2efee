"""rmpsweep as a library: launched in a notebook's ways, and its results read."""

import signal
import subprocess
import sys
import threading

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import rmpsweep
from rmpsweep.errors import ClusterError, IncompleteError, ResultsError, StoppedError, SweepError
from rmpsweep.pipeline.events import Message
from rmpsweep.results import Layout
from rmpsweep.storage import LOCK
from rmpsweep.workers.events import JobDone, StageBegan
from tests.helpers.commands import rmpsweep as command
from tests.pipeline.test_launch import tables

pytestmark = pytest.mark.usefixtures("environment")
UNITS = 3  # of 40 images in shards of 16


@pytest.fixture
def launch(write_sweep, tmp_path):
    """Launches the tiny sweep on 40 images into a folder of this name; the events go into the list given."""

    def run(name="results", events=None, **options):
        options = {"inline": True, "mlflow": "none", "limit": 40} | options
        on_event = options.pop("on_event", None if events is None else events.append)
        return rmpsweep.launch(write_sweep(), tmp_path / name, on_event=on_event, **options)

    return run


def units_done(events):
    return [event.job for event in events if isinstance(event, JobDone) and event.stage == "evaluating"]


@pytest.mark.slow
def test_launching_again_in_the_same_process_computes_nothing_and_a_larger_limit_what_is_new(launch):
    first, again, more = [], [], []
    results = launch(events=first)
    assert len(units_done(first)) == UNITS
    assert sorted(path.stem for path in (results.path / "units").glob("*")) == sorted(units_done(first))
    assert launch(events=again).summary.equals(results.summary)
    assert units_done(again) == []
    assert launch(events=more, limit=50).summary["images"].to_pylist() == [50] * 10
    assert len(units_done(more)) > 0


@pytest.mark.slow
def test_it_does_what_the_command_does_to_the_byte(launch, write_sweep, tmp_path):
    results = launch()
    document = command(
        "launch", write_sweep(), "--results", tmp_path / "other", "--limit", 40, "--inline", "--mlflow", "none"
    )
    assert tables(results.path) == tables(tmp_path / "other")
    assert results.summary.to_pylist() == document["summary"]
    assert (results.path / "report.html").is_file()


@pytest.mark.slow
def test_the_plan_says_what_a_launch_would_do_and_writes_nothing(launch, write_sweep, tmp_path):
    planned = rmpsweep.plan(write_sweep(), tmp_path / "results", limit=40)
    assert planned.cells_left == planned.plan.num_cells == 40 * (5 * 2 + 1)
    assert "5 trials on 40 images, 440 of 440 cells left" in repr(planned)
    assert not (tmp_path / "results").exists()
    launch()
    assert rmpsweep.plan(write_sweep(), tmp_path / "results", limit=40).todo == ()


@pytest.mark.slow
def test_an_exception_in_the_callback_ends_the_launch_and_the_same_call_continues(launch, tmp_path):
    class Enough(Exception):
        pass

    def enough(event):
        if isinstance(event, JobDone) and event.stage == "evaluating":
            raise Enough

    with pytest.raises(Enough):
        launch(on_event=enough)
    left = {path.name for path in (tmp_path / "results").iterdir()}
    assert not left & {LOCK, "progress.json", "cancel", "summary.parquet"}
    assert len(list((tmp_path / "results" / "units").iterdir())) == 1
    events = []
    assert launch(events=events).summary.num_rows == 10
    assert len(units_done(events)) == UNITS - 1
    undisturbed = launch("undisturbed")
    assert tables(tmp_path / "results") == tables(undisturbed.path)


@pytest.mark.slow
def test_cancel_stops_a_launch_in_python_too(launch, tmp_path, monkeypatch):
    monkeypatch.setattr("rmpsweep.pipeline.launch.CANCEL_EVERY_S", 0.0)
    events = []

    def cancel(event):
        events.append(event)
        if isinstance(event, JobDone) and event.stage == "evaluating" and len(units_done(events)) == 1:
            assert command("cancel", tmp_path / "results") == {"cancelled": True}

    with pytest.raises(StoppedError, match=f"{UNITS - 1} units left"):
        launch(on_event=cancel)
    assert "cancelled: units in flight are finished first" in [e.text for e in events if isinstance(e, Message)]
    assert [e.stage for e in events if isinstance(e, StageBegan)] == ["starting", "calibrating", "evaluating"]
    with pytest.raises(ResultsError, match="not merged yet"):
        _ = rmpsweep.Results.open(tmp_path / "results").summary
    assert "not merged yet" in repr(rmpsweep.Results.open(tmp_path / "results"))
    assert launch().summary.num_rows == 10


@pytest.mark.ray
def test_a_running_ray_is_used_and_left_running(launch, finished):
    import ray

    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    alone = launch("alone", inline=False, actors=1)
    assert not ray.is_initialized(), "what was started for the launch has ended with it"
    assert {each: signal.getsignal(each) for each in handlers} == handlers
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        own = {each: signal.getsignal(each) for each in handlers}
        events = []
        results = launch(events=events, inline=False, actors=1)
        assert len(units_done(events)) == UNITS
        assert ray.is_initialized()
        assert ray.get(ray.remote(lambda: 42).remote()) == 42
        assert {each: signal.getsignal(each) for each in handlers} == own
        with pytest.raises(ClusterError, match=r"uses the Ray cluster .* already"):
            launch("elsewhere", inline=False, address="127.0.0.1:1")
        with pytest.raises(ZeroDivisionError):
            launch("broken", inline=False, actors=1, on_event=lambda event: isinstance(event, JobDone) and 1 / 0)
        assert ray.get(ray.remote(lambda: 43).remote()) == 43
        assert tables(results.path) == tables(alone.path) == tables(finished)
    finally:
        ray.shutdown()
        for each, handler in handlers.items():
            signal.signal(each, handler)


@pytest.mark.slow
def test_signal_handlers_stay_as_they_were_and_threads_may_launch(launch):
    def own(signum, frame):
        raise AssertionError

    before = signal.signal(signal.SIGTERM, own), signal.signal(signal.SIGINT, own)
    try:
        seen = []
        launch(on_event=lambda _: seen.append((signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))))
        assert set(seen) == {(own, own)}
        found = []
        thread = threading.Thread(target=lambda: found.append(launch(limit=50)))
        thread.start()
        thread.join()
        assert found[0].summary["images"].to_pylist() == [50] * 10
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == (own, own)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


@pytest.mark.slow
def test_the_command_restores_the_handlers_it_found(write_sweep, tmp_path):
    def own(signum, frame):
        raise AssertionError

    before = signal.signal(signal.SIGTERM, own)
    try:
        options = ("--limit", 8, "--inline", "--mlflow", "none")
        command("launch", write_sweep(), "--results", tmp_path / "results", *options)
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_results_are_tables_for_pandas_and_duckdb_and_plain_values(launch, tmp_path):
    import duckdb

    launch()
    results = rmpsweep.Results.open(str(tmp_path / "results"))
    assert results.sweep.name == "tiny"
    assert [trial.trial_id for trial in results.trials] == [trial.trial_id for trial in results.plan.trials]
    assert len(results.trials) == 5
    frame = results.summary.to_pandas()
    assert len(frame) == 10
    best = results.best["soft"]
    rows = frame[(frame.trial_id == best.trial_id) & (frame.time_steps == best.time_steps)]
    assert rows.accuracy.tolist() == [best.final_accuracy]
    predictions = results.predictions
    assert predictions.num_rows == 440
    ((right,),) = duckdb.sql("select count(*) from predictions where correct and trial_id = 'ann'").fetchall()
    ann = predictions.filter(pc.equal(predictions["trial_id"], "ann"))
    assert right == sum(ann["correct"].to_pylist())
    assert results.activity.equals(pq.read_table(tmp_path / "results" / "activity.parquet"))
    assert repr(results) == f"<Results of tiny in {tmp_path / 'results'}: 5 trials on 40 images, T = 4 to 12>"


def test_what_cannot_be_opened_or_launched_is_said(launch, write_sweep, tmp_path):
    with pytest.raises(ResultsError, match="no sweep has been launched here"):
        rmpsweep.Results.open(tmp_path)
    with pytest.raises(SweepError, match="none of that name comes with rmpsweep"):
        rmpsweep.launch("no such sweep")
    with pytest.raises(SweepError, match="not both"):
        launch(actors=2)
    with pytest.raises(SweepError, match="--actors: got 0"):
        launch(inline=False, actors=0)
    poison = rmpsweep.load_sweep(write_sweep(), changes=["grid={alpha: [1e-30], numerics: [float32]}", "run.retries=0"])
    with pytest.raises(IncompleteError, match="units are missing"):
        rmpsweep.launch(poison, tmp_path / "poison", limit=8, inline=True, mlflow="none")
    assert rmpsweep.Results.open(tmp_path / "poison").summary.num_rows == 0, "what there is has been merged"


@pytest.mark.slow
@pytest.mark.parametrize(
    "does",
    [
        "import rmpsweep; dir(rmpsweep)",
        "import rmpsweep; rmpsweep.launch, rmpsweep.plan, rmpsweep.load_sweep('quickstart')",
        "import rmpsweep; rmpsweep.Results.open('{results}').summary.to_pylist()",
    ],
)
def test_neither_importing_nor_reading_loads_torch_ray_or_mlflow(does, launch, tmp_path):
    if "{results}" in does:
        launch(limit=8)
        does = does.format(results=tmp_path / "results")
    script = f"{does}\nimport sys\nprint(*{{'torch', 'ray', 'mlflow', 'altair'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("\n", 0), done.stderr


def test_importing_rmpsweep_loads_nothing_else_and_names_are_those_that_exist():
    script = "import sys, rmpsweep; print(*sorted(m for m in sys.modules if m.startswith('rmpsweep')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["rmpsweep"]
    assert set(rmpsweep.__all__) <= set(dir(rmpsweep))
    for name in rmpsweep.__all__:
        assert getattr(rmpsweep, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'lunch'"):
        _ = rmpsweep.lunch


@pytest.mark.server
def test_results_in_an_object_store_are_opened_by_their_uri(launch, tmp_path):
    import shutil

    from rmpsweep.storage import ObjectPath, locate
    from tests.helpers import servers

    launch()
    with servers.s3(tmp_path) as port, pytest.MonkeyPatch.context() as patch:
        for name, value in servers.AWS.items():
            patch.setenv(name, value)
        uri = f"s3://bucket/results?scheme=http&endpoint_override=127.0.0.1:{port}"
        there = Layout(locate(uri))
        assert isinstance(there.root, ObjectPath)
        for path in (tmp_path / "results").glob("*"):
            if path.is_file():
                (there.root / path.name).write_bytes(path.read_bytes())
        shutil.rmtree(tmp_path / "results")
        assert rmpsweep.Results.open(uri).summary.num_rows == 10
