import os
import signal
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import ray

from rmpsweep.driver import execute
from rmpsweep.errors import CalibrationError, ClusterError, NetworkError
from rmpsweep.pools import InlinePool, RayPool

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's processes cannot import test files
DEADLINE_S = 60.0


@dataclass(frozen=True)
class Job:
    job_id: str
    action: str = "answer"


class Worker:
    """Does what a job's action says; its setup what `at_setup` says."""

    def __init__(self, threads, device, at_setup="answer"):
        self.threads, self.device, self.at_setup = threads, device, at_setup

    def setup(self):
        act(self.at_setup, self)
        return "a device"

    def run(self, job):
        return act(job.action, self)


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
    if action.startswith("die while "):
        path = Path(action.removeprefix("die while "))
        if path.exists():
            path.unlink()
            os._exit(1)
    return {"process": os.getpid(), "threads": worker.threads, "device": worker.device}.get(action, 42)


def processes():
    """Process id -> its parent's, of everything that runs."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            found[int(pid)] = int(parent)
    return found


def descendants():
    """Ids of the processes this one has started, and those they have."""
    parents, found = processes(), {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def outcomes(pool, jobs):
    """Run jobs by hand, as many at a time as there are idle workers; job_id -> outcome."""
    waiting, found = list(jobs), {}
    deadline = time.monotonic() + DEADLINE_S
    while len(found) < len(jobs):
        assert time.monotonic() < deadline, f"only {found} came back"
        while waiting and pool.num_idle():
            pool.submit(waiting.pop(0))
        found |= {outcome.job.job_id: outcome for outcome in pool.wait(0.5)}
    return found


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


def check_outcomes(pool):
    found = outcomes(pool, [Job(action, action) for action in OUTCOMES])
    assert {
        action: (o.kind, o.report, o.error and type(o.error), o.message) for action, o in found.items()
    } == OUTCOMES  # fmt: skip
    assert all("in act" in outcome.detail for outcome in found.values() if outcome.kind == "failed")
    assert set(pool.devices) == {"a device"}


def test_a_ray_started_here_is_stopped_and_leaves_no_processes():
    assert not ray.is_initialized()
    before = descendants()
    pool = RayPool(Worker, 2)
    started = descendants() - before
    assert outcomes(pool, [Job("a", "process")])["a"].report in started
    pool.close()
    assert not ray.is_initialized()
    wait_until(lambda: not started & set(processes()))


def test_a_cluster_that_is_not_there_is_an_error_at_once():
    assert not ray.is_initialized()
    with pytest.raises(ClusterError, match=r"Ray on 127\.0\.0\.1:1 cannot be used: .*--inline"):
        RayPool(Worker, 1, address="127.0.0.1:1")


@pytest.fixture(scope="module")
def cluster():
    """Two CPUs, no GPU; pools use it and leave it running."""
    ray.init(
        address="local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, configure_logging=False
    )
    yield
    ray.shutdown()


@contextmanager
def ray_pool(*args, **options):
    pool = RayPool(*args, setup_deadline_s=DEADLINE_S, **options)
    try:
        yield pool
    finally:
        pool.close()


def test_jobs_end_as_their_workers_say_inline():
    check_outcomes(InlinePool(Worker))


def test_jobs_end_as_their_workers_say_on_ray(cluster):
    with ray_pool(Worker, 2) as pool:
        check_outcomes(pool)
    assert ray.is_initialized()


@pytest.mark.parametrize(("num_workers", "threads"), [(1, 2), (2, 1), (None, 1)])
def test_workers_share_the_cpus_and_do_one_job_at_a_time(cluster, num_workers, threads):
    with ray_pool(Worker, num_workers) as pool:
        wait_until(lambda: pool.num_idle() == (num_workers or 2))
        for i in range(pool.num_workers):
            assert pool.num_idle() == pool.num_workers - i
            pool.submit(Job(str(i), "threads"))
        assert pool.num_idle() == 0
        found = []
        wait_until(lambda: found.extend(pool.wait(1)) or len(found) == pool.num_workers)
        assert [outcome.report for outcome in found] == [threads] * pool.num_workers


def test_ray_workers_that_ask_for_no_gpu_use_the_cpu_and_inline_decides_by_itself(cluster):
    with ray_pool(Worker, 1) as pool:
        assert outcomes(pool, [Job("a", "device")])["a"].report == "cpu"
    assert outcomes(InlinePool(Worker), [Job("a", "device")])["a"].report is None


def test_a_worker_is_kept_after_an_error_of_the_input_and_replaced_after_an_unexpected_one(cluster):
    with ray_pool(Worker, 1) as pool:
        seen = []
        for i, action in enumerate(["answer", "find a silent layer", "divide"]):
            outcomes(pool, [Job(action, action)])
            seen.append(outcomes(pool, [Job(str(i), "process")])[str(i)].report)
    assert seen[0] == seen[1] != seen[2]


def test_inline_has_one_worker_that_may_use_every_thread():
    pool = InlinePool(Worker)
    assert (pool.num_workers, pool.num_idle(), pool.wait(0)) == (1, 1, [])
    pool.submit(Job("a", "threads"))
    assert pool.num_idle() == 0
    assert [outcome.report for outcome in pool.wait(0)] == [None]
    assert pool.num_idle() == 1


def test_every_lost_worker_is_replaced(cluster):
    with ray_pool(Worker, 2) as pool:
        wait_until(lambda: pool.num_idle() == 2)
        before = {o.report for o in outcomes(pool, [Job(str(i), "process") for i in range(6)]).values()}
        lost = outcomes(pool, [Job("a", "die"), Job("b", "die")])
        assert [outcome.kind for outcome in lost.values()] == ["lost", "lost"]
        assert all(outcome.message for outcome in lost.values())
        assert pool.num_idle() == 0
        pool.replace_lost()
        wait_until(lambda: pool.num_idle() == 2)
        pool.replace_lost()
        after = {o.report for o in outcomes(pool, [Job(str(i), "process") for i in range(6)]).values()}
        assert (pool.num_idle(), before & after) == (2, set())


def test_a_worker_killed_between_jobs_loses_the_next_one(cluster):
    with ray_pool(Worker, 1) as pool:
        os.kill(outcomes(pool, [Job("a", "process")])["a"].report, signal.SIGKILL)
        assert outcomes(pool, [Job("b")])["b"].kind == "lost"
        pool.replace_lost()
        assert outcomes(pool, [Job("b")])["b"].report == 42


def test_the_driver_finishes_everything_but_the_job_that_kills_its_workers(cluster):
    jobs = [Job("poison", "die"), *(Job(name) for name in "abcdef")]
    with ray_pool(Worker, 2) as pool:
        result = execute(jobs, pool, retries=1)
    assert Counter(outcome.job.job_id for outcome in result.outcomes) == Counter("abcdef")
    assert [(bad.outcome.job, bad.outcome.kind, bad.attempts) for bad in result.quarantined] == [(jobs[0], "lost", 2)]


def test_a_replacement_that_dies_in_its_setup_is_replaced_in_turn(cluster, tmp_path):
    path = tmp_path / "dangerous"
    with ray_pool(partial(Worker, at_setup=f"die while {path}"), 1) as pool:
        path.touch()
        assert outcomes(pool, [Job("a", "die")])["a"].kind == "lost"
        pool.replace_lost()
        assert outcomes(pool, [Job("b")])["b"].report == 42
    assert not path.exists()


SETUPS = [
    ("find no weights", NetworkError, "^weights: no such file$"),
    ("divide", ClusterError, "a worker cannot be set up: .*1 / 0"),
    ("die", ClusterError, "a worker died while it was set up"),
]


@pytest.mark.parametrize(("at_setup", "error", "message"), SETUPS)
def test_workers_that_cannot_be_set_up_end_the_run_and_are_stopped(cluster, at_setup, error, message):
    with pytest.raises(error, match=f"(?s){message}") as refused, ray_pool(partial(Worker, at_setup=at_setup), 1):
        pass
    wait_until(lambda: ray.available_resources().get("CPU") == 2, deadline_s=10)
    assert refused.tb  # the error is still at hand, and with it everything its traceback refers to


def test_inline_setup_raises_what_the_worker_raises():
    with pytest.raises(NetworkError, match="no such file"):
        InlinePool(partial(Worker, at_setup="find no weights"))


def test_a_gpu_that_does_not_exist_is_waited_for_no_longer_than_the_deadline(cluster):
    began = time.monotonic()
    with pytest.raises(ClusterError, match=r"no worker was ready within 3 s: .*1 GPUs, the cluster has .*0 GPUs"):
        RayPool(Worker, 1, gpus_per_worker=1, setup_deadline_s=3)
    assert 3 <= time.monotonic() - began < 10


def test_a_setup_that_hangs_is_waited_for_no_longer_than_the_deadline(cluster):
    with pytest.raises(ClusterError, match="no worker was ready within 1 s"):
        RayPool(partial(Worker, at_setup="sleep"), 1, setup_deadline_s=1)


def test_closing_drops_jobs_in_flight_and_frees_their_workers(cluster):
    with ray_pool(Worker, 2) as pool:
        pids = [o.report for o in outcomes(pool, [Job(str(i), "process") for i in range(4)]).values()]
        pool.submit(Job("a", "sleep"))
        began = time.monotonic()
    assert time.monotonic() - began < 5
    wait_until(lambda: not set(pids) & set(processes()))
