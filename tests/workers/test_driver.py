import itertools
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import get_args

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmpsweep.errors import ClusterError, DataError, NetworkError, StorageError
from rmpsweep.results import UNIT_SCHEMA, Layout, UnitResult, commit_unit, make_units, scan
from rmpsweep.sweep.plan import Facts, Plan, Trial, Unit, pending
from rmpsweep.terms import Setting
from rmpsweep.workers.driver import UNCHARGED, Driver
from rmpsweep.workers.events import (
    Change,
    Event,
    JobCopied,
    JobDone,
    JobLost,
    JobQuarantined,
    JobRetried,
    Limits,
    StageBegan,
    WorkerChanged,
)
from rmpsweep.workers.jobs import JobReport
from rmpsweep.workers.pools import InlinePool
from rmpsweep.workers.protocol import Ended, Gone, Outcome, Placed, Ready, Refused
from rmpsweep.workers.state import Snapshot


@dataclass(frozen=True)
class Job:
    job_id: str
    cost: float = 1.0
    spares: bool = False

    def sparing(self):
        return replace(self, spares=True)


ERRORS = {
    "failed": ValueError("unlucky"),
    "memory": MemoryError(),
    "hopeless": DataError("bad"),
    "full": StorageError("disk full"),
}
FREE = ("node", "preempted")


class FakePool:
    """Jobs end as `fates` says (per job, one word for each attempt, then "done"), in an order drawn at random.

    Fates: "done"; "failed", which may pass; "hopeless", an InputError; "full", a StorageError; "memory", out of memory;
    "lost" with its worker, "node" and "preempted" with its node; "hang", for ever. A second passes with each call.
    """

    def __init__(self, num_workers, fates, random):
        self.num_workers, self.fates, self.random = num_workers, fates, random
        self.clock, self.names = 0.0, itertools.count(1)
        self.alive, self.starting, self.running = set(), [], {}
        self.attempts, self.workers_of = defaultdict(list), defaultdict(list)
        self.submitted = self.most_alive = self.polls_without_work = 0
        self.setups = []

    def now(self):
        return self.clock

    def wanted(self):
        return self.num_workers

    def describe(self):
        return "imagined workers"

    def start(self):
        name = f"worker-{next(self.names)}"
        self.starting.append(name)
        self.most_alive = max(self.most_alive, len(self.alive) + len(self.starting))
        return name

    def submit(self, worker, job):
        assert worker in self.alive, "a worker that is not there"
        assert worker not in self.running, "a worker does one job at a time"
        self.submitted += 1
        fates, number = self.fates.get(job.job_id, []), len(self.workers_of[job.job_id])
        self.running[worker] = job, fates[number] if number < len(fates) else "done"
        self.workers_of[job.job_id].append(worker)

    def stop(self, worker):
        self.alive.discard(worker)
        if worker in self.running:
            job, fate = self.running.pop(worker)
            self.attempts[job.job_id].append(fate)
        if worker in self.starting:
            self.starting.remove(worker)

    def wait(self, timeout_s):
        assert timeout_s > 0
        self.clock += 1
        self.polls_without_work = 0 if self.running else self.polls_without_work + 1
        assert self.polls_without_work < 99, "waits for nothing"
        events = []
        for name in list(self.starting):
            setup = self.setups.pop(0) if self.setups else "ready"
            if setup == "never":
                self.setups.append("never")
                continue
            if setup == "loads":
                self.starting.remove(name)
                events.append(Placed(worker=name, place="somewhere"))
                continue
            self.starting.remove(name)
            if setup == "ready":
                self.alive.add(name)
                events.append(Ready(worker=name, device="a device"))
            elif setup == "dies":
                events.append(Gone(worker=name, message="died while it was set up", cause="died"))
            else:
                events.append(Refused(worker=name, error=setup, message=f"cannot be set up: {setup}"))
        moving = sorted(worker for worker, (_, fate) in self.running.items() if fate != "hang")
        num = self.random.randint(min(len(moving), self.clock % 8 == 0), len(moving))
        return events + [self.end(worker) for worker in self.random.sample(moving, num)]

    def end(self, worker):
        job, fate = self.running[worker]
        del self.running[worker]
        self.attempts[job.job_id].append(fate)
        if fate == "done":
            outcome = Outcome(job=job, kind="done", report=f"report of {job.job_id}", worker=worker)
            return Ended(worker=worker, outcome=outcome)
        if fate in ("failed", "hopeless", "full"):
            return Ended(worker=worker, outcome=Outcome(job=job, kind="failed", error=ERRORS[fate], worker=worker))
        self.alive.discard(worker)
        if fate == "memory":
            outcome = Outcome(job=job, kind="failed", error=ERRORS[fate], cause="memory", worker=worker)
            return Gone(worker=worker, outcome=outcome)
        return Gone(worker=worker, message=f"{fate}: worker died", cause="died" if fate == "lost" else fate)


