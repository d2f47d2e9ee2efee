import ctypes
import os
import re
import signal
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from rmpsweep.errors import CalibrationError, ClusterError, NetworkError
from rmpsweep.workers.driver import Driver
from rmpsweep.workers.events import Limits
from rmpsweep.workers.pools import InlinePool, RayPool
from rmpsweep.workers.pools.connection import keep_off_stdout
from rmpsweep.workers.protocol import Beat, Ended, Gone, Ready, Refused
from tests.helpers.chaos import processes

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's processes cannot import test files
DEADLINE_S = 60.0


LIMITS = Limits(schedule_s=DEADLINE_S, setup_s=DEADLINE_S, stall_s=DEADLINE_S)


@dataclass(frozen=True)
class Job:
    job_id: str
    action: str = "answer"
    cost: float = 1.0

    def sparing(self):
        return replace(self, action=f"spare {self.action}")


class Worker:
    """Does what a job's action says; its setup what `at_setup` says."""

    def __init__(self, threads, device, at_setup="answer"):
        self.beats = 0
        self.threads, self.device, self.at_setup = threads, device, at_setup

    def setup(self):
        act(self.at_setup, self)
        return "a device"

    def run(self, job):
        self.beats = 1
        return act(job.action, self)

    def beat(self):
        return self.beats, 0.5


def act(action, worker):
    if action == "die":
        os._exit(1)
    if action == "find a silent layer":
        raise CalibrationError("layer 'conv1' is silent\nsecond line")
    if action == "find no weights":
        raise NetworkError("weights: no such file")
    if action == "divide":
        raise ZeroDivisionError("1 / 0")
    if action == "sleep":
        time.sleep(DEADLINE_S)
    if action == "take all memory":
        raise MemoryError("no more")
    if action == "crash":
        ctypes.string_at(0)
    if action.startswith("die while "):
        path = Path(action.removeprefix("die while "))
        if path.exists():
            path.unlink()
            os._exit(1)
    return {"process": os.getpid(), "threads": worker.threads, "device": worker.device}.get(action, 42)


def crew(pool, num):
    """Start workers and wait until they are ready."""
    names = {pool.start() for _ in range(num)}
    ready = set()
    wait_until(
        lambda: ready.update(event.worker for event in pool.wait(0.5) if isinstance(event, Ready)) or ready == names
    )
    return sorted(names)


def next_event(pool, kinds=Ended | Gone | Refused):
    found = []
    wait_until(lambda: found.extend(event for event in pool.wait(0.5) if isinstance(event, kinds)) or found)
    return found[0]


def run(pool, *actions):
    """Let the driver do jobs; action -> outcome, whatever it was."""
    jobs = [Job(f"{i}", action) for i, action in enumerate(actions)]
    driver = Driver(pool, replace(LIMITS, retries=0))
    result = driver.execute(jobs)
    ended = [*result.outcomes, *(bad.outcome for bad in result.quarantined)]
    return {outcome.job.action: outcome for outcome in ended}


def wait_until(condition, deadline_s=DEADLINE_S):
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


OUTCOMES = {
    "answer": ("done", 42, None, ""),
    "find a silent layer": ("failed", None, CalibrationError, "CalibrationError: layer 'conv1' is silent"),
    "find no weights": ("failed", None, NetworkError, "NetworkError: weights: no such file"),
    "divide": ("failed", None, ZeroDivisionError, "ZeroDivisionError: 1 / 0"),
}


def check_outcomes(pool, log=""):
    found = run(pool, *OUTCOMES)
    assert {
        action: (o.kind, o.report, o.error and type(o.error), o.message.partition(" (log: ")[0])
        for action, o in found.items()
    } == OUTCOMES
    failed = [outcome for outcome in found.values() if outcome.kind == "failed"]
    assert all("in act" in outcome.detail for outcome in failed)
    assert all(log in outcome.message for outcome in failed)


def test_a_cluster_that_is_not_there_is_an_error_at_once():
    assert not ray.is_initialized()
    with pytest.raises(ClusterError, match=r"Ray on 127\.0\.0\.1:1 cannot be used: .*--inline"):
        RayPool(Worker, 1, address="127.0.0.1:1")


