"""The kernels for GPUs, run on the CPU by Triton's interpreter, bit for bit the reference; and compiled for a GPU."""

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers.nets import (
    Chain,
    Concatenated,
    GlobalPooled,
    MaxPooled,
    Pooled,
    Residual,
    Shortcuts,
    dyadic_images,
    make_dyadic,
    powers_of_two,
)

pytest.importorskip("triton")

from rmpsweep.engine import calibrate, convert, simulate, simulate_many
from rmpsweep.engine.constants import make_constants
from rmpsweep.engine.gpu import kernels, operands
from rmpsweep.engine.gpu.device import GpuKernels
from rmpsweep.engine.neuron import RESET_CODES
from rmpsweep.engine.numerics import CalibratedSetting
from rmpsweep.engine.program import make_program
from rmpsweep.terms import RESETS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*silent")]
SETTINGS = [{"alpha": 0.7}, {"alpha": 1.0, "reset": "hard"}, {"alpha": 0.45, "v_init": 0.5, "alpha_scope": "network"}]
STEPS = [2, 6]


NETS = {
    "chain": Chain,
    "chain-bias": lambda: Chain(True),
    "pooled": Pooled,
    "max-pooled": MaxPooled,
    "residual": lambda: Residual(True),
    "shortcuts": Shortcuts,
    "concatenated": Concatenated,
}


def problem(build, numerics, encoding="constant", size=6, images=2, **options):
    """A net, images and settings that share weights."""
    torch.manual_seed(0)
    shown = torch.rand(images, 2, size, size) * 2 - 1
    net = convert(build().eval(), shown)
    granularity = "channel" if encoding == "poisson" else "layer"
    thresholds = calibrate(net, shown, "activation_max", granularity=granularity)
    given = {"thresholds": thresholds, "numerics": numerics, "encoding": encoding, **options}
    return net, shown, [{**given, **setting} for setting in SETTINGS]


def assert_same(sims, expected):
    for sim, other in zip(sims, expected, strict=True):
        assert torch.equal(sim.logits, other.logits)
        assert torch.equal(sim.input_spikes, other.input_spikes)
        for table in ("spikes", "spike_counts", "synops", "saturated"):
            ours, theirs = getattr(sim, table), getattr(other, table)
            assert {k: v.tolist() for k, v in ours.items()} == {k: v.tolist() for k, v in theirs.items()}, table
        for layer, potentials in sim.state.potentials.items():
            assert torch.equal(potentials.to(other.state.potentials[layer]), other.state.potentials[layer])


def compare(net, images, settings, steps=STEPS, **options):
    """Run by both; the result of the kernels."""
    assert make_program(make_constants(net, [CalibratedSetting(**settings[0])], 1.0)) is not None
    sims = simulate_many(net, images, settings, steps, record_spikes=True, kernels="triton", **options)
    assert_same(sims, simulate_many(net, images, settings, steps, record_spikes=True, kernels="reference"))
    return sims


@pytest.mark.parametrize(
    ("name", "numerics", "encoding"),
    [
        *itertools.product([*NETS][:-1], ("fixed16", "fixed8"), ("constant", "poisson")),
        ("concatenated", "fixed16", "poisson"),
        ("concatenated", "fixed8", "constant"),  # the last, and slow
    ],
)
def test_every_bit_is_that_of_the_reference(name, numerics, encoding):
    sims = compare(*problem(NETS[name], numerics, encoding), chunk=4)
    assert all(int(count[-1]) > 0 for sim in sims for count in sim.spike_counts.values())


@pytest.mark.parametrize("max_pool", ["count", "spike", "average"])
def test_every_bit_of_max_pooling(max_pool):
    compare(*problem(lambda: Shortcuts(largest=True), "fixed16", max_pool=max_pool), chunk=4)


@pytest.mark.parametrize(("chunk", "batch_size"), [(1, 4), (5, 1), (32, 7)])
def test_chunk_and_batch_change_no_bit(chunk, batch_size):
    compare(*problem(MaxPooled, "fixed16", images=2), chunk=chunk, batch_size=batch_size)


@pytest.mark.parametrize("numerics", ["fixed16", "float32", "float64"])
def test_sums_are_exact_on_a_dyadic_net(numerics):
    images = dyadic_images(2)
    net = convert(make_dyadic(Residual(bias=True)), images)
    settings = [{"thresholds": powers_of_two(net), "numerics": numerics, "reset": reset} for reset in RESETS]
    compare(net, images, settings, [6])


