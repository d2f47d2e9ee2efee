"""Measures images decoded per second against a torchvision DataLoader, and how long the engine waits for images.

All processes and threads of a contender, its main thread too, run on as many cores as it has workers, for both
contenders alike. The images are the JPEGs of $RMPSWEEP_TEST_DATA/imagenet (val20-fullsize.parquet and
samples-originals.parquet), or generated ones if these files do not exist.
"""

import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

from benchmarks import measure
from benchmarks.networks import CASES, prepare, smooth_images
from rmpsweep.data import TRANSFORMS, ImageSplit, open_split
from rmpsweep.data.figures import InputFigures
from rmpsweep.data.prefetch import Prefetch
from rmpsweep.models.weights import save_weights

CASE = CASES["resnet34"]
IMAGES, BATCH = 512, 32
"""Number of images of one timed run, and the batch size."""
SIMULATED, STEPS = 64, 32
OURS, PARQUET, PEER = "rmpsweep, folder", "rmpsweep, Parquet", "torchvision DataLoader"
REAL = Path(os.environ.get("RMPSWEEP_TEST_DATA", "test-data")) / "imagenet"
SWEEP = """
name: decode
network: {{name: {network}, weights: {weights}}}
data: {{source: parquet, path: {images}, transform: imagenet-224}}
calibration: {{images: 16}}
grid: {{threshold: [activation_p99.9]}}
time_steps: [{steps}]
"""


def run(rounds: int) -> dict[str, Any]:
    """Measure images per second of both with 1 and 2 workers, the ratio, and how long the engine waits in a launch."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        encoded, what = _originals()
        _write(folder, [encoded[i % len(encoded)] for i in range(IMAGES)])
        workers = {}
        for cores in (1, 2):
            command = [sys.executable, "-m", "benchmarks.decode", str(cores), str(rounds), temporary]
            done = subprocess.run(
                command,
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                preexec_fn=lambda cores=cores: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores]),
            )
            workers[cores] = json.loads(done.stdout.splitlines()[-1])
        return {"images": what, "workers": workers, "simulated": SIMULATED, "steps": STEPS, "launch": _launch(folder)}


def compare(workers: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Time both contenders, in a process that has as many cores as there are workers.

    Returns:
        Images per second of each contender, and our speed divided by the DataLoader's; medians over the rounds.
    """
    torch.set_num_threads(1)
    same_files = open_split("imagefolder", str(folder), "folder", "imagenet-224")
    parquet = open_split("parquet", str(folder / "test.parquet"), "test", "imagenet-224")
    chosen = TRANSFORMS["imagenet-224"]
    transform = Compose(
        [Resize(chosen.resize), CenterCrop(chosen.crop), ToTensor(), Normalize(chosen.mean, chosen.std)]
    )
    loader = DataLoader(
        ImageFolder(folder / "folder", transform), BATCH, num_workers=workers, persistent_workers=True, shuffle=False
    )

    def ours(split: ImageSplit) -> None:
        with contextlib.closing(Prefetch(split, workers).chunks(0, IMAGES, BATCH, InputFigures())) as chunks:
            assert sum(len(chunk.images) for chunk in chunks) == IMAGES

    def theirs() -> None:
        assert sum(len(images) for images, _ in loader) == IMAGES

    contenders = {OURS: lambda: ours(same_files), PARQUET: lambda: ours(parquet), PEER: theirs}
    for contender in contenders.values():  # a first run of each, which starts the loader's persistent processes
        contender()
    times = measure.alternate(contenders, rounds)
    rates = {label: IMAGES / statistics.median(spent) for label, spent in times.items()}
    ratios = {label: measure.median_ratio(times[PEER], times[label]) for label in (OURS, PARQUET)}
    return {"images_per_s": rates, "ratio": ratios}


def _launch(folder: Path) -> dict[str, Any]:
    """Launch a sweep of one trial (fixed16) in one process, and return the input figures of the launch."""
    prepared = prepare(CASE, 1)
    save_weights(prepared.ann, folder / "weights.safetensors")
    sweep = folder / "sweep.yaml"
    sweep.write_text(
        SWEEP.format(network=CASE.network, weights=folder / "weights.safetensors", images=folder, steps=STEPS)
    )
    command = [
        sys.executable,
        "-m",
        "rmpsweep",
        "launch",
        sweep,
        "--results",
        folder / "results",
        "--limit",
        SIMULATED,
        "--inline",
        "--mlflow",
        "none",
        "--json",
    ]
    began = time.perf_counter()
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)["input"]
    return figures | {"wall_s": time.perf_counter() - began}


def _originals() -> tuple[list[bytes], str]:
    """Encoded images, and a description of them."""
    files = [REAL / name for name in ("val20-fullsize.parquet", "samples-originals.parquet")]
    if all(file.is_file() for file in files):
        rows = [row["bytes"] for file in files for row in pq.read_table(file)["image"].to_pylist()]
        return rows, f"{len(rows)} ImageNet originals"
    made = []
    for number, smooth in enumerate(smooth_images(32, 500)):
        grain = np.random.RandomState(number).normal(0, 6, (375, 500, 3))
        pixels = (smooth[:, :375] * 60 + 128).permute(1, 2, 0).numpy() + grain
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=92)
        made.append(buffer.getvalue())
    return made, f"{len(made)} generated JPEGs of 500x375"


def _write(folder: Path, encoded: list[bytes]) -> None:
    """Write the images as a folder of files, and the same images as Parquet with row groups of 100."""
    (folder / "folder" / "class").mkdir(parents=True)
    for number, content in enumerate(encoded):
        (folder / "folder" / "class" / f"{number:05d}.jpg").write_bytes(content)
    records = [{"bytes": content, "path": f"{number:05d}.jpg"} for number, content in enumerate(encoded)]
    labels = [number % CASE.classes for number in range(len(encoded))]
    for split in ("train", "test"):
        pq.write_table(pa.table({"image": records, "label": labels}), folder / f"{split}.parquet", row_group_size=100)


if __name__ == "__main__":
    print(json.dumps(compare(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
