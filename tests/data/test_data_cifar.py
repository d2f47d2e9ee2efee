"""CIFAR-10 and CIFAR-100 in the original batch files, written here and read by torchvision."""

import io
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from PIL import Image

from rmpsweep.data import open_split
from rmpsweep.errors import DataError


def write_cifar(root: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, list[int], list[str]]:
    """Test files in the original format, whose checksums torchvision is told to expect; pixels, labels, file names."""
    dataset = torchvision.datasets.CIFAR10 if source == "cifar10" else torchvision.datasets.CIFAR100
    random_state = np.random.RandomState(0)
    pixels = random_state.randint(0, 256, (10_000, 3072), dtype=np.uint8)
    labels = random_state.randint(0, 10, 10_000).tolist()
    filenames = [f"frog_s_{i:06}.png" for i in random_state.permutation(10_000)]
    folder = root / dataset.base_folder
    folder.mkdir()
    name, meta = dataset.test_list[0][0], dataset.meta
    (folder / name).write_bytes(
        pickle.dumps(
            {"data": pixels, "labels" if source == "cifar10" else "fine_labels": labels, "filenames": filenames}
        )
    )
    (folder / meta["filename"]).write_bytes(pickle.dumps({meta["key"]: [str(i) for i in range(10)]}))
    md5 = torchvision.datasets.utils.calculate_md5
    monkeypatch.setattr(dataset, "train_list", [])
    monkeypatch.setattr(dataset, "test_list", [[name, md5(folder / name)]])
    monkeypatch.setattr(dataset, "meta", {**meta, "md5": md5(folder / meta["filename"])})
    return pixels.reshape(-1, 3, 32, 32), labels, filenames


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_cifar_batch_files(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, labels, filenames = write_cifar(tmp_path, source, monkeypatch)
    split = open_split(source, str(tmp_path), "test", "unit")
    assert (split.name, split.num_images, split.image_shape) == (f"{source}/test", 10_000, (3, 32, 32))
    assert split.num_classes == {"cifar10": 10, "cifar100": 100}[source]
    assert split.class_names() == tuple("0123456789")
    images, loaded = split.load([9_999, 5])
    rows = [filenames.index("frog_s_009999.png"), filenames.index("frog_s_000005.png")]
    np.testing.assert_array_equal(images.numpy(), pixels[rows].astype(np.float32) / 255)
    assert loaded.tolist() == [labels[row] for row in rows]

    (file,) = (file for file in (tmp_path).glob("*/test*"))
    damaged = bytearray(file.read_bytes())
    damaged[-1000] ^= 1
    file.write_bytes(damaged)
    other = open_split(source, str(tmp_path), "test", "unit")
    assert other.fingerprint != split.fingerprint
    with pytest.raises(DataError, match="missing or damaged"):
        other.load([0])


@pytest.mark.slow
def test_the_same_slice_from_batch_files_and_from_parquet_holds_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMPSWEEP_CACHE", str(tmp_path / "cache"))
    pixels, labels, filenames = write_cifar(tmp_path, "cifar10", monkeypatch)
    records = []
    for image, name in zip(pixels, filenames, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "PNG", compress_level=0)
        records.append({"bytes": buffer.getvalue(), "path": name})
    pq.write_table(pa.table({"image": records, "label": labels}), tmp_path / "test.parquet")
    packings = [open_split(source, str(tmp_path), "test[9900:]", "unit") for source in ("cifar10", "parquet")]
    (images, found), (others, expected) = [split.load(range(100)) for split in packings]
    assert torch.equal(images, others)
    assert torch.equal(found, expected)


def test_failed_download_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    with pytest.raises(DataError, match=r"the download failed .*; unpack https://"):
        open_split("cifar10", str(tmp_path), "train", None, download=True)


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_batch_files_are_checked_before_anything_in_them_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, "cifar10", monkeypatch)
    ran = tmp_path / "ran"
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(Touch(ran)))
    with pytest.raises(DataError, match="missing or damaged"):
        open_split("cifar10", str(tmp_path), "test", "unit").load([0])
    assert not ran.exists()
