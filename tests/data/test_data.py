"""Sources, numbering, fingerprints and transforms, on real digits and on small files written here."""

import io
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision import transforms as tv

from rmpsweep.data import TRANSFORMS, cache_dir, digits, image_order, open_split
from rmpsweep.errors import DataError
from rmpsweep.models.recipe import read_card
from rmpsweep.sweep.file import SWEEPS

Row = tuple[bytes | None, str | None, int | None]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RMPSWEEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def png(seed: int, width: int = 8, height: int = 6, mode: str = "RGB") -> bytes:
    channels = 1 if mode == "L" else 3
    pixels = np.random.RandomState(seed).randint(0, 256, (height, width, channels), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if mode == "L" else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def encoded(seed: int, kind: str) -> bytes:
    """A 64x64 image in one of PIL's formats."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png(seed, 64, 64))) as image:
        image.save(buffer, kind)
    return buffer.getvalue()


def write(path: Path, rows: list[Row], row_group_size: int = 4) -> None:
    image = pa.array(
        [{"bytes": b, "path": p} for b, p, _ in rows], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    label = pa.array([label for *_, label in rows], pa.int64())
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": image, "label": label}), path, row_group_size=row_group_size)


def ten_rows() -> list[Row]:
    return [(png(i), f"folder/{chr(ord('j') - i)}.png", i % 3) for i in range(10)]


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys; from rmpsweep.data import open_split; s = open_split('digits', None, 'test', None);"
        "print(s.num_images, len(s.fingerprint), *{'torch', 'torchvision', 'sklearn', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["500", "64"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RMPSWEEP_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/rmpsweep"),
        ({"HOME": "/c"}, "/c/.cache/rmpsweep"),
    ],
)
def test_cache_dir(environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RMPSWEEP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_dir() == Path(expected)


def test_digits_are_scikit_learns() -> None:
    import sklearn.datasets
    from sklearn.datasets import load_digits

    packed = Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz"
    assert digits.FILE.read_bytes() == packed.read_bytes()
    bunch = load_digits()
    train, test = (open_split("digits", None, split, None) for split in ("train", "test"))
    assert (train.num_images, test.num_images, test.num_classes, test.max_label) == (1297, 500, 10, 9)
    assert train.fingerprint != test.fingerprint
    rows = np.random.RandomState(0).permutation(1797)
    images, labels = test.load(range(500))
    assert tuple(images.shape[1:]) == test.image_shape == (1, 8, 8)
    np.testing.assert_array_equal(images[:, 0].numpy() * 16, bunch.images[np.sort(rows[1297:])])
    np.testing.assert_array_equal(labels.numpy(), bunch.target[np.sort(rows[1297:])])
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    images, labels = train.load([1296, 0])
    np.testing.assert_array_equal(images[1, 0].numpy() * 16, bunch.images[rows[:1297].min()])
    np.testing.assert_array_equal(images[0, 0].numpy() * 16, bunch.images[rows[:1297].max()])


def test_digits_are_those_that_the_shipped_weights_were_trained_on() -> None:
    card = read_card(SWEEPS / "weights" / "digits-vgg-small.safetensors")
    assert card is not None
    found = [open_split("digits", None, split, None).fingerprint for split in ("train", "test")]
    assert found == [card.data_fingerprint, card.test_fingerprint]


def test_slices_are_of_a_permutation_and_complete_each_other() -> None:
    whole = open_split("digits", None, "train", None)
    first, rest = (open_split("digits", None, f"train{part}", None) for part in ("[:1000]", "[1000:]"))
    assert (first.num_images, rest.num_images, rest.name) == (1000, 297, "digits/train[1000:1297]")
    assert (rest.num_classes, rest.image_shape) == (whole.num_classes, whole.image_shape)
    assert len({whole.fingerprint, first.fingerprint, rest.fingerprint}) == 3
    order = image_order(1297)
    for part, ids in ((first, sorted(order[:1000])), (rest, sorted(order[1000:]))):
        for loaded, expected in zip(part.load(range(part.num_images)), whole.load(ids), strict=True):
            assert torch.equal(loaded, expected)


@pytest.mark.parametrize(
    "split", ["train[1000:2000]", "train[9:9]", "train[9:3]", "train[1:", "train[a:b]", "train[-5:]"]
)
def test_empty_or_invalid_slices_are_refused(split: str) -> None:
    with pytest.raises(DataError, match=re.escape(f"digits: split: got {split!r}")):
        open_split("digits", None, split, None)


def test_parquet_numbering_does_not_depend_on_packing(tmp_path: Path) -> None:
    rows = ten_rows()
    write(tmp_path / "one" / "test.parquet", rows)
    shuffled = random.Random(1).sample(rows, len(rows))
    write(tmp_path / "two" / "test-00000-of-00002.parquet", shuffled[:7], row_group_size=2)
    write(tmp_path / "two" / "test-00001-of-00002.parquet", shuffled[7:])
    one = open_split("parquet", str(tmp_path / "one"), "test", "unit")
    two = open_split("parquet", str(tmp_path / "two"), "test", "unit")
    assert one.fingerprint == two.fingerprint
    assert (one.num_images, one.num_classes, one.max_label, one.image_shape) == (10, None, 2, (3, 6, 8))
    assert (one.name, two.name) == ("one/test", "two/test")
    ids = [9, 0, 3, 3]
    by_key = sorted(rows, key=lambda row: str(row[1]))
    pixels = [np.asarray(Image.open(io.BytesIO(by_key[i][0] or b""))) for i in ids]
    for split in (one, two):
        images, labels = split.load(ids)
        np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), np.stack(pixels).astype(np.float32) / 255)
        assert labels.tolist() == [by_key[i][2] for i in ids]


@pytest.mark.parametrize("change", ["image", "label", "key", "transform"])
def test_fingerprint_changes_with(change: str, tmp_path: Path) -> None:
    rows = ten_rows()
    write(tmp_path / "a" / "x.parquet", rows)
    image, path, label = rows[4]
    rows[4] = {"image": (png(99), path, label), "label": (image, path, 5), "key": (image, "zz.png", label)}.get(
        change, rows[4]
    )
    write(tmp_path / "b" / "x.parquet", rows)
    before = open_split("parquet", str(tmp_path / "a"), "x", "unit")
    after = open_split("parquet", str(tmp_path / "b"), "x", "imagenet-norm" if change == "transform" else "unit")
    assert before.fingerprint != after.fingerprint


@pytest.mark.parametrize("paths", [[None] * 12, ["same/a.png"] * 12, [None, *[f"{i}.png" for i in range(11)]]])
def test_key_is_the_row_number_where_names_do_not_tell_rows_apart(paths: list[str | None], tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", [(png(i), path, i) for i, path in enumerate(paths)])
    _, labels = open_split("parquet", str(tmp_path / "x.parquet"), "x", "unit").load(range(12))
    assert labels.tolist() == list(range(12))


@pytest.mark.parametrize(
    ("path", "split", "num_images"),
    [
        ("", "train", 2),
        ("", "test", 1),
        ("{split}-*.parquet", "train", 2),
        ("test.parquet", "whatever", 1),
        ("*.parquet", "whatever", 3),
    ],
)
def test_parquet_paths(path: str, split: str, num_images: int, tmp_path: Path) -> None:
    for number, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "test")):
        write(tmp_path / f"{name}.parquet", [(png(number), f"{number}.png", 0)])
    assert open_split("parquet", f"{tmp_path}/{path}", split, "unit").num_images == num_images


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((b"", "b.png", 0), r"x\.parquet: row 1 \(key 'b'\): image: empty"),
        ((None, "b.png", 0), r"row 1 \(key 'b'\): image: empty"),
        ((b"<html>not found</html>", "b.png", 0), r"row 1 \(key 'b'\): image: 22 bytes that are not an image"),
        ((png(1), "b.png", -1), r"row 1 \(key 'b'\): label: got -1"),
        ((png(1), "b.png", None), "row 1: label: got none"),
        ((png(1, width=9), "b.png", 1), r"a is 8x6, b is 9x6\); name a transform that resizes"),
    ],
)
def test_bad_record_is_named_when_the_split_is_opened(row: Row, message: str, tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", [(png(0), "a.png", 0), row])
    with pytest.raises(DataError, match=message):
        open_split("parquet", str(tmp_path / "x.parquet"), "x", "unit")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_image_is_named_when_the_split_is_opened(kind: str, tmp_path: Path) -> None:
    whole = encoded(1, kind)
    write(tmp_path / "x.parquet", [(png(0, 64, 64), "a.png", 0), (whole[: len(whole) // 2], "b", 0)])
    with pytest.raises(DataError, match=r"x\.parquet: row 1 \(key 'b'\): image: damaged or cut short"):
        open_split("parquet", str(tmp_path / "x.parquet"), "x", "unit")


def test_jpeg_with_bytes_after_its_end_is_an_image(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", [(encoded(1, "JPEG") + b"camera notes", "a", 0)])
    assert open_split("parquet", str(tmp_path / "x.parquet"), "x", "unit").load([0])[0].shape == (1, 3, 64, 64)


def test_image_that_fails_only_when_decoded_is_named_then(tmp_path: Path) -> None:
    whole = encoded(1, "BMP")
    write(tmp_path / "x.parquet", [(encoded(0, "BMP"), "a.bmp", 0), (whole[: len(whole) // 2], "b.bmp", 0)])
    split = open_split("parquet", str(tmp_path / "x.parquet"), "x", "unit")
    split.load([0])
    with pytest.raises(DataError, match=r"x\.parquet: row 1 \(key 'b'\): image: cannot be decoded"):
        split.load([0, 1])


def test_file_changed_after_opening_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", ten_rows())
    split = open_split("parquet", str(tmp_path / "x.parquet"), "x", "unit")
    write(tmp_path / "x.parquet", list(reversed(ten_rows())))
    with pytest.raises(DataError, match="changed after its index was made"):
        split.load([0])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"img": pa.array([b"x"]), "label": pa.array([1])}, "got columns img, label; expected columns image"),
        ({"image": pa.array([b"x"]), "label": pa.array([1])}, "image: got binary"),
        ({"image": pa.array([{"bytes": b"x", "path": "p"}]), "label": pa.array([1.0])}, "label: got double"),
    ],
)
def test_wrong_columns(columns: dict[str, pa.Array], message: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=message):
        open_split("parquet", str(tmp_path), "x", "unit")


@pytest.mark.parametrize(
    ("source", "path", "split", "transform", "message"),
    [
        (
            "mnist",
            None,
            "test",
            None,
            "source: got 'mnist', expected one of auto, digits, cifar10, cifar100, imagefolder",
        ),
        ("digits", None, "test", "zoom", "transform: got 'zoom', expected one of unit, cifar10"),
        ("digits", None, "val", None, "split: got 'val', expected one of train, test"),
        ("digits", "x", "test", None, "path: got 'x', expected none"),
        (
            "digits",
            None,
            "test",
            "cifar10",
            "digits/test: transform: got mean and std of 3 channels, the images have 1",
        ),
        ("parquet", "{tmp}", "test", None, "name one, e.g. 'cifar10'"),
        ("parquet", None, "test", "unit", "path: got none"),
        ("parquet", "{tmp}", "val", "unit", "split: got 'val', found in .*: notes, train"),
        ("parquet", "{tmp}/missing", "val", "unit", "there is no folder, file or match"),
        ("parquet", "{tmp}/notes.parquet", "val", "unit", "not a readable Parquet file"),
        ("cifar10", None, "test", None, "expected the folder that holds cifar-10-batches-py"),
        ("cifar100", "{tmp}", "val", None, "split: got 'val', expected one of train, test"),
        ("cifar10", "{tmp}", "test", None, "test_batch: missing; unpack https://"),
    ],
)
def test_what_cannot_be_opened(
    source: str, path: str | None, split: str, transform: str | None, message: str, tmp_path: Path
) -> None:
    write(tmp_path / "train-00000-of-00001.parquet", ten_rows())
    (tmp_path / "notes.parquet").write_text("notes")
    with pytest.raises(DataError, match=message):
        open_split(source, path and path.replace("{tmp}", str(tmp_path)), split, transform)


@pytest.mark.parametrize(
    ("image_ids", "message"),
    [([500], "got 500, expected 0 to 499"), ([0, -1], "got -1, expected 0 to 499"), ([0.5], "float64"), ([], "N >= 1")],
)
def test_image_ids_that_do_not_exist(image_ids: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_split("digits", None, "test", None).load(image_ids)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_equal_torchvisions(name: str, tmp_path: Path) -> None:
    transform = TRANSFORMS[name]
    steps: list = [tv.ToTensor()]
    if transform.resize:
        how = tv.InterpolationMode(transform.interpolation)
        steps = [tv.Resize(transform.resize, how), tv.CenterCrop(224), tv.ToTensor()]
    if name != "unit":
        steps.append(tv.Normalize(transform.mean, transform.std))
    sizes = [(300, 261), (240, 500), (224, 224)] if transform.resize else [(20, 30)] * 3
    encoded = [png(i, *size, mode="L" if i == 0 else "RGB") for i, size in enumerate(sizes)]
    write(tmp_path / "x.parquet", [(image, f"{i}.png", i) for i, image in enumerate(encoded)])
    split = open_split("parquet", str(tmp_path), "x", name)
    images, _ = split.load(range(3))
    expected = [tv.Compose(steps)(Image.open(io.BytesIO(image)).convert("RGB")) for image in encoded]
    assert torch.equal(images, torch.stack(expected))
    assert tuple(images.shape[1:]) == split.image_shape
