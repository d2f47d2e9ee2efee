"""Small inputs, good and bad, for the tests of bad input. They are made once, in one folder, and then only read."""

import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import nn

from rmpsweep.models.registry import build
from rmpsweep.models.weights import save_weights

SWEEP = """
name: tiny
network: {name: vgg-small, weights: $ASSETS/digits.safetensors}
data: {source: digits, shard_size: 2}
calibration: {images: 4, time_steps: 2}
grid: {alpha: [1.0]}
time_steps: [2]
run: {batch_size: 4}
"""
"""A sweep that can be run; `$ASSETS` is the folder of `make_assets`."""

MODULES = """
import torch
from torch import nn

NOT_CALLABLE = 3

def sigmoid():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Sigmoid(), nn.Linear(16, 10))

def three_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))

def text():
    return "a network"

def fails():
    raise KeyError("depth")
"""


def make_assets(folder: Path) -> None:
    """Make weights, networks, Parquet files and folders, whose names say what is wrong with them."""
    generator = np.random.default_rng(0)
    (folder / "rmpsweep_bad_networks.py").write_text(MODULES)
    (folder / "rmpsweep_bad_syntax.py").write_text("def network(:\n")
    _make_weights(folder, generator)
    _make_parquet(folder, generator)
    (folder / "occupied").mkdir()
    (folder / "occupied" / "thesis.tex").write_text("years of work")
    (folder / "empty").mkdir()
    (folder / "file").write_text("a regular file")


def _make_weights(folder: Path, generator: np.random.Generator) -> None:
    torch.manual_seed(0)
    network = build("vgg-small", 10, 1, 8)
    save_weights(network, folder / "digits.safetensors")
    content = (folder / "digits.safetensors").read_bytes()
    (folder / "truncated.safetensors").write_bytes(content[: len(content) // 2])
    (folder / "random.safetensors").write_bytes(generator.bytes(4096))
    (folder / "random.pth").write_bytes(generator.bytes(4096))
    (folder / "empty.pth").write_bytes(b"")
    (folder / "weights.onnx").write_bytes(content)
    with open(folder / "pickled.pth", "wb") as file:
        pickle.dump(_Touch(folder / "pickled-code-ran"), file, protocol=2)
    torch.save(network, folder / "whole-network.pth")
    torch.save([1, 2], folder / "list.pth")
    save_weights(build("vgg-small", 10, 3, 8), folder / "rgb.safetensors")
    save_weights(build("resnet20", 10, 1, 8), folder / "resnet.safetensors")
    layer = [module for module in network.modules() if isinstance(module, nn.Conv2d)][1]
    kept = layer.weight.detach().clone()
    layer.weight.data[0, 0, 0, 0] = torch.nan
    save_weights(network, folder / "nan.safetensors")
    layer.weight.data = -kept.abs()
    save_weights(network, folder / "silent.safetensors")
    for name, classes in (("sigmoid", 10), ("three", 3)):
        own = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, classes))
        save_weights(own, folder / f"{name}.safetensors")


class _Touch:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def _make_parquet(folder: Path, generator: np.random.Generator) -> None:
    pngs = [_png(generator, 8) for _ in range(20)]
    labels = [i % 10 for i in range(20)]
    for split in ("train", "test"):
        _write(folder / "good" / f"{split}.parquet", pngs, labels)
    for name, images, marks in (
        ("hundred", pngs, [*labels[1:], 99]),
        ("negative", pngs, [*labels[1:], -1]),
        ("text", [*pngs[1:], b"<html>not found</html>"], labels),
        ("sizes", [*pngs[1:], _png(generator, 9)], labels),
        ("cut", [pngs[0][:60], *pngs[1:]], labels),
    ):
        for split in ("train", "test"):
            _write(folder / name / f"{split}.parquet", images, marks)
    table = pa.table({"picture": pngs, "label": labels})
    pq.write_table(table, folder / "columns.parquet")
    (folder / "noise.parquet").write_bytes(generator.bytes(500))


def _png(generator: np.random.Generator, size: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(generator.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _write(path: Path, images: list[bytes], labels: list[int]) -> None:
    path.parent.mkdir(exist_ok=True)
    records = [{"bytes": image, "path": f"{i:03d}.png"} for i, image in enumerate(images)]
    pq.write_table(pa.table({"image": records, "label": labels}), path)


def make_results(folder: Path, finished: Path) -> None:
    """Make copies of a finished results directory, each with one thing broken."""
    for name in ("gaps", "unmerged", "torn-sweep", "torn-plan", "torn-run"):
        shutil.copytree(finished, folder / name)
    next((folder / "gaps" / "units").glob("*.parquet")).unlink()
    (folder / "unmerged" / "summary.parquet").unlink()
    (folder / "torn-sweep" / "sweep.yaml").write_text("name: tiny\nnetwork: {name:\n")
    (folder / "torn-plan" / "plan.json").write_text(json.dumps({"context": "x"}))
    (folder / "torn-run" / "run.json").write_text("{")


def snapshot(*folders: Path) -> dict[Path, bytes | None]:
    """Path -> contents of every file, and path -> None for every directory."""
    paths = [path for folder in folders for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return {path: path.read_bytes() if path.is_file() else None for path in paths}