def test_a_reset_that_the_kernels_do_not_compute_is_refused():
    net, _, settings = problem(Chain, "fixed16")
    constants = make_constants(net, [CalibratedSetting(**settings[0])], 1.0)
    program = make_program(constants)
    GpuKernels(constants, program)
    object.__setattr__(constants.settings[0], "reset", "leaky")  # a word that everything else knows
    with pytest.raises(AssertionError, match="leaky"):
        GpuKernels(constants, program)


def test_floating_point_does_not_depend_on_the_batch():
    net, images, settings = problem(Pooled, "float32")
    whole = simulate_many(net, images, settings, STEPS, record_spikes=True, kernels="triton")
    assert_same(
        simulate_many(net, images, settings, STEPS, record_spikes=True, kernels="triton", batch_size=2, chunk=3), whole
    )


@pytest.mark.parametrize("build", [Residual, MaxPooled])
def test_int64_potentials_give_the_same_bits(build, monkeypatch):
    monkeypatch.setattr(GpuKernels, "needs_wide", lambda *_: True)
    sims = compare(*problem(build, "fixed16", "poisson"))
    assert all(v.dtype == torch.int64 for v in sims[0].state.potentials.values())


@pytest.mark.parametrize("numerics", ["fixed16", "fixed8"])
def test_bytes_above_127_do_not_wrap(numerics):
    net, images, settings = problem(GlobalPooled, numerics, size=12)
    sims = compare(net, images, settings, [6])
    assert max(int(sim.spikes[net.layers[0]].sum((-1, -2)).max()) for sim in sims) > 127


def test_potentials_that_leave_int32_are_found_out_and_taken_on():
    ann = nn.Sequential(
        nn.Conv2d(1, 1, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(1, 1, 1, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1, 1, bias=False),
    )
    for parameter in ann.parameters():
        nn.init.ones_(parameter)
    images = torch.tensor([4000.0, -4000.0, 0.5]).view(-1, 1, 1, 1)
    net = convert(ann, images[:1])
    setting = {
        "thresholds": {"input": torch.tensor(1.0), "1": torch.tensor(0.01), "3": torch.tensor(0.5)},
        "numerics": "fixed16",
    }
    whole = compare(net, images, [setting], [41], chunk=8)[0]
    assert int(whole.state.potentials["1"].abs().max()) > 2**32
    run = {"kernels": "triton", "chunk": 4, **setting}
    first = simulate(net, images, time_steps=[40], **run)
    second = simulate(net, images, time_steps=[41], state=first.state, start=40, **run)
    assert torch.equal(second.state.potentials["1"], whole.state.potentials["1"])
    assert torch.equal(second.logits, whole.logits)


@pytest.mark.parametrize("largest", [127, 255, None])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16])
def test_convolution_in_many_small_tiles(dtype, largest, monkeypatch):
    monkeypatch.setattr(kernels, "blocks", lambda _: {"PIXELS": 16, "CHANNELS": 16, "INPUTS": 16})
    torch.manual_seed(0)
    options = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}
    limit = {torch.int8: 127, torch.int16: 32639}[dtype]
    weight = torch.randint(-limit, limit + 1, (20, 18, 3, 2), dtype=dtype)
    values = torch.randint(0, (largest or 2**20) + 1, (4, 5, 6, 32))
    setting, bias = torch.tensor([1, 0]), torch.randint(-9, 9, (2, 32))
    expected = F.conv2d(values[..., :18].permute(0, 3, 1, 2).double(), weight.double(), **options)
    expected = expected.long().permute(0, 2, 3, 1) + bias[setting].repeat(2, 1)[:, None, None, :20]
    packed = operands.pack(weight, (18, 5, 6), (20, *expected.shape[1:3]), options, False, largest)
    assert packed.weights.dtype == (torch.int8 if largest == 127 else torch.float64)
    out = torch.empty(4, *expected.shape[1:3], 32, dtype=torch.int64)
    kernels.convolve(values.to(torch.float64 if largest is None else torch.uint8), packed, setting, bias, out)
    assert torch.equal(out[..., :20], expected)


