"""The integer kernels on every path that a processor, a layer or a chunk may choose, against the reference."""

import os
import subprocess
import sys

import pytest
import torch

from rmpsweep.engine import convert, simulate_many
from rmpsweep.engine.cpu import device, workspace
from tests.helpers.nets import (
    Chain,
    Concatenated,
    MaxPooled,
    Pooled,
    Residual,
    Shortcuts,
    dyadic_images,
    make_dyadic,
    powers_of_two,
)

IMAGES = dyadic_images(3)
NETS = [Chain, Pooled, MaxPooled, Residual, Shortcuts, Concatenated]


def trains(make, numerics, kernels="auto", steps=40, **options):
    """The spikes of every layer, for settings most of whose neurons fire at most steps and for one with few spikes."""
    net = convert(make_dyadic(make()), IMAGES)
    settings = [
        {"thresholds": powers_of_two(net), "alpha": alpha, "reset": reset, "v_init": v_init, "numerics": numerics}
        for alpha, reset, v_init in ((0.1, "soft", 0.5), (0.25, "soft", 0.0), (0.3, "hard", 0.0), (1.0, "soft", 0.0))
    ]
    done = simulate_many(net, IMAGES, settings, [7, steps], record_spikes=True, kernels=kernels, **options)
    return [
        value for each in done for value in (*each.spikes.values(), *each.figures.values(), each.logits)
    ]  # fmt: skip


def assert_equal(found, expected):
    assert len(found) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("numerics", ["fixed16", "fixed8"])
@pytest.mark.parametrize("make", NETS)
@pytest.mark.parametrize("most_coded", [0, device.MOST_CODED])
def test_complement_coding_changes_no_bit(make, numerics, most_coded, monkeypatch):
    monkeypatch.setattr(device, "MOST_CODED", most_coded)
    assert_equal(trains(make, numerics), trains(make, numerics, "reference"))


@pytest.mark.parametrize("numerics", ["fixed16", "fixed8"])
@pytest.mark.parametrize("make", [Pooled, Residual])
def test_sums_in_int64_change_no_bit(make, numerics, monkeypatch):
    monkeypatch.setattr(device, "LARGEST_SUM", 1)
    assert_equal(trains(make, numerics), trains(make, numerics, "reference"))


@pytest.mark.parametrize("few", [0, 2**40])
def test_the_order_of_rows_and_blocks_changes_no_bit(few, monkeypatch):
    monkeypatch.setattr(workspace, "FEW", few)
    assert_equal(trains(Residual, "fixed16"), trains(Residual, "fixed16", "reference"))


@pytest.mark.parametrize("make", [Chain, Pooled])
def test_a_chunk_may_have_more_steps_than_a_byte_can_count(make):
    found = trains(make, "fixed16", steps=600, chunk=600)
    assert_equal(found, trains(make, "fixed16", "reference", steps=600))


CHILD = """
import sys, torch
from tests.engine.test_strips import NETS, trains
torch.save([trains(make, numerics) for make in NETS for numerics in ("fixed16", "fixed8")], sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("features", [pytest.param("", marks=pytest.mark.soak), "+avx2"])
def test_a_processor_without_avx512_computes_the_same_bits(features, tmp_path):
    if features and os.uname().machine != "x86_64":
        pytest.skip("AVX2 is a feature of x86-64")
    changed = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", CHILD, str(tmp_path / "trains")], env=os.environ | changed, check=True)
    found = torch.load(tmp_path / "trains")
    expected = [trains(make, numerics, "reference") for make in NETS for numerics in ("fixed16", "fixed8")]
    for one, other in zip(found, expected, strict=True):
        assert_equal(one, other)
