"""A Ray that the pool starts by itself, in a process that has connected to no other."""

import os
import sys

import pytest
import ray

from rmpsweep.workers.pools import RayPool
from rmpsweep.workers.protocol import Ready
from tests.helpers.chaos import processes, wait_until

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's processes cannot import test files


class Worker:
    """Says which process it is."""

    def __init__(self, threads, device):
        pass

    def setup(self):
        return str(os.getpid())


def descendants():
    """Ids of the processes this one has started, and those they have."""
    parents, found = {pid: parent for pid, (parent, _) in processes().items()}, {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


@pytest.mark.ray
def test_a_ray_started_here_is_stopped_and_leaves_no_processes():
    assert not ray.is_initialized()
    before = descendants()
    pool = RayPool(Worker, 2)
    pool.start()
    (ready,) = wait_until(lambda: [event for event in pool.wait(0.5) if isinstance(event, Ready)])
    started = descendants() - before
    assert int(ready.device) in started
    pool.close()
    assert not ray.is_initialized()
    wait_until(lambda: not started & processes().keys())