def test_as_many_int8_products_as_add_up_in_int32(monkeypatch):
    monkeypatch.setattr(kernels, "blocks", lambda _: {"PIXELS": 1, "CHANNELS": 16, "INPUTS": 2**14})
    options = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
    for inputs, dtype in ((2**17 - 16, torch.int8), (2**17, torch.float64)):
        weight = torch.full((1, inputs, 1, 1), -128, dtype=torch.int16)
        packed = operands.pack(weight, (inputs, 1, 1), (1, 1, 1), options, False, 127)
        assert packed.weights.dtype == dtype
        values, out = torch.full((1, 1, 1, inputs), 127, dtype=torch.uint8), torch.empty(1, 1, 1, 16, dtype=torch.int64)
        kernels.convolve(values, packed, torch.zeros(1, dtype=torch.int64), torch.zeros(1, 16, dtype=torch.int64), out)
        assert int(out[..., 0]) == -128 * 127 * inputs


def test_scaled_addends_are_rounded_halves_up():
    addend = torch.arange(-8, 8, dtype=torch.int32).view(1, 1, 1, 1, 16)
    table, potentials = torch.full((1, 16), 3 * 2**15), torch.zeros(1, 1, 1, 16, dtype=torch.int32)
    row, nothing = torch.zeros(1, dtype=torch.int64), torch.zeros_like(potentials)
    neurons = operands.Neurons(
        row,
        torch.full((1,), RESET_CODES["soft"], dtype=torch.uint8),
        nothing.view(1, 16),
        nothing.view(1, 16) + 100,
        potentials,
        torch.zeros_like(potentials),
        torch.zeros(1, dtype=torch.int32),
    )
    spikes = torch.empty(1, 1, 1, 1, 16, dtype=torch.uint8)
    kernels.fire_from_currents(nothing[None], row, neurons, operands.Addend("scaled", addend, table), spikes)
    assert potentials.flatten().tolist() == [math.floor(1.5 * n + 0.5) for n in range(-8, 8)]
    assert not spikes.any()


def run_without_interpreter(call: str, cache: Path) -> None:
    """A function of this module in a process of its own: what the kernels are is settled when they are imported."""
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(cache),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    subprocess.run(
        [sys.executable, "-c", f"from tests.engine import test_triton; test_triton.{call}"],
        env=environment,
        check=True,
        timeout=240,
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_every_bit_on_a_gpu(tmp_path):
    run_without_interpreter('compare_on("cuda")', tmp_path)


def compare_on(device: str) -> None:
    for name, numerics, encoding in itertools.product(NETS, ("fixed16", "fixed8"), ("constant", "poisson")):
        net, images, settings = problem(NETS[name], numerics, encoding, images=40)
        expected = simulate_many(net, images, settings, STEPS, record_spikes=True, kernels="reference")
        assert_same(simulate_many(net.to(device), images, settings, STEPS, record_spikes=True), expected)


@pytest.mark.soak
def test_kernels_compile_for_a_gpu(tmp_path):
    run_without_interpreter('compile_kernels("cuda", 90, 32)', tmp_path)


def compile_kernels(*target) -> None:
    """As a GPU would get them, of which there is no need."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    tl = triton.language
    pointers = {"setting": "*i64", "reset": "*u8", "counts": "*i32", "spikes": "*u8", "out_of_range": "*i32"}
    narrow = "*u8", "*i8", "*i32", "*u8", "*i32", {"SUM": tl.int32, "PLANES": 2, "KIND": "flag", "LIMIT": 2**30}
    wide = "*fp64", "*fp64", "*i64", "*i64", "*i64", {"SUM": tl.float64, "PLANES": 2, "KIND": "scaled", "LIMIT": 0}
    for kernel, (values, weights, numbers, addend, table, kinds) in (
        (kernels._fire_from_spikes, narrow),
        (kernels._fire_from_spikes, wide),
        (kernels._fire_from_currents, narrow),
        (kernels._convolve, wide),
    ):
        constants = {**kinds, "PIXELS": 64, "CHANNELS": 64, "INPUTS": 32, "BLOCK": 1024, "stride_y": 1}
        constants = {k: v for k, v in constants.items() if k in kernel.arg_names}
        types = {**pointers, "values": values, "weights": weights, "addend": addend, "table": table}
        types |= dict.fromkeys(("bias", "threshold", "potentials", "currents", "out"), numbers)
        types["rows"] = "i32" if kernel is kernels._convolve else "*i64"
        signature = {k: "constexpr" if k in constants else types.get(k, "i32") for k in kernel.arg_names}
        triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget(*target))
