"""In fixed numerics the spikes are the same bits in every batch, chunk, thread, company and kernel.

DIGESTS are of the full spike trains by the integer reference. They are written down so that another machine or device
can be held against them: they may change only together with ENGINE_VERSION.
"""

import hashlib
import os
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from rmpsweep.engine import calibrate, convert, simulate, simulate_many, thresholds_from_scales
from rmpsweep.engine.constants import make_constants
from rmpsweep.engine.network import activations
from rmpsweep.engine.numerics import CalibratedSetting
from rmpsweep.engine.program import make_program
from tests.helpers.nets import Chain, Concatenated, GlobalPooled, MaxPooled, Pooled, Residual, Shortcuts

STEPS = [8, 33]
NETS = {
    "chain": Chain,
    "pooled": Pooled,
    "max-pooled": MaxPooled,
    "residual": lambda: Residual(bias=True),
    "shortcuts": Shortcuts,
    "concatenated": Concatenated,
}
DIGESTS = {
    ("chain", "fixed16", "constant"): "441b09b3ebf7715a",
    ("chain", "fixed16", "poisson"): "de477b395a65e344",
    ("chain", "fixed8", "constant"): "23aea1786d93fb8b",
    ("chain", "fixed8", "poisson"): "98fe76adad4522ec",
    ("pooled", "fixed16", "constant"): "233299a2aacb7522",
    ("pooled", "fixed16", "poisson"): "cfe292d7ecb61616",
    ("pooled", "fixed8", "constant"): "ccd5f40b361b9338",
    ("pooled", "fixed8", "poisson"): "023385e61efc95ef",
    ("max-pooled", "fixed16", "constant"): "5a2c3fbccb8f0974",
    ("max-pooled", "fixed16", "poisson"): "a43264e51b625a80",
    ("max-pooled", "fixed8", "constant"): "4a4fba0a73588458",
    ("max-pooled", "fixed8", "poisson"): "9e2d2926dd2a237f",
    ("residual", "fixed16", "constant"): "8b30110c9e6cbc8b",
    ("residual", "fixed16", "poisson"): "e7c768bd28829475",
    ("residual", "fixed8", "constant"): "f075cffd3f52074e",
    ("residual", "fixed8", "poisson"): "8e6c6236f04f4a4a",
    ("shortcuts", "fixed16", "constant"): "45502934f8a4d3aa",
    ("shortcuts", "fixed16", "poisson"): "0064ab0e3ac3e03e",
    ("shortcuts", "fixed8", "constant"): "669518c1e20e0e6e",
    ("shortcuts", "fixed8", "poisson"): "6a6e9371809b2d3d",
    ("concatenated", "fixed16", "constant"): "ab184f34921382b0",
    ("concatenated", "fixed16", "poisson"): "353e150f262f50ad",
    ("concatenated", "fixed8", "constant"): "f3c03360cee5a535",
    ("concatenated", "fixed8", "poisson"): "4d6e9835356137c8",
}
SETTINGS = [{"alpha": 0.7}, {"alpha": 1.0, "reset": "hard"}, {"alpha": 0.45, "v_init": 0.5, "alpha_scope": "network"}]


def images(count):
    """Multiples of 1/64 in [-1, 1): from integer arithmetic, so that they are the same everywhere."""
    n = torch.arange(count * 72)
    return (((n * n * 7 + n * 31) % 128).view(count, 2, 6, 6) - 64) / 64


def weights_by_hand(ann: nn.Module) -> nn.Module:
    """Weights from integer arithmetic, not dyadic."""
    with torch.no_grad():
        for i, parameter in enumerate(ann.parameters()):
            n = torch.arange(parameter.numel())
            parameter.copy_((((n * n * 13 + n * 17 + i * 5) % 101).view(parameter.shape) - 45) / (37.0 * (i % 3 + 3)))
    return ann.eval()


def problem(name, numerics, encoding="constant"):
    ann = weights_by_hand(NETS[name]())
    net = convert(ann, images(2))
    scales = {"input": torch.tensor(1.0)}
    for layer, value in activations(net, images(16), net.layers).items():
        scales[layer] = torch.tensor(round(float(value.max()), 2))
    thresholds = thresholds_from_scales(net, scales)
    return net, [{"thresholds": thresholds, "numerics": numerics, "encoding": encoding, **s} for s in SETTINGS]


def digest(sims) -> str:
    total = hashlib.sha256()
    for sim in sims:
        for layer in sim.spikes:
            total.update(sim.spikes[layer].numpy().tobytes())
        total.update(sim.logits.numpy().tobytes())
    return total.hexdigest()[:16]


@cache
def digest_of_reference(name) -> str:
    net, settings = problem(name, "fixed16")
    return digest(simulate_many(net, images(9), settings, STEPS, record_spikes=True, kernels="reference"))