def test_ray_is_kept_off_standard_output_where_it_can_be(capsys, monkeypatch):
    monkeypatch.setattr(ray._private.worker, "print_to_stdstream", lambda *_, **__: print("a worker died"))
    keep_off_stdout(ray)
    ray._private.worker.print_to_stdstream({}, ignore_prefix=False)
    assert capsys.readouterr().out == ""
    for other in (SimpleNamespace(), SimpleNamespace(_private=SimpleNamespace(worker=SimpleNamespace()))):
        before = repr(other)
        keep_off_stdout(other)
        assert repr(other) == before


@contextmanager
def ray_pool(*args, **options):
    pool = RayPool(*args, **options)
    try:
        yield pool
    finally:
        pool.close()


def test_jobs_end_as_their_workers_say_inline():
    check_outcomes(InlinePool(Worker))


def test_jobs_end_as_their_workers_say_on_ray_and_name_the_workers_log(connected, tmp_path):
    with ray_pool(Worker, 2, logs=tmp_path / "logs") as pool:
        check_outcomes(pool, f"(log: {tmp_path}/logs/")
    assert ray.is_initialized()
    text = "".join(path.read_text() for path in (tmp_path / "logs").iterdir())
    assert "is ready: a device, 1 threads" in text
    assert "ZeroDivisionError: 1 / 0" in text


def test_a_worker_that_crashes_leaves_a_traceback_in_its_log(connected, tmp_path):
    with ray_pool(Worker, 1, logs=tmp_path) as pool:
        outcome = run(pool, "crash")["crash"]
    assert (outcome.kind, outcome.cause) == ("lost", "died")
    assert outcome.log in outcome.message
    assert "Fatal Python error: Segmentation fault" in Path(outcome.log).read_text()


def test_a_log_that_cannot_be_written_keeps_no_worker_from_its_work(connected, tmp_path):
    (tmp_path / "file").write_text("")
    with ray_pool(Worker, 1, logs=tmp_path / "file") as pool:
        (outcome,) = run(pool, "answer").values()
    assert outcome.report == 42
    assert "worker" in outcome.log


@pytest.mark.parametrize(("num_workers", "threads"), [(1, 2), (2, 1), (None, 1)])
def test_workers_share_the_cpus(connected, num_workers, threads):
    with ray_pool(Worker, num_workers) as pool:
        assert pool.wanted() == (num_workers or 2)
        for name in crew(pool, pool.wanted()):
            pool.submit(name, Job(name, "threads"))
            assert next_event(pool).outcome.report == threads


def test_ray_workers_that_ask_for_no_gpu_use_the_cpu_and_inline_decides_by_itself(connected):
    with ray_pool(Worker, 1) as pool:
        assert run(pool, "device")["device"].report == "cpu"
    assert run(InlinePool(Worker), "device")["device"].report is None
    assert run(InlinePool(Worker), "threads")["threads"].report is None


def test_a_worker_is_kept_after_an_error_of_the_input_and_replaced_after_an_unexpected_one(connected):
    with ray_pool(Worker, 1) as pool:
        driver = Driver(pool, replace(LIMITS, retries=0))
        seen = []
        for action in ("answer", "find a silent layer", "divide"):
            driver.execute([Job(action, action)])
            seen.append(driver.execute([Job("p", "process")]).outcomes[0].report)
    assert seen[0] == seen[1] != seen[2]


def test_a_worker_that_works_tells_how_far_it_has_come(connected, monkeypatch):
    monkeypatch.setattr("rmpsweep.workers.pools.cluster.BEAT_EVERY_S", 0.1)
    with ray_pool(Worker, 1) as pool:
        (name,) = crew(pool, 1)
        pool.submit(name, Job("a", "sleep"))
        beat = next_event(pool, Beat)
    assert (beat.worker, beat.ticks, beat.done) == (name, 1, 0.5)


def test_an_idle_worker_that_is_killed_is_gone_before_it_gets_a_job(connected, monkeypatch):
    monkeypatch.setattr("rmpsweep.workers.pools.cluster.BEAT_EVERY_S", 0.1)
    with ray_pool(Worker, 1) as pool:
        (name,) = crew(pool, 1)
        pool.submit(name, Job("a", "process"))
        os.kill(next_event(pool).outcome.report, signal.SIGKILL)
        gone = next_event(pool)
        assert isinstance(gone, Gone)
        assert (gone.cause, gone.worker, gone.outcome) == ("died", name, None)
        assert run(pool, "answer")["answer"].report == 42


