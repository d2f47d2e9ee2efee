"""The driver at the size of a cluster, on an imagined one: what it costs, and how near its end is to the earliest."""

import time

import pytest

from rmpsweep.sweep.plan import Facts, Plan, Trial, pending
from rmpsweep.terms import Setting
from rmpsweep.workers.driver import Driver
from rmpsweep.workers.events import Limits
from rmpsweep.workers.schedule import Schedule
from tests.helpers.simulated import SimulatedJob, SimulatedPool

RATE = 2000.0
"""Image-steps per second of a worker of speed 1."""
CLUSTERS = [
    pytest.param(100, 0.0, 0.0, 0.0, id="100 equal workers"),
    pytest.param(1000, 0.3, 0.1, 0.05, id="1,000 workers"),
    pytest.param(10_000, 0.3, 0.1, 0.05, id="10,000 workers", marks=pytest.mark.soak),
]


def planned_units(num_workers):
    """The units of a sweep of 16 trials over as many images as give each worker ten units."""
    trials = tuple(Trial(f"{i:016d}", "c", Setting()) for i in range(16))
    images = 250 * num_workers
    plan = Plan("context", Facts("w", "d", "c", images, 1), trials, (256,), images, 128)
    return [SimulatedJob(str(i), unit.image_steps / RATE) for i, unit in enumerate(pending(plan, [], num_workers))]


@pytest.mark.slow
@pytest.mark.parametrize(("num_workers", "spread", "crashes", "stragglers"), CLUSTERS)
def test_a_sweep_ends_within_5_percent_of_the_earliest_possible(num_workers, spread, crashes, stragglers):
    """Speeds differ by `spread`, a fraction of the workers crashes, another is ten times slower."""
    jobs = planned_units(num_workers)
    cost = sum(job.cost for job in jobs)
    pool = SimulatedPool(
        num_workers, spread=spread, crashes=crashes, stragglers=stragglers, span_s=cost / num_workers, start_s=30
    )
    began = time.process_time()
    result = Driver(pool, Limits(retries=5)).execute(jobs)
    seconds = time.process_time() - began
    assert {outcome.job.job_id for outcome in result.outcomes} == {job.job_id for job in jobs}
    assert len(result.outcomes) == len(jobs)
    print(
        f"{len(jobs)} units, {pool.clock / pool.lower_bound(cost):.3f} of the bound, "
        f"{seconds / len(jobs) * 1e3:.3f} ms a unit"
    )
    assert pool.clock < 1.05 * pool.lower_bound(cost)


@pytest.mark.slow
def test_without_copies_the_slowest_worker_decides(monkeypatch):
    """What the test above would see if stragglers were left alone."""
    monkeypatch.setattr(Schedule, "plan_copies", lambda *_: None)
    jobs = planned_units(1000)
    pool = SimulatedPool(1000, stragglers=0.05, start_s=30)
    Driver(pool, Limits(stall_s=10_000)).execute(jobs)
    assert pool.clock > 1.1 * pool.lower_bound(sum(job.cost for job in jobs))