@pytest.mark.parametrize("encoding", ["constant", "poisson"])
@pytest.mark.parametrize("numerics", ["fixed16", "fixed8"])
@pytest.mark.parametrize("name", NETS)
def test_spike_trains_have_these_bits_in_every_kernel(name, numerics, encoding):
    net, settings = problem(name, numerics, encoding)
    expected = DIGESTS[name, numerics, encoding]
    for kernels in ("reference", "auto"):
        sims = simulate_many(net, images(16), settings, STEPS, record_spikes=True, kernels=kernels)
        assert digest(sims) == expected, kernels
    assert all(int(count[-1]) > 0 for sim in sims for count in sim.spike_counts.values())


@pytest.mark.parametrize("numerics", ["fixed16", "fixed8"])
@pytest.mark.parametrize(
    ("build", "size", "options"),
    [
        *((lambda: Shortcuts(largest=True), 6, {"max_pool": how}) for how in ("count", "spike", "average")),
        (GlobalPooled, 12, {}),
    ],
    ids=["count", "spike", "average", "bytes-above-127"],
)
def test_kernels_for_processors_equal_the_reference_on_rare_shapes(build, size, options, numerics):
    torch.manual_seed(0)
    shown = torch.rand(5, 2, size, size) * 2 - 1
    net = convert(build().eval(), shown)
    thresholds = calibrate(net, shown, "activation_max")
    settings = [{"thresholds": thresholds, "numerics": numerics, **options, **setting} for setting in SETTINGS]
    assert make_program(make_constants(net, [CalibratedSetting(**settings[0])], 1.0)) is not None
    sims = simulate_many(net, shown, settings, STEPS, record_spikes=True, chunk=5)
    expected = simulate_many(net, shown, settings, STEPS, record_spikes=True, kernels="reference")
    assert digest(sims) == digest(expected)
    assert all(int(count[-1]) > 0 for sim in sims for count in sim.spike_counts.values())


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("triton"), reason="Triton is not on this platform")
@pytest.mark.parametrize("name", ["chain", "residual"])
def test_kernels_for_gpus_give_the_same_bits_in_the_interpreter(name):
    net, settings = problem(name, "fixed16")
    expected = simulate_many(net, images(2), settings, [4, 9], record_spikes=True, kernels="reference")
    sims = simulate_many(net, images(2), settings, [4, 9], record_spikes=True, kernels="triton", batch_size=6, chunk=5)
    assert digest(sims) == digest(expected)


@pytest.mark.parametrize("chunk", [1, 5, 32])
@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 7, 64])
@pytest.mark.parametrize("name", NETS)
def test_batch_chunk_and_threads_change_no_bit(name, batch_size, chunk):
    net, settings = problem(name, "fixed16")
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            sims = simulate_many(
                net, images(9), settings, STEPS, record_spikes=True, batch_size=batch_size, chunk=chunk
            )
            assert digest(sims) == digest_of_reference(name)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("encoding", ["constant", "poisson"])
@pytest.mark.parametrize("name", NETS)
def test_stacked_trials_are_the_trials_alone(name, encoding):
    net, settings = problem(name, "fixed16", encoding)
    together = simulate_many(net, images(7), settings, STEPS, record_spikes=True)
    for setting, sim in zip(settings, together, strict=True):
        alone = simulate(net, images(7), time_steps=STEPS, record_spikes=True, **setting)
        assert digest([alone]) == digest([sim])
        assert torch.equal(alone.input_spikes, sim.input_spikes)
        for table in ("spike_counts", "synops", "saturated"):
            one, other = getattr(alone, table), getattr(sim, table)
            assert {k: v.tolist() for k, v in one.items()} == {k: v.tolist() for k, v in other.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_floating_point_does_not_depend_on_batch_chunk_or_threads_either(name):
    net, settings = problem(name, "float32")
    whole = digest(simulate_many(net, images(16), settings, STEPS, record_spikes=True))
    for batch_size, chunk in ((1, 3), (7, 32)):
        sims = simulate_many(net, images(16), settings, STEPS, record_spikes=True, batch_size=batch_size, chunk=chunk)
        assert digest(sims) == whole


@pytest.mark.slow
def test_code_compiled_for_any_processor_gives_the_same_bits():
    """Without the vector instructions of this machine: nothing rounds in between, and integers have no order."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from tests.engine.test_exactness import *\n"
        "net, settings = problem('residual', 'fixed16')\n"
        "print(digest(simulate_many(net, images(16), settings, STEPS, record_spikes=True)))\n"
    )
    environment = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    command = [sys.executable, "-c", code, str(Path(__file__).parents[2])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == DIGESTS["residual", "fixed16", "constant"]
