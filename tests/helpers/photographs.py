"""Makes small colour JPEGs, smooth patches with a little noise, packs them as Parquet, and writes a sweep over them."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from rmpsweep.models.registry import build
from rmpsweep.models.weights import save_weights

SIDE = 16
SWEEP = """
name: photographs
network: {{name: vgg-small, weights: {folder}/weights.safetensors}}
data: {{source: parquet, path: {folder}/images, transform: cifar10, shard_size: 24}}
calibration: {{images: 12, time_steps: 4}}
grid:
  - {{threshold: [activation_p99.9], reset: [soft, hard], numerics: [fixed16, float32]}}
  - {{threshold: [activation_p99.9], encoding: [poisson]}}
time_steps: [4, 12]
"""


def photograph(number: int, width: int = SIDE, height: int = SIDE) -> bytes:
    """Make a JPEG, which is always the same for the same number and size."""
    random = np.random.RandomState(number)
    patches = Image.fromarray(random.randint(0, 256, (4, 5, 3), dtype=np.uint8)).resize((width, height), 3)
    pixels = np.asarray(patches) + random.normal(0, 8, (height, width, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def pack(path: Path, images: list[bytes]) -> None:
    """Write a Parquet file with row groups of ten, and with labels 0 to 9 in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [{"bytes": image, "path": f"{i:04d}.jpg"} for i, image in enumerate(images)]
    table = pa.table({"image": records, "label": [i % 10 for i in range(len(images))]})
    pq.write_table(table, path, row_group_size=10)


def write_sweep(folder: Path, num_images: int = 45) -> Path:
    """Write images, random weights, and the sweep over them."""
    for split, first in (("test", 0), ("train", 1000)):
        pack(folder / "images" / f"{split}.parquet", [photograph(first + i) for i in range(num_images)])
    torch.manual_seed(0)
    save_weights(build("vgg-small", 10, 3, SIDE), folder / "weights.safetensors")
    path = folder / "photographs.yaml"
    path.write_text(SWEEP.format(folder=folder))
    return path
