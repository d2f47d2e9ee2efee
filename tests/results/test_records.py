"""The JSON files of a results directory are read as values, written as they were, and refused in another form."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rmpsweep.data.figures import InputFigures
from rmpsweep.errors import ResultsError, StorageError
from rmpsweep.pipeline.look import look
from rmpsweep.pipeline.prepare import reopen
from rmpsweep.pipeline.publish import publish
from rmpsweep.results import Layout, PlanFile, ProgressFile, RunRecord, SearchFile
from rmpsweep.results.records import STALE_S, ErrorRecord, FlightRecord, LaunchRecord, QuarantinedUnit, Round
from rmpsweep.stats.sequential import Defeat

EARLIER = Path(__file__).parents[1] / "fixtures" / "results-b667ece"
UNIT = QuarantinedUnit(
    unit="0123", positions=(0, 8), cells={"ann": 8}, attempts=3, message="broken", detail="Traceback …", log="a.log"
)
LAUNCH = LaunchRecord(started="2026-01-31T12:00:00Z", wall_s=12.0, workers=2, units=4, image_steps=1000, worker_s=10.0)
PROGRESS = ProgressFile(
    stage="evaluating",
    written=0.0,
    began=0.0,
    image_steps=100,
    image_steps_done=50,
    image_steps_per_s=2.5,
    eta_s=20,
    jobs_waiting=3,
    jobs_done=1,
    jobs_retried=0,
    jobs_quarantined=0,
    workers_lost=0,
    input=InputFigures(images_decoded=8, decode_s=0.5),
    workers={"busy": 1},
    in_flight=(
        FlightRecord(
            job="0123",
            worker="worker-1",
            place="here",
            log="",
            seconds=1.0,
            silent_s=0.5,
            done=0.25,
            copy=False,
            cells={"ann": 8},
        ),
    ),
    last_errors=(ErrorRecord(job="4567", worker="worker-2", message="gone", log=""),),
)
SEARCH = SearchFile(
    error=0.05,
    time_steps=(8,),
    images=100,
    over=False,
    rounds=(Round(images=20, running=2, stopped=("b",)),),
    stopped={"b": (Defeat(time_steps=8, rival="a", images=20, difference_points=12.5, odds=None),)},
    added=("c",),
    image_steps=960,
    image_steps_of_grid=1600,
)


@pytest.fixture
def earlier(tmp_path) -> Layout:
    """A results directory that version b667ece wrote."""
    shutil.copytree(EARLIER, tmp_path / "earlier")
    return Layout(tmp_path / "earlier")


def test_files_of_an_earlier_version_are_written_again_byte_by_byte(earlier):
    for record, file in ((RunRecord.read(earlier), earlier.run), (PlanFile.read(earlier), earlier.plan)):
        assert record is not None
        before = file.read_bytes()
        file.unlink()
        record.write(earlier)
        assert file.read_bytes() == before


@pytest.mark.slow
def test_results_that_an_earlier_version_has_published_count_as_published(earlier, tmp_path):
    (tmp_path / "earlier" / "report.html").write_text("the report")
    now = look(reopen(earlier.root))
    assert now.todo == ()
    assert publish(now, tmp_path / "weights", None) is False
    assert (tmp_path / "earlier" / "report.html").read_text() == "the report"
    assert publish(now, tmp_path / "weights", f"sqlite:///{tmp_path / 'elsewhere.db'}") is True


@pytest.mark.parametrize(
    "record",
    [
        RunRecord(created_ms=1),
        RunRecord(created_ms=1, warnings=("w",), published="0123"),
        RunRecord(created_ms=1, launches=(LAUNCH, replace(LAUNCH, input=InputFigures(1, 2, 3.0)))),
        RunRecord(created_ms=1, launches=(LAUNCH,), git={"commit": "0", "dirty": True}, quarantined=(UNIT,)),
        SEARCH,
    ],
)
def test_what_is_written_is_what_is_read(record, tmp_path):
    layout = Layout(tmp_path)
    assert type(record).read(layout) is None
    record.write(layout)
    assert type(record).read(layout) == record


def test_progress_is_read_while_it_is_fresh(tmp_path):
    layout = Layout(tmp_path)
    fresh = replace(PROGRESS, written=time.time())
    fresh.write(layout)
    assert ProgressFile.read(layout) == fresh
    assert json.loads(layout.progress.read_text()) == json.loads(json.dumps(fresh.document()))
    replace(PROGRESS, written=time.time() - STALE_S - 1).write(layout)
    assert ProgressFile.read(layout) is None


def test_a_launch_without_a_record_of_it_is_told_from_a_first_launch(tmp_path):
    layout = Layout(tmp_path)
    layout.run.write_text('{"created_ms": 5, "launches": []}')
    assert RunRecord.read(layout) == RunRecord(created_ms=5)
    assert set(RunRecord(created_ms=5).document()) == {"created_ms", "launches", "warnings"}


def test_the_pace_is_that_of_the_last_launch_that_simulated_something():
    assert RunRecord(created_ms=1).pace() is None
    idle = replace(LAUNCH, units=1, image_steps=0)
    pace = RunRecord(created_ms=1, launches=(replace(LAUNCH, workers=1), LAUNCH, idle)).pace()
    assert (pace.rate, pace.workers, pace.around_s) == (100.0, 2, 7.0)


def test_warnings_are_said_once_and_those_about_the_ann_are_replaced():
    run = RunRecord(created_ms=1).with_warnings(["a", "ANN baseline: 10 %", "a"])
    assert run.warnings == ("a", "ANN baseline: 10 %")
    again = run.with_baseline_warnings(["ANN baseline: 20 %"])
    assert (again.warnings, again.baseline_warnings) == (("a", "ANN baseline: 20 %"), ["ANN baseline: 20 %"])
    assert again.with_baseline_warnings([]).warnings == ("a",)


@pytest.mark.parametrize(
    ("record", "content"),
    [
        (RunRecord, "[]"),
        (RunRecord, '{"launches": []}'),
        (RunRecord, '{"created_ms": 1, "launches": [{"units": 1}]}'),
        (SearchFile, '{"time_steps": [1]}'),
        (ProgressFile, '{"written": 1e12}'),
        (RunRecord, "{"),
    ],
)
def test_files_of_another_form_are_named(record, content, tmp_path):
    layout = Layout(tmp_path)
    file = {RunRecord: layout.run, SearchFile: layout.search, ProgressFile: layout.progress}[record]
    file.write_text(content)
    with pytest.raises(StorageError, match=file.name):
        record.read(layout)


def test_a_plan_is_read_where_a_sweep_lies_beside_it(earlier):
    earlier.sweep.unlink()
    with pytest.raises(ResultsError, match="no sweep has been launched here"):
        PlanFile.read(earlier)
    earlier.sweep.write_text("name: before\n")
    earlier.plan.write_text('{"context": "x", "facts": {}, "trials": []}')
    with pytest.raises(StorageError, match=r"plan\.json: not a plan of this version"):
        PlanFile.read(earlier)
