"""Results of 200 trials x 10 T x 10,000 images, and of a quarter of the images: memory and sizes stay in bounds, tables
are what they were made from. The seconds are printed, and judged by people."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from rmpsweep.results import read_table
from rmpsweep.results.directory import CELL_BYTES
from rmpsweep.results.tables import PREDICTIONS_SCHEMA, SUMMARY_SCHEMA
from rmpsweep.terms import ANN
from tests.helpers.synthetic import Synthetic

GIB = 2**30
TIME_STEPS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 256)
pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


def run(folder: Path, *command: str) -> tuple[dict, float]:
    """The command in a process of its own: its document, and the most memory it held, in bytes."""
    began = time.monotonic()
    with open(folder / "output", "w+") as output:
        process = subprocess.Popen([sys.executable, "-m", "rmpsweep", *command, "--json"], stdout=output, cwd=folder)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        output.seek(0)
        document = json.load(output)
    seconds, processor = time.monotonic() - began, usage.ru_utime + usage.ru_stime
    memory = usage.ru_maxrss * 1024
    print(f"{' '.join(command)}: {seconds:.1f} s, processor {processor:.1f} s, {memory / GIB:.2f} GiB")
    return document, memory


@pytest.mark.parametrize("images", [2_500, 10_000])
def test_many_trials_are_merged_reported_and_compared_in_bounded_memory(tmp_path, images):
    sweeps = {
        name: Synthetic(
            alphas=50,
            rules=("vin_max", "activation_p99.9"),
            time_steps=TIME_STEPS,
            images=images,
            shard_size=128,
            layers=20,
            seed=seed,
        )
        for seed, name in enumerate("ab")
    }
    prepared = {name: sweep.write(tmp_path / name) for name, sweep in sweeps.items()}
    memory = []
    for name, each in prepared.items():
        document, held = run(tmp_path, "merge", name)
        memory.append(held)
        cells = 200 * len(TIME_STEPS) * images + images
        assert document["predictions"] == cells
        layout = each.layout
        written = [path.stat().st_size for path in (layout.predictions, layout.summary, layout.activity)]
        print(f"{images} images: {written} bytes of predictions, summary, activity")
        assert sum(written) < CELL_BYTES * cells

    plan, layout = prepared["a"].plan, prepared["a"].layout
    ranks = {
        (trial.trial_id, t): sweeps["a"].rank(prepared["a"], trial.trial_id, t)
        for trial in plan.trials
        for t in TIME_STEPS
    }
    summary = {
        (row["trial_id"], row["time_steps"]): row for row in read_table(layout.summary, SUMMARY_SCHEMA).to_pylist()
    }
    assert summary.keys() == ranks.keys()
    for cell, rank in ranks.items():
        assert (summary[cell]["images"], summary[cell]["correct"]) == (images, np.count_nonzero(rank == 0))
        assert summary[cell]["top5"] == np.count_nonzero(rank < 5) / images
    for trial in (plan.trials[0].trial_id, plan.trials[-1].trial_id, ANN):
        rows = read_table(layout.predictions, PREDICTIONS_SCHEMA, pc.field("trial_id").isin([trial]))
        steps = (0,) if trial == ANN else TIME_STEPS
        expected = [sweeps["a"].rank(prepared["a"], trial, t) for t in steps]
        assert np.array_equal(rows["label_rank"].to_numpy(), np.concatenate(expected))
        assert np.array_equal(rows["image_id"].to_numpy(), np.tile(np.arange(images), len(steps)))
        assert np.array_equal(rows["time_steps"].to_numpy(), np.repeat(steps, images))

    compared, held = run(tmp_path, "compare", "a", "b")
    memory.append(held)
    assert len(compared["differences"]) == 2 * len(TIME_STEPS)
    by_name = {trial["name"]: trial["trial_id"] for trial in compared["trials"]}
    for each in compared["differences"]:
        assert each["paired"]
        assert each["images"] == images
        rank = sweeps["b"].rank(prepared["b"], by_name[each["name"]], each["time_steps"])
        assert each["accuracy"] == np.count_nonzero(rank == 0) / images
        right = ranks[by_name[each["baseline"]], each["time_steps"]] == 0
        assert each["accuracy_baseline"] == np.count_nonzero(right) / images

    _, held = run(tmp_path, "report", "a")
    memory.append(held)
    print(f"report: {layout.report.stat().st_size} bytes")
    assert layout.report.stat().st_size < 5_000_000
    assert max(memory) < 4 * GIB