JOBS = [Job(name) for name in "abcdefgh"]
FATE = st.sampled_from(["failed", "lost", "hopeless", "done", "memory", "hang", *FREE])
FATES = st.dictionaries(st.sampled_from("abcdefgh"), st.lists(FATE, max_size=5))
RANDOM = st.randoms(use_true_random=False)
LIMITS = Limits(retries=2, stall_s=120, setup_s=60, schedule_s=90)


def expected_attempts(fates, retries):
    """A job's attempts, from its fates alone: until one is done, hopeless, or the last that is allowed."""
    attempts, charged, free = [], 0, 0
    for fate in itertools.chain(fates, itertools.repeat("done")):
        attempts.append(fate)
        if fate in ("done", "hopeless"):
            return attempts
        if fate in FREE and free < UNCHARGED:
            free += 1
        else:
            charged += 1
        if charged > retries:
            return attempts
    raise AssertionError


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(FATES, st.integers(0, 3), st.integers(1, 4), st.integers(0, 8), RANDOM)
def test_every_job_is_done_once_or_quarantined_whatever_fails_hangs_or_dies(fates, retries, workers, num_jobs, random):
    jobs = JOBS[:num_jobs]
    expected = {job.job_id: expected_attempts(fates.get(job.job_id, []), retries) for job in jobs}
    pool = FakePool(workers, fates, random)
    events = []
    result = Driver(pool, replace(LIMITS, retries=retries)).execute(iter(jobs), events.append)
    done = Counter(outcome.job.job_id for outcome in result.outcomes)
    given_up = Counter(bad.outcome.job.job_id for bad in result.quarantined)
    assert done + given_up == Counter(job.job_id for job in jobs)
    assert all(outcome.report == f"report of {outcome.job.job_id}" for outcome in result.outcomes)
    assert not result.interrupted
    assert not result.gave_up
    assert pool.most_alive <= workers
    if not any(
        isinstance(event, JobCopied) for event in events
    ):  # without copies of slow jobs, every attempt is foretold
        assert pool.attempts == {job: attempts for job, attempts in expected.items() if attempts}
        assert set(done) == {name for name, attempts in expected.items() if attempts[-1] == "done"}


def test_without_slow_jobs_there_are_no_copies():
    fates = {"a": ["failed", "lost"], "b": ["preempted"], "c": ["hopeless"]}
    pool = FakePool(3, fates, InOrder())
    Driver(pool, LIMITS).execute(JOBS)
    assert pool.attempts == {job.job_id: expected_attempts(fates.get(job.job_id, []), 2) for job in JOBS}


