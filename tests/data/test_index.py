"""The index: made once, found again, made again when its images change; its time and memory for 1.3 million images."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rmpsweep.data import image_order, open_split
from rmpsweep.data.index import Index
from rmpsweep.data.loose import CsvStore, FolderStore
from rmpsweep.data.parquet import ParquetStore
from rmpsweep.data.split import ImageSplit
from rmpsweep.data.tars import TarStore
from rmpsweep.errors import DataError
from rmpsweep.models.registry import build
from rmpsweep.models.weights import save_weights
from tests.helpers import packings
from tests.helpers.commands import run_here
from tests.helpers.packings import SYNSETS

PACKINGS = ["imagefolder", "flat", "parquet", "webdataset", "csv"]
STORES = (CsvStore, FolderStore, ParquetStore, TarStore)
SWEEP = """
name: folders
network: {name: vgg-small, weights: w.safetensors}
data: {source: imagefolder, path: data, split: test, calibration_split: test, transform: unit}
calibration: {images: 4, time_steps: 2}
grid: {threshold: activation_max}
time_steps: [2]
run: {batch_size: 8}
"""
MEASURED = """
import resource, sys, time
from rmpsweep.data import open_split
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began, used = time.perf_counter(), time.process_time()
told = []
split = open_split(*sys.argv[1:4], "imagenet-224", on_index=lambda *each: told.append(each))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seconds, used = time.perf_counter() - began, time.process_time() - used
print(split.num_images, split.fingerprint, seconds, used, peak / 2**20, len(told), before / 2**20)
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RMPSWEEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What stores do from now on: listings, and reads of images."""
    done: list[str] = []

    def watched(kind: type, name: str) -> None:
        original = getattr(kind, name)

        def method(self, *arguments):
            done.append(name)
            return original(self, *arguments)

        monkeypatch.setattr(kind, name, method)

    for kind in STORES:
        watched(kind, "listing")
        watched(kind, "encoded")
    return done


def opened(data: dict[str, str], **options: object) -> ImageSplit:
    return open_split(transform="imagenet-224", **data, **options)


@pytest.mark.parametrize("on_bad_image", ["fail", "skip"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_the_second_opening_lists_and_reads_nothing(packing, on_bad_image, tmp_path, reads):
    data = packings.pack(packings.generated(5), tmp_path)[packing]
    first = opened(data, on_bad_image=on_bad_image)
    assert "listing" in reads
    reads.clear()
    second = opened(data, on_bad_image=on_bad_image)
    assert reads == []
    assert second._table.equals(first._table)
    assert (second.fingerprint, second.num_classes, second.notes) == (first.fingerprint, first.num_classes, first.notes)
    second.pixels([0])
    assert reads == ["encoded"]


@pytest.mark.parametrize("packing", PACKINGS)
def test_an_index_beside_the_results_serves_machines_without_a_cache(packing, tmp_path, reads, own_cache):
    data = packings.pack(packings.generated(5), tmp_path)[packing]
    first = opened(data)
    first.keep_index(tmp_path / "results" / "index")
    (kept,) = (tmp_path / "results" / "index").iterdir()
    shutil.rmtree(own_cache)
    reads.clear()
    assert opened(data, index=tmp_path / "results" / "index").fingerprint == first.fingerprint
    assert (reads, own_cache.exists()) == ([], False)
    os.utime(kept, ns=(1, 1))
    first.keep_index(tmp_path / "results" / "index")
    assert kept.stat().st_mtime_ns == 1
    kept.write_bytes(kept.read_bytes()[:100])
    assert opened(data, index=tmp_path / "results" / "index").fingerprint == first.fingerprint
    assert "listing" in reads
    first.keep_index(tmp_path / "results" / "index")
    assert Index.from_bytes(kept.read_bytes()).content == first._index.content


@pytest.mark.parametrize("packing", PACKINGS)
def test_one_more_image_makes_another_index(packing, tmp_path, reads):
    images = packings.generated(6)
    before = opened(packings.pack(images[:5], tmp_path)[packing])
    reads.clear()
    after = opened(packings.pack(images, tmp_path)[packing])
    assert "listing" in reads
    assert (before.num_images, after.num_images) == (5, 6)
    assert before.fingerprint != after.fingerprint


def test_an_index_is_told_of_while_it_is_made(tmp_path):
    told = []
    data = packings.pack(packings.generated(5), tmp_path)["csv"]
    for _ in range(2):
        opened(data, on_index=lambda *each: told.append(each))
    assert told == [("csv/val", 5, None), ("csv/val", 5, 5)]


@pytest.mark.parametrize("write", [packings.image_folder, packings.flat_folder, packings.csv_list])
def test_a_file_changed_in_place_is_refused_until_the_index_is_made_again(write, tmp_path):
    images = packings.generated(5)
    data = write(images, tmp_path)
    split = opened(data)
    (file,) = tmp_path.rglob(f"{images[1].name}.*")
    file.write_bytes(packings.generated(5, seed=1)[1].encoded)
    for each in (split, opened(data)):
        with pytest.raises(
            DataError, match=f"{images[1].name}.*the file was changed after its index was made"
        ) as caught:
            each.pixels([0, 1])
    touched = str(caught.value).partition("`touch ")[2].partition("`")[0]
    time.sleep(0.02)
    Path(touched).touch()
    after = opened(data)
    after.pixels([1])
    assert after.fingerprint != split.fingerprint


def test_of_a_large_split_few_images_are_read_and_every_packing_still_agrees(tmp_path, monkeypatch, reads):
    monkeypatch.setattr("rmpsweep.data.index.READ_WHOLE", 20)
    monkeypatch.setattr("rmpsweep.data.index.SAMPLED", 4)
    images = packings.generated(30)
    packed = packings.pack(images, tmp_path)
    splits = {name: opened(data) for name, data in packed.items()}
    assert len({split.fingerprint for split in splits.values()}) == 1
    for split in splits.values():
        assert split._table["sha256"].null_count == 26
    assert opened(packed["csv"], on_bad_image="skip").fingerprint == splits["csv"].fingerprint
    sampled = [i for i, each in enumerate(splits["csv"]._table["sha256"].to_pylist()) if each is not None]
    for number, same in ((sampled[0], False), ((sampled[0] + 1) % 30, (sampled[0] + 1) % 30 not in sampled)):
        changed = list(images)
        changed[number] = packings.Packed(images[number].name, images[number - 1].encoded, images[number].label)
        other = opened(packings.csv_list(changed, tmp_path / f"changed{number}"))
        assert (other.fingerprint == splits["csv"].fingerprint) == same


def test_a_large_split_names_what_cannot_be_decoded_when_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("rmpsweep.data.index.READ_WHOLE", 2)
    monkeypatch.setattr("rmpsweep.data.index.SAMPLED", 1)
    images = packings.generated(5)
    split = opened(packings.csv_list(images, tmp_path))
    unread = split._table["sha256"].to_pylist().index(None)
    next(tmp_path.rglob(f"{images[unread].name}.*")).write_bytes(b"text")
    with pytest.raises(DataError, match=f"{images[unread].name}.*not an image PIL can read, or was changed"):
        split.pixels([unread])


@pytest.mark.slow
def test_a_launch_keeps_the_index_in_its_results_and_a_plan_does_not(tmp_path, reads, own_cache, monkeypatch):
    """A launch that comes to nothing leaves nothing."""
    for number in range(8):
        path = tmp_path / "data" / "test" / f"class{number % 4}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.RandomState(number).randint(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    for name, classes in (("w", 4), ("wrong", 7)):
        save_weights(build("vgg-small", classes, 3, 8), tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(SWEEP)
    assert run_here(["plan", "s.yaml"])[0] == 0
    assert not Path("results").exists()
    assert run_here(["launch", "s.yaml", "--inline", "--set", "network.weights=wrong.safetensors"])[0] == 2
    assert not Path("results").exists()
    code, _, errors = run_here(["launch", "s.yaml", "--inline", "--mlflow", "none"])
    assert code == 0, errors
    assert len(list(Path("results/folders/index").iterdir())) == 1
    shutil.rmtree(own_cache)
    reads.clear()
    assert run_here(["plan", "s.yaml"])[0] == 0
    assert (reads, own_cache.exists()) == ([], False)


def measured(*arguments: object) -> tuple[int, str, float, float, float, int, float]:
    """Images, fingerprint, seconds, those of a processor, peak GiB, reports, GiB before; in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, arguments)], capture_output=True, text=True, check=True, timeout=900
    )
    num_images, fingerprint, seconds, used, peak, told, before = done.stdout.split()
    return int(num_images), fingerprint, float(seconds), float(used), float(peak), int(told), float(before)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("packing", ["csv", "imagefolder", "webdataset"])