def test_out_of_memory_ends_the_worker_and_the_job_is_tried_again_in_less(connected):
    with ray_pool(Worker, 1) as pool:
        (outcome,) = Driver(pool, LIMITS).execute([Job("a", "take all memory")]).outcomes
    assert (outcome.job.action, outcome.report) == ("spare take all memory", 42)


def test_the_driver_finishes_everything_but_the_job_that_kills_its_workers(connected):
    jobs = [Job("poison", "die"), *(Job(name) for name in "abcdef")]
    with ray_pool(Worker, 2) as pool:
        result = Driver(pool, replace(LIMITS, retries=1)).execute(jobs)
    assert Counter(outcome.job.job_id for outcome in result.outcomes) == Counter("abcdef")
    assert [(bad.outcome.job, bad.outcome.kind, bad.attempts) for bad in result.quarantined] == [(jobs[0], "lost", 2)]


def test_a_replacement_that_dies_in_its_setup_is_replaced_in_turn(connected, tmp_path):
    path = tmp_path / "dangerous"
    with ray_pool(partial(Worker, at_setup=f"die while {path}"), 1) as pool:
        driver = Driver(pool, LIMITS)
        driver.execute([Job("a")])
        path.touch()
        result = driver.execute([Job("a", "die"), Job("b")])
    assert [outcome.job.job_id for outcome in result.outcomes] == ["b"]
    assert not path.exists()


SETUPS = [
    ("find no weights", NetworkError, "^weights: no such file$"),
    ("divide", ClusterError, r"no worker can be set up .*: 1 / 0"),
    ("die", ClusterError, r"no worker can be set up \(3 tries\): worker-3 on .*its process died"),
]


@pytest.mark.parametrize(("at_setup", "error", "message"), SETUPS)
def test_workers_that_cannot_be_set_up_end_the_run_and_are_stopped(connected, at_setup, error, message):
    with pytest.raises(error, match=f"(?s){message}"), ray_pool(partial(Worker, at_setup=at_setup), 1) as pool:
        Driver(pool, LIMITS).execute([Job("a")])
    wait_until(lambda: ray.available_resources().get("CPU") == 2, deadline_s=10)


def test_inline_setup_raises_what_the_worker_raises():
    with pytest.raises(NetworkError, match="no such file"):
        run(InlinePool(partial(Worker, at_setup="find no weights")), "answer")


def test_a_gpu_that_does_not_exist_is_waited_for_no_longer_than_the_deadline(connected):
    began = time.monotonic()
    message = r"no worker was started within 3 s: each of 1 workers asks .*1 GPUs, the cluster has .*0 GPUs"
    with ray_pool(Worker, 1, gpus_per_worker=1) as pool, pytest.raises(ClusterError, match=message):
        Driver(pool, replace(LIMITS, schedule_s=3)).execute([Job("a")])
    assert 3 <= time.monotonic() - began < 15


def test_a_setup_that_hangs_is_waited_for_no_longer_than_the_deadline(connected):
    began = time.monotonic()
    with (
        ray_pool(partial(Worker, at_setup="sleep"), 1) as pool,
        pytest.raises(ClusterError, match=r"worker-3 on .*, process \d+ was not ready within 1 s"),
    ):
        Driver(pool, replace(LIMITS, setup_s=1)).execute([Job("a")])
    assert time.monotonic() - began < DEADLINE_S / 2


def test_a_job_that_hangs_is_stopped_at_its_deadline(connected):
    with ray_pool(Worker, 2) as pool:
        result = Driver(pool, replace(LIMITS, stall_s=2, retries=0)).execute([Job("a", "sleep"), Job("b")])
    assert [outcome.job.job_id for outcome in result.outcomes] == ["b"]
    (bad,) = result.quarantined
    assert re.fullmatch(r"worker-\d on \S+, process \d+: no progress for 2 s \(log: .*\)", bad.outcome.message)


def test_closing_drops_jobs_in_flight_and_frees_their_workers(connected):
    with ray_pool(Worker, 2) as pool:
        names = crew(pool, 2)
        pids = set()
        for name in names:
            pool.submit(name, Job(name, "process"))
            pids.add(next_event(pool).outcome.report)
        pool.submit(names[0], Job("a", "sleep"))
        began = time.monotonic()
    assert time.monotonic() - began < 5
    wait_until(lambda: not pids & processes().keys())