@settings(max_examples=200, deadline=None)
@given(FATES, st.integers(0, 2), st.integers(1, 4), st.integers(1, 12), RANDOM)
def test_stop_starts_nothing_new_and_waits_for_jobs_in_flight(fates, retries, workers, stop_at, random):
    pool = FakePool(workers, fates, random)
    submitted_before = []

    def stop():
        if len(submitted_before) < stop_at:
            submitted_before.append(pool.submitted)
        return len(submitted_before) == stop_at

    result = Driver(pool, replace(LIMITS, retries=retries)).execute(JOBS, stop=stop)
    ended = len(result.outcomes) + len(result.quarantined)
    assert pool.submitted == submitted_before[-1] or len(submitted_before) < stop_at
    assert result.interrupted == (ended < len(JOBS))


def test_workers_are_kept_busy_and_the_largest_jobs_come_first():
    pool = FakePool(3, {}, InOrder())
    Driver(pool, LIMITS).execute([Job(str(cost), cost) for cost in range(1, 10)])
    assert list(pool.workers_of)[:3] == ["9", "8", "7"]
    assert pool.most_alive == 3


def test_workers_live_on_from_one_list_of_jobs_to_the_next():
    pool = FakePool(2, {}, InOrder())
    driver = Driver(pool, LIMITS)
    driver.execute(JOBS[:4])
    driver.execute(JOBS[4:])
    assert len(driver.devices) == 2
    assert set(pool.attempts) == {job.job_id for job in JOBS}


class InOrder:
    """In place of random: every job in flight ends, in the order of their workers."""

    randint = staticmethod(lambda low, high: high)
    sample = staticmethod(lambda population, num: population[:num])


EVENTS = [
    ([], [JobDone]),
    (["failed"], [JobRetried, JobDone]),
    (["lost"], [JobLost, JobRetried, JobDone]),
    (["hang"], [JobLost, JobRetried, JobDone]),
    (["hopeless"], [JobQuarantined]),
    (["failed", "failed", "failed"], [JobRetried, JobRetried, JobQuarantined]),
    (["failed", "lost", "lost"], [JobRetried, JobLost, JobRetried, JobLost, JobQuarantined]),
    (["preempted", "node", "preempted"], [JobLost, JobRetried] * 3 + [JobDone]),
]


@pytest.mark.parametrize(("fates", "expected"), EVENTS)
def test_every_attempt_is_reported(fates, expected):
    events = []
    pool = FakePool(1, {"a": fates}, InOrder())
    stage = StageBegan(stage="evaluating", jobs=1)
    Driver(pool, LIMITS).execute(JOBS[:1], events.append, stage=stage)
    assert events[0] is stage
    told = [event for event in events[1:] if not isinstance(event, WorkerChanged | Snapshot)]
    assert [type(event) for event in told] == expected
    assert {(event.stage, event.job) for event in told} == {("evaluating", "a")}


def test_workers_that_come_and_go_are_reported():
    events = []
    pool = FakePool(1, {"a": ["lost"]}, InOrder())
    pool.setups = ["dies", StorageError("disk full"), "ready"]
    Driver(pool, LIMITS).execute(JOBS[:1], events.append)
    changes = [(event.worker, event.change, event.about) for event in events if isinstance(event, WorkerChanged)]
    assert changes == [
        ("worker-1", "gone", "died while it was set up"),
        ("worker-2", "refused", "cannot be set up: disk full"),
        ("worker-3", "ready", "a device"),
        ("worker-3", "gone", "lost: worker died"),
        ("worker-4", "ready", "a device"),
    ]