def test_an_index_of_a_training_set_takes_less_than_a_minute_and_a_gibibyte(packing, tmp_path):
    """1.3 million as a list and in tar files, 100,001 real files in folders; the second time it is only read."""
    image = packings.generated(1)[0].encoded
    count = 100_001 if packing == "imagefolder" else 1_300_000
    root = tmp_path / "data"
    root.mkdir()
    if packing == "csv":
        (root / "image.jpg").write_bytes(image)
        _link_sampled(root, count)
        with open(root / "train.csv", "w") as file:
            file.writelines(f"{SYNSETS[i % 1000]}/{_name(i)}.JPEG,{i % 1000}\n" for i in range(count))
    elif packing == "imagefolder":
        for i in range(count):
            packings._write(root / "train" / SYNSETS[i % 1000] / f"{_name(i)}.JPEG", image)
    else:
        for shard in range(13):
            _write_tar(root / f"train-{shard:06d}.tar", range(shard * count // 13, (shard + 1) * count // 13))
    figures = [measured(packing, root, "train") for _ in range(2)]
    for num_images, fingerprint, seconds, used, peak, told, before in figures:
        print(
            f"\n{packing}: {num_images:,} images, {seconds:.1f} s ({used:.1f} s of a processor), "
            f"peak {peak:.2f} GiB ({before:.2f} before), {told} reports"
        )
        assert (num_images, fingerprint) == (count, figures[0][1])
        assert used < 60  # however busy the machine is
        assert peak < 1
    assert figures[1][5] == 0


def _name(number: int) -> str:
    return f"{SYNSETS[number % 1000]}_{number:07d}"


def _link_sampled(root: Path, count: int) -> None:
    """The 64 images that are read of a large split, as links to one."""
    names = sorted(f"{_name(i)}" for i in range(count))
    for position in image_order(count)[:64]:
        link = root / names[position].partition("_")[0] / f"{names[position]}.JPEG"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(root / "image.jpg")


def _write_tar(path: Path, numbers: range) -> None:
    """Tiny images; headers written in bulk, as tarfile takes minutes for so many."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    pixel = buffer.getvalue()
    with open(path, "wb") as file:
        for number in numbers:
            for extension, content in (("png", pixel), ("cls", str(number % 1000).encode())):
                info = tarfile.TarInfo(f"{_name(number)}.{extension}")
                info.size = len(content)
                file.write(info.tobuf(tarfile.USTAR_FORMAT) + content.ljust(-(-len(content) // 512) * 512, b"\0"))
        file.write(bytes(1024))
