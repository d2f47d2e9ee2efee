"""A look at a results directory: what counts, what is left, and what a later look of the same launch reads again."""

from dataclasses import replace

import pytest

from rmpsweep.errors import StorageError
from rmpsweep.pipeline.look import look, read_calibrations
from rmpsweep.pipeline.prepare import reopen
from rmpsweep.results import Layout, write_thresholds
from rmpsweep.storage import ObjectPath, locate
from tests.helpers.synthetic import Synthetic


@pytest.fixture
def planned(tmp_path):
    """A synthetic sweep whose units are all committed."""
    return Synthetic().write(tmp_path / "results")


def units(planned):
    return sorted(planned.layout.units.glob("*.parquet"))


def test_what_is_reopened_is_what_was_prepared(planned):
    there, again = look(planned), look(reopen(planned.layout.root))
    assert (there.plan, there.sweep, there.dataset) == (again.plan, again.sweep, again.dataset)
    assert (there.todo, there.cells_left, there.search) == ((), 0, None)
    assert there.journal.results == again.journal.results
    assert len(there.journal.results) == len(units(planned))


def test_a_later_look_reads_new_files_alone_and_a_fresh_one_reads_all(planned):
    first, *others = units(planned)
    content = first.read_bytes()
    first.unlink()
    before = look(planned)
    assert [unit.unit_id(planned.plan.context) for unit in before.todo] == [first.stem]
    assert before.cells_left == before.todo[0].num_cells == sum(before.todo[0].cells.values())
    first.write_bytes(content)
    others[0].write_bytes(b"damaged after it was verified")
    later = look(planned, before.journal)
    assert (later.todo, later.journal.rejected) == ((), {})
    assert list(look(planned).journal.rejected) == [others[0].name]
    others[1].unlink()
    assert len(look(planned, later.journal).todo) == 1, "a file that is gone does not count"


def test_files_verified_before_are_judged_by_the_thresholds_of_now(planned):
    before = look(planned)
    for calibration_id in before.calibrations:
        write_thresholds(planned.layout.thresholds(calibration_id), {"input": [1.0], "conv0": [2.0]})
    later = look(planned, before.journal)
    assert set(later.journal.rejected.values()) == {"made with other thresholds"}
    assert later.journal.rejected == look(planned).journal.rejected


def test_units_count_again_once_the_same_thresholds_are_there_again(planned):
    kept = {path: path.read_bytes() for path in planned.layout.calibration.glob("*.parquet")}
    for path in kept:
        path.write_bytes(b"damaged")
    damaged = look(planned)
    assert damaged.calibrations == {}
    assert damaged.cells_left > 0
    for path, content in kept.items():
        path.write_bytes(content)
    assert look(planned, damaged.journal).todo == ()


def test_thresholds_in_a_store_that_is_away_are_not_taken_for_missing(planned, monkeypatch):
    def read(path):
        raise error

    monkeypatch.setattr(ObjectPath, "read_bytes", read)
    layout = Layout(locate("s3://bucket/results"))
    error = FileNotFoundError("no such object")
    assert read_calibrations(layout, planned.plan) == {}
    error = StorageError("s3://bucket/results: cannot be reached")
    with pytest.raises(StorageError, match="cannot be reached"):
        read_calibrations(layout, planned.plan)
    with pytest.raises(StorageError, match="cannot be reached"):
        look(replace(planned, layout=layout))


def test_units_are_cut_for_the_workers_and_hold_every_missing_cell(planned):
    for path in units(planned):
        path.unlink()
    now = look(planned)
    for workers in (1, 4):
        assert sum(unit.num_cells for unit in now.cut(workers)) == now.cells_left == planned.plan.num_cells
    jobs = now.jobs(now.cut(4, within=(0, 16)))
    assert max(job.unit.stop for job in jobs) == 16
    for job in jobs:
        assert set(job.trials) == {trial for trial, _ in job.unit.work} - {"ann"}
        assert job.job_id == job.unit.unit_id(planned.plan.context)