def test_events_are_lines_of_plain_values():
    """The lines of --json, which others read: their words and keys stay."""
    of_job = {"stage": "evaluating", "job": "u", "worker": "w"}
    failed = {**of_job, "message": "bad"}
    report = JobReport(value=None, seconds=2.5)
    lines = [
        (
            StageBegan(stage="evaluating", jobs=3, image_steps=7),
            {"event": "stage", "stage": "evaluating", "image_steps": 7},
        ),
        (JobDone(**of_job, cost=4.0, report=report), {"event": "done", **of_job, "cost": 4.0, "seconds": 2.5}),
        (JobCopied(**of_job), {"event": "copy", **of_job}),
        (JobRetried(**failed, log="l"), {"event": "retry", **failed}),
        (JobLost(**failed, log="l"), {"event": "lost", **failed}),
        (JobQuarantined(**failed, log="l"), {"event": "quarantined", **failed}),
    ]
    for change in get_args(Change):
        event = WorkerChanged(worker="w", change=change, about="somewhere")
        lines.append((event, {"event": f"worker {change}", "worker": "w", "place": "somewhere"}))
    assert {type(event) for event, _ in lines} == set(get_args(Event))
    for event, line in lines:
        assert list(event.plain().items()) == list(line.items())


@pytest.mark.slow
def test_events_jobs_and_driver_need_neither_torch_nor_ray():
    modules = ", ".join(f"rmpsweep.workers.{name}" for name in ("events", "jobs", "driver", "pools"))
    code = f"import sys, {modules}; print({{'torch', 'ray'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_losing_nodes_is_free_up_to_a_point():
    pool = FakePool(1, {"a": ["node"] * 99}, InOrder())
    (bad,) = Driver(pool, LIMITS).execute(JOBS[:1]).quarantined
    assert pool.attempts["a"] == ["node"] * (UNCHARGED + LIMITS.retries + 1)
    assert bad.attempts == LIMITS.retries + 1


def test_what_failed_on_one_worker_is_tried_on_another():
    pool = FakePool(2, {"a": ["failed"]}, InOrder())
    Driver(pool, LIMITS).execute(JOBS)
    first, second = pool.workers_of["a"]
    assert first != second


def test_out_of_memory_is_tried_again_in_as_little_as_can_be():
    pool = FakePool(1, {"a": ["memory"]}, InOrder())
    (outcome,) = Driver(pool, LIMITS).execute(JOBS[:1]).outcomes
    assert outcome.job.spares


def test_a_hanging_job_is_stopped_at_its_deadline():
    pool = FakePool(1, {"a": ["hang"] * 3}, InOrder())
    (bad,) = Driver(pool, LIMITS).execute(JOBS[:1]).quarantined
    assert bad.outcome.message == "worker-3 on its place: no progress for 120 s"
    assert 3 * 120 <= pool.clock < 3 * 120 + 30


def test_a_place_that_stays_unusable_ends_the_run_and_one_that_recovers_does_not():
    assert len(Driver(FakePool(2, {"a": ["full"]}, InOrder()), LIMITS).execute(JOBS).outcomes) == len(JOBS)
    with pytest.raises(StorageError, match="disk full"):
        Driver(FakePool(2, {"a": ["full"] * 3}, InOrder()), LIMITS).execute(JOBS)


def test_workers_that_keep_dying_end_the_run():
    fates = {str(i): ["lost"] * 3 for i in range(40)}
    with pytest.raises(ClusterError, match=r"49 workers were lost, none ended a job in between; the last: lost"):
        Driver(FakePool(2, fates, InOrder()), LIMITS).execute([Job(name) for name in fates])


SETUPS = [
    ([NetworkError("no such file")], NetworkError, "^no such file$"),
    ([StorageError("disk full")] * 4, StorageError, "disk full"),
    ([ZeroDivisionError("1 / 0")] * 4, ClusterError, "no worker can be set up .* 1 / 0"),
    (["dies"] * 4, ClusterError, "no worker can be set up .*: died while it was set up"),
    (["loads"], ClusterError, "no worker can be set up"),
    (["never"], ClusterError, "no worker was started within 90 s: imagined workers"),
]


@pytest.mark.parametrize(("setups", "error", "message"), SETUPS)
def test_workers_that_cannot_be_set_up_end_the_run(setups, error, message):
    pool = FakePool(1, {}, InOrder())
    pool.setups = setups * (1 if setups != ["loads"] else 10_000)
    pool.polls_without_work = -1000
    with pytest.raises(error, match=message):
        Driver(pool, LIMITS).execute(JOBS)


