"""How much is computed at once, and what happens when that was too much."""

import gc
import json
import subprocess
import sys

import psutil
import pytest
import torch

from rmpsweep.engine import convert, memory, simulate_many
from rmpsweep.engine.constants import make_constants
from rmpsweep.engine.cpu.device import CpuKernels
from rmpsweep.engine.memory import bytes_per_row, bytes_per_step, make_memory_plan
from rmpsweep.engine.numerics import CalibratedSetting
from rmpsweep.engine.program import make_program
from rmpsweep.models.registry import build
from tests.helpers.nets import Residual, dyadic_images, make_dyadic, powers_of_two

IMAGES = dyadic_images(6)


def program_of(name, size):
    ann = build(name, 10, 3, size).eval()
    net = convert(ann, torch.rand(1, 3, size, size))
    thresholds = {"input": torch.tensor(1.0), **{layer: torch.tensor(1.0) for layer in net.layers}}
    return make_program(make_constants(net, [CalibratedSetting(thresholds=thresholds)], 1.0))


def test_bytes_of_a_row_and_a_step_are_those_of_the_layers():
    program = program_of("resnet20", 32)
    neurons = 7 * 16 * 1024 + 6 * 32 * 256 + 6 * 64 * 64
    assert bytes_per_row(program, 4) == 8 * neurons  # a potential and a count each
    layer = 16 * 1024
    # at a block's end: its input, still needed by the shortcut, one layer's spikes, read as events, and those it makes
    assert bytes_per_step(program, 4) == layer + layer * (1 + 2 * 4) + layer


@pytest.mark.parametrize("free", [2**40, 2**28, 2**24, 2**20])
def test_the_plan_fits_into_half_the_free_memory_or_is_the_smallest(free, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: free)
    program = program_of("resnet20", 32)
    plan = make_memory_plan(program, 4, 1000, threads=2)
    assert 1 <= plan.rows <= memory.MOST_ROWS
    assert 1 <= plan.chunk <= memory.MOST_STEPS
    assert 2 * plan.bytes <= min(free // 2, memory.MOST_BYTES) or (plan.rows, plan.chunk) == (1, 1)
    assert make_memory_plan(program, 4, 3, threads=2).rows <= 2  # every thread gets some


@pytest.mark.parametrize(
    ("limit", "used", "expected"), [("2000\n", "500\n", 1500), ("2000", "2500", 0), ("max", "500", 8000)]
)
def test_free_memory_is_the_machines_or_what_the_control_group_leaves(limit, used, expected, tmp_path, monkeypatch):
    machine = psutil.virtual_memory()._replace(available=8000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(memory, "CONTROL_GROUP", tmp_path)
    assert memory.free_memory() == 8000  # no control group, as on macOS
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text(used)
    assert memory.free_memory() == expected


@pytest.mark.parametrize("fits", [(2, 99), (1, 3), (1, 1)])
def test_out_of_memory_halves_and_goes_on_with_the_same_result(fits, monkeypatch):
    net = convert(make_dyadic(Residual()), IMAGES)
    settings = [{"thresholds": powers_of_two(net), "alpha": a, "numerics": "fixed16"} for a in (1.0, 0.5)]
    expected = simulate_many(net, IMAGES, settings, [4, 9], record_spikes=True)
    fire = CpuKernels.fire

    def scarce(self, layer, events, current, addend, setting, potentials, counts, steps):
        if len(setting) > fits[0] or steps > fits[1]:
            raise MemoryError
        return fire(self, layer, events, current, addend, setting, potentials, counts, steps)

    monkeypatch.setattr(CpuKernels, "fire", scarce)
    message = r"out of memory with \d+ rows of \d+ time steps at once; continuing with half"
    with pytest.warns(UserWarning, match=message) as told:
        found = simulate_many(net, IMAGES, settings, [4, 9], record_spikes=True, batch_size=12, chunk=8)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.logits, other.logits)
        assert all(torch.equal(one.spikes[layer], other.spikes[layer]) for layer in net.layers)
    assert "12 rows of 8" in str(told[0].message)


def test_memory_that_is_never_enough_is_an_error(monkeypatch):
    net = convert(make_dyadic(Residual()), IMAGES)

    def never(*_args):
        raise MemoryError

    monkeypatch.setattr(CpuKernels, "fire", never)
    with pytest.warns(UserWarning, match="out of memory"), pytest.raises(MemoryError):
        simulate_many(net, IMAGES, [{"thresholds": powers_of_two(net)}], [4])


VGG = """
import json, resource, torch
from rmpsweep.engine import calibrate, convert, simulate_many
from rmpsweep.models.registry import build
torch.manual_seed(0)
images = torch.rand(2, 3, 224, 224)
ann = build("vgg16", 1000, 3, 224).eval()
net = convert(ann, images[:1])
thresholds = calibrate(net, images, "activation_p99.9", batch_size=1)
setting = {"thresholds": thresholds, "numerics": "fixed16"}
sim, = simulate_many(net, images, [setting], [STEPS], keep_state=False)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([peak, int(sim.spike_counts[net.layers[-1]][0])]))
"""


@pytest.mark.soak
def test_vgg16_at_224_pixels_runs_64_steps_within_4_gib():
    done = subprocess.run(
        [sys.executable, "-c", VGG.replace("STEPS", "64")], capture_output=True, text=True, check=True
    )
    peak, spikes = json.loads(done.stdout)
    assert spikes > 0
    assert peak < 4 * 2**30


@pytest.mark.slow
def test_a_simulation_leaves_no_tensor_behind_even_before_garbage_is_collected():
    net = convert(make_dyadic(Residual()), IMAGES)
    settings = [{"thresholds": powers_of_two(net), "numerics": "fixed16"}]

    def tensors_after_a_run():
        simulate_many(net, IMAGES, settings, [4, 9], batch_size=2, chunk=2, keep_state=False)
        return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        first = tensors_after_a_run()
        assert [tensors_after_a_run() for _ in range(3)] == [first] * 3
    finally:
        gc.enable()
