"""Packs the same images in every way in which people keep ImageNet, and gives a sweep file's `data` for each way."""

import csv
import io
import os
import random
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.io
from PIL import Image

from rmpsweep.data.classes import synset_labels

SYNSETS = tuple(synset_labels())
SHARDS = 2


@dataclass(frozen=True)
class Packed:
    """An image."""

    name: str
    """A name as in the validation set, such as ILSVRC2012_val_00000001."""
    encoded: bytes
    label: int
    """Position among the 1,000 synsets."""


def generated(count: int, seed: int = 0) -> list[Packed]:
    """Generate smooth JPEGs of different sizes and of at most ten classes."""
    state = np.random.RandomState(seed)
    images = []
    for number in range(1, count + 1):
        width, height = state.randint(40, 120, 2)
        small = Image.fromarray(state.randint(0, 256, (7, 5, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize((int(width), int(height)), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        images.append(Packed(f"ILSVRC2012_val_{number:08d}", buffer.getvalue(), 100 * int(state.randint(10)) + 7))
    return images


def read_parquet(path: Path) -> list[Packed]:
    """Read the images of a Parquet file, in its order, and give them names of the validation set."""
    rows = pq.read_table(path).to_pylist()
    return [
        Packed(f"ILSVRC2012_val_{number:08d}", row["image"]["bytes"], row["label"])
        for number, row in enumerate(rows, 1)
    ]


def pack(images: Sequence[Packed], folder: Path) -> dict[str, dict[str, str]]:
    """Write the images into a folder in every packing, in one of two orders.

    Returns:
        Packing -> source, path, split and, for the flat folder, labels.
    """
    shuffled = random.Random(0).sample(list(images), len(images))
    return {
        "imagefolder": image_folder(shuffled[::-1], folder / "classes"),
        "flat": flat_folder(shuffled, folder / "flat"),
        "parquet": parquet(shuffled, folder / "parquet"),
        "webdataset": webdataset(shuffled[::-1], folder / "webdataset"),
        "csv": csv_list(shuffled, folder / "csv"),
    }


def image_folder(images: Sequence[Packed], root: Path) -> dict[str, str]:
    """Write val/<synset>/<name>.JPEG."""
    for image in images:
        _write(root / "val" / SYNSETS[image.label] / f"{image.name}.JPEG", image.encoded)
    return {"source": "imagefolder", "path": str(root), "split": "val"}


def flat_folder(images: Sequence[Packed], root: Path) -> dict[str, str]:
    """Write val/<name>.JPEG, beside the unpacked devkit."""
    for image in images:
        _write(root / "val" / f"{image.name}.JPEG", image.encoded)
    data = root / "ILSVRC2012_devkit_t12" / "data"
    devkit(images, data)
    truth = data / "ILSVRC2012_validation_ground_truth.txt"
    return {"source": "imagefolder", "path": str(root), "split": "val", "labels": str(truth)}


def devkit(images: Sequence[Packed], data: Path, meta: bool = True) -> None:
    """Write meta.mat and the ground truth in the devkit's own numbers, which are not in the order of the synsets."""
    numbers = random.Random(1).sample(range(1, 1001), 1000)  # label -> ILSVRC2012_ID
    data.mkdir(parents=True, exist_ok=True)
    labels = {image.name: image.label for image in images}
    last = max(int(name[-8:]) for name in labels)
    lines = [numbers[labels.get(f"ILSVRC2012_val_{line:08d}", 0)] for line in range(1, last + 1)]
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{number}\n" for number in lines))
    if not meta:
        return
    kinds = [
        ("ILSVRC2012_ID", object),
        ("WNID", object),
        ("words", object),
        ("gloss", object),
        ("num_children", object),
        ("children", object),
        ("wordnet_height", object),
        ("num_train_images", object),
    ]
    leaves = sorted((numbers[label], synset) for label, synset in enumerate(SYNSETS))
    rows = [(number, synset, "a word, another", "a gloss", 0, [], 0, 1300) for number, synset in leaves]
    rows.append((1001, "n00001740", "entity", "what is", 2, [1, 2], 5, 0))  # inner nodes follow the leaves
    synsets = np.empty((len(rows), 1), dtype=kinds)
    for row, values in enumerate(rows):
        synsets[row, 0] = values
    scipy.io.savemat(data / "meta.mat", {"synsets": synsets})


def parquet(images: Sequence[Packed], root: Path) -> dict[str, str]:
    """Write validation-00000-of-00002.parquet and so on, the names that Hugging Face uses."""
    root.mkdir(parents=True, exist_ok=True)
    for shard in range(SHARDS):
        part = images[shard::SHARDS]
        records = [{"bytes": image.encoded, "path": f"{image.name}.JPEG"} for image in part]
        table = pa.table({"image": records, "label": pa.array([image.label for image in part], pa.int64())})
        pq.write_table(table, root / f"validation-{shard:05d}-of-{SHARDS:05d}.parquet", row_group_size=7)
    return {"source": "parquet", "path": str(root), "split": "validation"}


def webdataset(images: Sequence[Packed], root: Path) -> dict[str, str]:
    """Write val-000000.tar and so on, with <name>.jpg and <name>.cls, or <name>.json instead for every third image."""
    root.mkdir(parents=True, exist_ok=True)
    for shard in range(SHARDS):
        with tarfile.open(root / f"val-{shard:06d}.tar", "w") as tar:
            for number, image in enumerate(images[shard::SHARDS]):
                _add(tar, f"{image.name}.jpg", image.encoded)
                if number % 3:
                    _add(tar, f"{image.name}.cls", str(image.label).encode())
                else:
                    _add(tar, f"{image.name}.json", f'{{"label": {image.label}, "width": 1}}'.encode())
    return {"source": "webdataset", "path": f"{root}/val-{{000000..{SHARDS - 1:06d}}}.tar", "split": "val"}


def csv_list(images: Sequence[Packed], root: Path) -> dict[str, str]:
    """Write val.csv with relative paths, into folders that have no meaning."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "val.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label"))
        for number, image in enumerate(images):
            path = Path("images", f"{number % 4}", f"{image.name}.jpeg")
            _write(root / path, image.encoded)
            writer.writerow((os.fspath(path), image.label))
    return {"source": "csv", "path": str(root / "val.csv"), "split": "val"}


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
