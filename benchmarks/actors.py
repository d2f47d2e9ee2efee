"""Times whole launches of a CIFAR-like resnet20 sweep: two actors on two cores against one actor on one core."""

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.networks import CASES, MEAN, STD, prepare

CASE = CASES["resnet20"]
IMAGES = 512
ONE, TWO = "one actor, one core", "two actors, two cores"
SWEEP = """
name: actors
network: {{name: resnet20, weights: {weights}}}
data: {{source: parquet, path: {images}, transform: cifar10}}
calibration: {{images: 16}}
grid: {{threshold: [activation_p99.9], reset: [soft, hard], alpha: [0.5, 0.6, 0.7, 0.85], alpha_scope: [network]}}
time_steps: [16, 32, 64]
"""


def run(rounds: int) -> dict[str, object]:
    """Launch with one actor and with two, in turn.

    Returns:
        Medians over the rounds: image-steps per second while units are computed, seconds until the first unit begins,
        and the ratio of the speeds.
    """
    rates: dict[str, list[float]] = {ONE: [], TWO: []}
    starts: dict[str, list[float]] = {ONE: [], TWO: []}
    with tempfile.TemporaryDirectory() as folder:
        sweep = _write(Path(folder))
        for number in range(rounds):
            for label, cores in ((ONE, 1), (TWO, 2)):
                rate, start = _launch(sweep, Path(folder) / f"{number}-{cores}", cores)
                rates[label].append(rate)
                starts[label].append(start)
    ratio = statistics.median(two / one for one, two in zip(rates[ONE], rates[TWO], strict=True))
    return {
        "images": IMAGES,
        "image_steps_per_s": {label: statistics.median(values) for label, values in rates.items()},
        "seconds_to_first_unit": {label: statistics.median(values) for label, values in starts.items()},
        "ratio": ratio,
    }


def _launch(sweep: Path, results: Path, cores: int) -> tuple[float, float]:
    """Launch the sweep on this number of cores, with an actor for each.

    Returns:
        Image-steps per second from the beginning of the evaluation to the end of the last unit, and seconds until that
        beginning.
    """
    command = [
        sys.executable,
        "-m",
        "rmpsweep",
        "launch",
        sweep,
        "--results",
        results,
        "--actors",
        str(cores),
        "--mlflow",
        "none",
        "--json",
    ]
    began = time.time()
    done = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, set(range(cores))),
    )
    events = [json.loads(line) for line in done.stderr.splitlines()]
    start = next(event["time"] for event in events if event.get("stage") == "evaluating")
    units = [event for event in events if event["event"] == "done" and event["stage"] == "evaluating"]
    return sum(unit["cost"] for unit in units) / (units[-1]["time"] - start), start - began


def _write(folder: Path) -> Path:
    """Write the images of the benchmark as PNGs, and a sweep over them."""
    images = prepare(CASE, IMAGES).images
    pixels = images * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    records = [{"bytes": _png(image), "path": f"{i:05d}.png"} for i, image in enumerate(pixels)]
    data = folder / "images"
    data.mkdir()
    for split in ("train", "test"):
        pq.write_table(pa.table({"image": records, "label": _labels(len(records))}), data / f"{split}.parquet")
    path = folder / "sweep.yaml"
    path.write_text(SWEEP.format(weights=CASE.weights, images=data))
    return path


def _labels(number: int) -> Sequence[int]:
    return [i % CASE.classes for i in range(number)]


def _png(image: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    array = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()