def test_a_worker_that_cannot_be_set_up_is_replaced():
    pool = FakePool(2, {}, InOrder())
    pool.setups = ["dies", "ready", "dies", "ready"]
    assert len(Driver(pool, LIMITS).execute(JOBS).outcomes) == len(JOBS)


@pytest.mark.parametrize("problem", ["dies", NetworkError("weights: no such file"), StorageError("read-only")])
def test_a_node_on_which_no_worker_can_be_set_up_does_not_end_a_run_that_goes_on_elsewhere(problem):
    pool = FakePool(2, {}, InOrder())
    pool.setups = ["ready", *[problem] * 99]
    result = Driver(pool, LIMITS).execute([Job(str(i)) for i in range(40)])
    assert len(result.outcomes) == 40
    assert len(pool.setups) > 85, "starts are spaced out"


def test_a_worker_that_fails_at_everything_is_replaced():
    fates = {job.job_id: ["full"] for job in JOBS}
    pool = FakePool(1, fates, InOrder())
    assert len(Driver(pool, LIMITS).execute(JOBS).outcomes) == len(JOBS)
    assert len({worker for workers in pool.workers_of.values() for worker in workers}) > 1


@pytest.mark.parametrize(("most", "submitted"), [(0, 1), (2, 3)])
def test_max_failures_ends_the_run_and_says_so(most, submitted):
    pool = FakePool(1, {job.job_id: ["failed"] * 3 for job in JOBS}, InOrder())
    result = Driver(pool, replace(LIMITS, max_failures=most)).execute(JOBS)
    assert result.gave_up == f"{most + 1} attempts failed, more than --max-failures {most}"
    assert pool.submitted == submitted
    assert result.interrupted


def test_fail_fast_ends_the_run_at_the_first_quarantine():
    pool = FakePool(1, {"b": ["hopeless"]}, InOrder())
    result = Driver(pool, replace(LIMITS, fail_fast=True)).execute(JOBS)
    assert result.gave_up == "b was given up, and --fail-fast is set"
    assert len(result.quarantined) == 1
    assert len(result.outcomes) < len(JOBS) - 1


def test_a_slow_job_gets_one_copy_and_the_faster_counts():
    pool = FakePool(4, {"a": ["hang"]}, InOrder())
    events = []
    result = Driver(pool, replace(LIMITS, stall_s=10_000)).execute(JOBS, events.append)
    assert [event.job for event in events if isinstance(event, JobCopied)] == ["a"]
    assert Counter(outcome.job.job_id for outcome in result.outcomes) == Counter(job.job_id for job in JOBS)
    assert pool.clock < 60


# A worker that commits units, as in a sweep; the rows mean nothing here.

PLAN = Plan("context", Facts("w", "d", "c", 10, 10), (Trial("a", "c", Setting()),), (4,), 10, 2)


@dataclass(frozen=True)
class UnitJob:
    unit: Unit
    cost = 1.0

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
        rows = [
            {"trial_id": t, "image_id": i, "label": 0, "time_steps": steps[0], "prediction": 0, "label_rank": 0}
            for t, steps in job.unit.work
            for i in range(job.unit.start, job.unit.stop)
        ]
        commit_unit(
            self.layout, UnitResult(job.unit, "context", {}, pa.Table.from_pylist(rows, schema=UNIT_SCHEMA), ())
        )
        if job.unit.start in self.after:
            raise RuntimeError("after the commit")


def launch(worker, retries=0, stop=lambda: False):
    """One run as the pipeline does it: what the disk lacks is what is done."""
    make_units(worker.layout)
    todo = pending(PLAN, scan(worker.layout, "context", {}).done)
    pool = InlinePool(lambda threads, device: worker)
    return Driver(pool, Limits(retries=retries)).execute(map(UnitJob, todo), stop=stop)


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
