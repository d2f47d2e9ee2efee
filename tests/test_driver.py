from collections import Counter, defaultdict
from dataclasses import dataclass

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmpsweep.driver import Outcome, execute
from rmpsweep.errors import ClusterError, DataError, StorageError
from rmpsweep.plan import Facts, Plan, Trial, Unit, pending
from rmpsweep.pools import InlinePool
from rmpsweep.results import UNIT_SCHEMA, Layout, UnitResult, commit_unit, scan
from rmpsweep.schema import Setting


@dataclass(frozen=True)
class Job:
    job_id: str


ERRORS = {"failed": ValueError("unlucky"), "hopeless": DataError("bad"), "full": StorageError("disk full")}


class FakePool:
    """Jobs end as `fates` says (per job, one word for each attempt, then "done"), in an order drawn at random.

    Fates: "done"; "failed", which may pass; "hopeless", an InputError; "full", a StorageError; "lost" with its worker.
    """

    def __init__(self, num_workers, fates, random):
        self.num_workers, self.fates, self.random = num_workers, fates, random
        self.alive, self.starting = num_workers, 0
        self.in_flight = []
        self.attempts = defaultdict(list)
        self.submitted = 0
        self.most_in_flight = 0
        self.polls_without_work = 0

    def num_idle(self):
        return self.alive - len(self.in_flight)

    def submit(self, job):
        assert self.num_idle() > 0, "no worker is idle"
        assert job not in self.in_flight, "a job runs twice at the same time"
        self.submitted += 1
        self.in_flight.append(job)
        self.most_in_flight = max(self.most_in_flight, len(self.in_flight))

    def wait(self, timeout_s):
        assert timeout_s > 0
        self.alive, self.starting = self.alive + self.starting, 0
        self.polls_without_work = 0 if self.in_flight else self.polls_without_work + 1
        assert self.polls_without_work < 3, "waits for nothing"
        num = self.random.randint(0, len(self.in_flight))
        return [self.end(job) for job in self.random.sample(self.in_flight, num)]

    def end(self, job):
        self.in_flight.remove(job)
        fates, number = self.fates.get(job.job_id, []), len(self.attempts[job.job_id])
        fate = fates[number] if number < len(fates) else "done"
        self.attempts[job.job_id].append(fate)
        if fate == "done":
            return Outcome(job, "done", report=f"report of {job.job_id}")
        if fate == "lost":
            self.alive -= 1
            return Outcome(job, "lost", message="worker died")
        return Outcome(job, "failed", error=ERRORS[fate])

    def replace_lost(self):
        self.starting = self.num_workers - self.alive

    def close(self):
        pass


JOBS = [Job(name) for name in "abcdefgh"]
FATES = st.dictionaries(
    st.sampled_from("abcdefgh"), st.lists(st.sampled_from(["failed", "lost", "hopeless", "done"]), max_size=4)
)
RANDOM = st.randoms(use_true_random=False)


def expected_attempts(fates, retries):
    """A job's attempts, from its fates alone: until one is done, hopeless, or the last that is allowed."""
    attempts = []
    for fate in [*fates, *["done"] * (retries + 1)][: retries + 1]:
        attempts.append(fate)
        if fate in ("done", "hopeless"):
            break
    return attempts


@settings(max_examples=200, deadline=None)
@given(FATES, st.integers(0, 3), st.integers(1, 4), st.integers(0, 8), RANDOM)
def test_every_job_is_done_once_or_quarantined_whatever_fails_or_dies(fates, retries, num_workers, num_jobs, random):
    jobs = JOBS[:num_jobs]
    expected = {job.job_id: expected_attempts(fates.get(job.job_id, []), retries) for job in jobs}
    deaths = sum(attempts.count("lost") for attempts in expected.values())
    pool = FakePool(num_workers, fates, random)
    if deaths > num_workers * (retries + 1) + num_jobs:
        with pytest.raises(ClusterError, match=r"workers died, giving up; the last one: worker died"):
            execute(iter(jobs), pool, retries)
        return
    result = execute(iter(jobs), pool, retries)
    assert pool.attempts == expected
    assert Counter(outcome.job.job_id for outcome in result.outcomes) == Counter(
        name for name, attempts in expected.items() if attempts[-1] == "done"
    )
    assert all(outcome.report == f"report of {outcome.job.job_id}" for outcome in result.outcomes)
    assert {bad.outcome.job.job_id: bad.attempts for bad in result.quarantined} == {
        name: len(attempts) for name, attempts in expected.items() if attempts[-1] != "done"
    }
    assert len(result.quarantined) + len(result.outcomes) == num_jobs
    assert pool.most_in_flight <= num_workers
    assert pool.alive + pool.starting == num_workers
    assert not result.interrupted


@settings(max_examples=200, deadline=None)
@given(FATES, st.integers(0, 2), st.integers(1, 4), st.integers(1, 12), RANDOM)
def test_stop_starts_nothing_new_and_waits_for_jobs_in_flight(fates, retries, num_workers, stop_at, random):
    pool = FakePool(num_workers, fates, random)
    submitted_before = []

    def stop():
        if len(submitted_before) < stop_at:
            submitted_before.append(pool.submitted)
        return len(submitted_before) == stop_at

    result = execute(JOBS, pool, retries, stop=stop)
    ended = len(result.outcomes) + len(result.quarantined)
    assert pool.in_flight == []
    assert sum(map(len, pool.attempts.values())) == pool.submitted
    assert pool.submitted == submitted_before[-1] or len(submitted_before) < stop_at
    assert result.interrupted == (ended < len(JOBS))


