"""The cache of decoded images: what it gives back, what it refuses, what it forgets."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

from rmpsweep.data import cache_dir, image_order, open_split
from rmpsweep.data.decoded import DecodedCache
from tests.helpers import photographs

pytestmark = pytest.mark.usefixtures("environment")
BLOCKS = [range(0, 16), range(16, 32), range(32, 45)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    photographs.write_sweep(folder)
    return folder


@pytest.fixture
def split(folder):
    return open_split("parquet", str(folder / "images"), "test", "cifar10")


def pixels(split, block):
    return split.pixels(image_order(split.num_images)[block.start : block.stop])


def fill(split, bound=10**9, blocks=BLOCKS):
    """A cache that was asked to keep these blocks of a split."""
    cache = DecodedCache(split, bound)
    cache.make_room(blocks)
    for block in blocks:
        cache.write(block, *pixels(split, block))
    return cache


def files():
    return sorted((cache_dir() / "decoded").rglob("*-*"))


def equal(found, split, block):
    return all(torch.equal(a, b) for a, b in zip(found, pixels(split, block), strict=True))


def test_blocks_come_back_as_they_were_and_others_are_missing(split, folder):
    fill(split)
    again = DecodedCache(split, 10**9)
    for block in BLOCKS:
        assert equal(again.read(block), split, block)
    assert again.read(range(0, 15)) is None
    train = open_split("parquet", str(folder / "images"), "train", "cifar10")
    assert DecodedCache(train, 10**9).read(BLOCKS[0]) is None
    other_transform = open_split("parquet", str(folder / "images"), "test", "unit")
    assert DecodedCache(other_transform, 10**9).read(BLOCKS[0]) is None


@pytest.mark.parametrize("damage", ["cut", "bit", "longer", "empty", "another block", "other data"])
def test_a_damaged_block_is_not_believed_and_is_replaced(split, folder, damage):
    cache = fill(split)
    train = open_split("parquet", str(folder / "images"), "train", "cifar10")
    fill(train)
    (path,) = (cache_dir() / "decoded" / split.fingerprint).glob("0-16")
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[:-1],
            "bit": content[:-1] + bytes([content[-1] ^ 1]),
            "longer": content + b"\0",
            "empty": b"",
            "another block": path.with_name("16-32").read_bytes(),
            "other data": (path.parents[1] / train.fingerprint / "0-16").read_bytes(),
        }[damage]
    )
    assert cache.read(BLOCKS[0]) is None
    assert not path.exists()
    cache.write(BLOCKS[0], *pixels(split, BLOCKS[0]))
    assert path.read_bytes() == content


def test_beyond_the_bound_the_block_used_longest_ago_goes_whatever_its_data(split, folder):
    fill(split)
    sizes = {path.name: path.stat().st_size for path in files()}
    for age, path in enumerate(files()):
        os.utime(path, (1e9 - age, 1e9 - age))  # 32-45 is the oldest by this
    cache = DecodedCache(split, 10**9)
    cache.make_room([BLOCKS[2]])  # which is used again
    train = open_split("parquet", str(folder / "images"), "train", "cifar10")
    bound = sizes["0-16"] + sizes["32-45"] + sizes["16-32"]
    fill(train, bound, [BLOCKS[0]])
    kept = {(path.parent.name, path.name) for path in files()}
    assert kept == {(split.fingerprint, "0-16"), (split.fingerprint, "32-45"), (train.fingerprint, "0-16")}
    assert sum(path.stat().st_size for path in files()) <= bound


def test_what_does_not_fit_is_not_kept(split):
    fill(split)
    size = files()[0].stat().st_size
    for path in files():
        path.unlink()
    cache = fill(split, size)
    assert [path.name for path in files()] == ["0-16"]
    assert cache.read(BLOCKS[0]) is not None
    assert cache.read(BLOCKS[1]) is None
    fill(split, size - 1)
    assert sum(path.stat().st_size for path in files()) <= size - 1


def test_a_cache_that_cannot_be_written_is_warned_of_once_and_hinders_nothing(split):
    cache_dir().mkdir(exist_ok=True)
    (cache_dir() / "decoded").write_text("in the way")
    with pytest.warns(UserWarning, match=r"run\.decoded_cache_gb: decoded images are not kept: .*decoded") as told:
        cache = fill(split)
    assert len(told) == 1
    assert cache.read(BLOCKS[0]) is None


@pytest.mark.slow
def test_processes_that_share_a_cache_too_small_for_them_never_read_wrong_images(split, folder):
    fill(split)
    bound = sum(path.stat().st_size for path in files()[:2])
    with ProcessPoolExecutor(3, get_context("fork")) as processes:
        found = list(processes.map(_use, [str(folder / "images")] * 3, range(3), [bound] * 3))
    assert all(wrong == 0 for _, wrong in found)
    assert sum(hits for hits, _ in found) > 0


def _use(folder, seed, bound):
    """Blocks read right and wrong, of both splits in turn."""
    hits = wrong = 0
    torch.set_num_threads(1)
    for turn in range(20):
        split = open_split("parquet", folder, ("test", "train")[(turn + seed) % 2], "cifar10")
        cache = DecodedCache(split, bound)
        cache.make_room(BLOCKS)
        for block in BLOCKS:
            found = cache.read(block)
            if found is None:
                cache.write(block, *pixels(split, block))
            else:
                hits, wrong = hits + 1, wrong + (not equal(found, split, block))
    return hits, wrong