def test_workers_are_kept_busy():
    pool = FakePool(3, {}, random=InOrder())
    execute(JOBS, pool, retries=0)
    assert pool.most_in_flight == 3


class InOrder:
    """In place of random: every job in flight ends, in the order they were started."""

    randint = staticmethod(lambda low, high: high)
    sample = staticmethod(lambda population, num: population[:num])


EVENTS = [
    ([], ["done"]),
    (["failed"], ["retry", "done"]),
    (["lost"], ["lost", "retry", "done"]),
    (["hopeless"], ["quarantined"]),
    (["failed", "failed", "failed"], ["retry", "retry", "quarantined"]),
    (["failed", "lost", "lost"], ["retry", "lost", "retry", "lost", "quarantined"]),
]


@pytest.mark.parametrize(("fates", "expected"), EVENTS)
def test_every_attempt_is_reported(fates, expected):
    events = []
    execute(JOBS[:1], FakePool(1, {"a": fates}, InOrder()), 2, on_event=lambda name, what: events.append((name, what)))
    assert [name for name, _ in events] == expected
    jobs = [what.outcome.job if name == "quarantined" else what.job for name, what in events]
    assert set(jobs) == {JOBS[0]}


def test_a_place_that_stays_unusable_ends_the_run_and_one_that_recovers_does_not():
    assert len(execute(JOBS, FakePool(2, {"a": ["full"]}, InOrder()), retries=1).outcomes) == len(JOBS)
    with pytest.raises(StorageError, match="disk full"):
        execute(JOBS, FakePool(2, {"a": ["full", "full"]}, InOrder()), retries=1)


def test_workers_that_keep_dying_end_the_run():
    pool = FakePool(2, {job.job_id: ["lost"] * 4 for job in JOBS}, InOrder())
    with pytest.raises(ClusterError, match="17 workers died, giving up"):
        execute(JOBS, pool, retries=3)  # 2 workers x 4 attempts + 8 jobs = 16 deaths are within reason


# A worker that commits units, as in a sweep; the rows mean nothing here.

PLAN = Plan("context", Facts("w", "d", "c", 10, 10), (Trial("a", "c", Setting()),), (4,), 10, 2)


@dataclass(frozen=True)
class UnitJob:
    unit: Unit

    @property
    def job_id(self):
        return self.unit.unit_id("context")


class Committer:
    """Commits each unit it is given; fails before or after the commit where told to."""

    def __init__(self, layout, before=(), after=()):
        self.layout, self.before, self.after, self.ran = layout, before, after, []

    def setup(self):
        return "CPU"

    def run(self, job):
        self.ran.append(job.unit.start)
        if job.unit.start in self.before:
            raise RuntimeError("before the commit")
        rows = [{"trial_id": t, "image_id": i, "label": 0, "time_steps": steps[0], "prediction": 0, "label_rank": 0}
                for t, steps in job.unit.work for i in range(job.unit.start, job.unit.stop)]  # fmt: skip
        commit_unit(
            self.layout, UnitResult(job.unit, "context", {}, pa.Table.from_pylist(rows, schema=UNIT_SCHEMA), ())
        )
        if job.unit.start in self.after:
            raise RuntimeError("after the commit")


def launch(worker, retries=0, stop=lambda: False):
    """One run as the pipeline does it: what the disk lacks is what is done."""
    todo = pending(PLAN, scan(worker.layout, "context", {}).done)
    return execute(map(UnitJob, todo), InlinePool(lambda threads, device: worker), retries, stop=stop)


def left(layout):
    return [unit.start for unit in pending(PLAN, scan(layout, "context", {}).done)]


def test_rerun_after_failure_runs_each_unit_once(tmp_path):
    first, second, third = (
        Committer(Layout(tmp_path), before=[4, 8]),
        Committer(Layout(tmp_path)),
        Committer(Layout(tmp_path)),
    )
    assert [bad.outcome.job.unit.start for bad in launch(first).quarantined] == [4, 8]
    assert left(first.layout) == [4, 8]
    assert (launch(second).quarantined, second.ran) == ([], [4, 8])
    assert (launch(third).outcomes, third.ran, left(third.layout)) == ([], [], [])


def test_a_poison_unit_leaves_the_others_finished(tmp_path):
    worker = Committer(Layout(tmp_path), before=[2])
    (bad,) = launch(worker, retries=2).quarantined
    assert (bad.attempts, bad.outcome.message) == (3, "RuntimeError: before the commit")
    assert Counter(worker.ran) == {0: 1, 2: 3, 4: 1, 6: 1, 8: 1}
    assert left(worker.layout) == [2]


def test_a_unit_that_failed_after_its_commit_counts_once(tmp_path):
    worker = Committer(Layout(tmp_path), after=[2])
    launch(worker, retries=1)
    journal = scan(worker.layout, "context", {})
    assert worker.ran.count(2) == 2
    assert (len(journal.results), dict(journal.rejected), left(worker.layout)) == (5, {}, [])


def test_rerun_after_interruption_does_the_rest(tmp_path):
    first, second = Committer(Layout(tmp_path)), Committer(Layout(tmp_path))
    assert launch(first, stop=lambda: len(first.ran) == 2).interrupted
    assert (first.ran, left(first.layout)) == ([0, 2], [4, 6, 8])
    assert not launch(second).interrupted
    assert (second.ran, left(second.layout)) == ([4, 6, 8], [])
