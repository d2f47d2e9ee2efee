"""Folders, lists and label files that are not what they seem: each is named, with what to do."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from rmpsweep.data import open_split
from rmpsweep.errors import DataError
from tests.helpers import packings
from tests.helpers.packings import SYNSETS

IMAGES = packings.generated(4)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMPSWEEP_CACHE", str(tmp_path / "cache"))


def refused(source: str, path: Path, split: str = "val", labels: Path | None = None) -> str:
    """What is said."""
    with pytest.raises(DataError) as caught:
        open_split(source, str(path), split, "imagenet-224", labels=labels and str(labels))
    return str(caught.value)


def flat(root: Path) -> Path:
    """A flat val/ of four images."""
    for image in IMAGES:
        packings._write(root / "val" / f"{image.name}.JPEG", image.encoded)
    return root


def test_a_flat_folder_without_labels_says_what_was_looked_for(tmp_path):
    message = refused("imagefolder", flat(tmp_path))
    for part in (
        "val: the images lie in one folder",
        "ILSVRC2012_validation_ground_truth.txt",
        "meta.mat",
        "LOC_val_solution.csv",
        "val.txt",
        "data.labels",
        "unpack https://image-net.org",
    ):
        assert part in message
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(b"")
    assert f"unpack {tmp_path}/ILSVRC2012_devkit_t12.tar.gz" in refused("imagefolder", tmp_path)


def test_ground_truth_without_meta_mat_is_refused(tmp_path):
    """Its numbers run from 1 to 1000 in another order: taken for labels nearly all of them would be wrong."""
    packings.devkit(IMAGES, flat(tmp_path), meta=False)
    message = refused("imagefolder", tmp_path)
    assert "its numbers are the devkit's (ILSVRC2012_ID), not labels" in message
    assert "meta.mat" in message
    assert message == refused("imagefolder", tmp_path, labels=tmp_path / "ILSVRC2012_validation_ground_truth.txt")
    (tmp_path / "meta.mat").write_bytes(b"not MATLAB's")
    assert "meta.mat: not the meta.mat of ILSVRC 2012's devkit" in refused("imagefolder", tmp_path)


def test_ground_truth_that_is_too_short_or_has_other_numbers(tmp_path):
    truth = tmp_path / "ILSVRC2012_validation_ground_truth.txt"
    packings.devkit(IMAGES, flat(tmp_path))
    lines = truth.read_text().split()
    truth.write_text("\n".join(lines[:3]))
    assert f"has no label for 1 of 4 images in {tmp_path}/val, such as {IMAGES[3].name}.JPEG" in refused(
        "imagefolder", tmp_path
    )
    truth.write_text("\n".join([*lines[:3], "1001"]))
    assert "line 4: got '1001', which " in refused("imagefolder", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{IMAGES[0].name}.JPEG 3\n", "has no label for 3 of 4 images"),
        (f"{IMAGES[0].name}.JPEG 1000\n", "got 1000, expected 0 to 999"),
        (f"{IMAGES[0].name}.JPEG -1\n", "got -1, expected 0 to 999"),
        (f"{IMAGES[0].name}.JPEG 1.5\n", "label: got '1.5' among integers"),
        (f"{IMAGES[0].name}.JPEG\n", "line 1: got .* expected a path and a label"),
        (
            "ImageId,PredictionString\nILSVRC2012_val_00000001,n00000000 1 2 3 4\n",
            "line 2: .*expected an image and one",
        ),
        ("", "has no labels"),
    ],
)
def test_label_files_that_do_not_fit(text, message, tmp_path):
    rest = "" if "has no label" in message or "," in text else "".join(f"{image.name} 5\n" for image in IMAGES[1:])
    (tmp_path / "mine").write_text(text + rest)
    with pytest.raises(DataError, match=message):
        open_split("imagefolder", str(flat(tmp_path)), "val", "imagenet-224", labels=str(tmp_path / "mine"))


def test_labels_where_they_mean_nothing(tmp_path):
    assert "there is no such file" in refused("imagefolder", flat(tmp_path / "a"), labels=tmp_path / "none.txt")
    packings.image_folder(IMAGES, tmp_path / "b")
    labels = tmp_path / "val.txt"
    labels.write_text("x 1\n")
    assert "has class folders, which give the labels; leave it out" in refused(
        "imagefolder", tmp_path / "b", labels=labels
    )
    assert "csv: labels: got" in refused("csv", tmp_path, labels=labels)


def test_a_stray_folder_among_synsets(tmp_path):
    packings.image_folder(IMAGES, tmp_path)
    for stray in ("n99999999", "my pictures"):
        packings._write(tmp_path / "val" / stray / "a.jpg", IMAGES[0].encoded)
        message = refused("imagefolder", tmp_path)
        assert f"class {stray!r}: not among the 1,000 ILSVRC synsets, but the other " in message
        shutil.rmtree(tmp_path / "val" / stray)


def test_an_empty_class_folder(tmp_path):
    packings.image_folder(IMAGES, tmp_path)
    (tmp_path / "val" / SYNSETS[999]).mkdir()
    (tmp_path / "val" / SYNSETS[999] / "notes.txt").write_text("none yet")
    assert f"class folder '{SYNSETS[999]}': holds no images (names ending in .jpg" in refused("imagefolder", tmp_path)


@pytest.mark.parametrize(
    ("source", "write", "names"),
    [
        ("imagefolder", packings.image_folder, "train, val"),
        ("parquet", packings.parquet, "validation"),
        ("webdataset", packings.webdataset, "val"),
        ("csv", packings.csv_list, "val"),
    ],
)
def test_a_split_that_is_not_there_lists_those_that_are(source, write, names, tmp_path):
    write(IMAGES, tmp_path)
    if source == "imagefolder":
        (tmp_path / "train").mkdir()
    message = refused(source, tmp_path, "test")
    assert "split: got 'test', found in" in message
    assert message.endswith(f": {names}")
    assert "no such" in refused(source, tmp_path / "nowhere", "test") or source in ("parquet", "webdataset")
    with pytest.raises(DataError, match="path: got none"):
        open_split(source, None, "test", "imagenet-224")


def test_a_split_with_a_missing_shard_is_refused(tmp_path):
    packings.parquet(IMAGES, tmp_path)
    packings.webdataset(IMAGES, tmp_path)
    (tmp_path / "validation-00001-of-00002.parquet").unlink()
    assert "is incomplete: of 00002 files, number 00001 is missing" in refused("parquet", tmp_path, "validation")
    (tmp_path / "val-000001.tar").unlink()
    assert "val-000001.tar', but there is no" in refused("webdataset", tmp_path / "val-{000000..000001}.tar")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{0},1", "{1},2", "{0},1"], "{0}: is listed more than once"),
        (["{0},1", "{1}"], "line 2: got "),
        (["{0},1", "{1},"], "line 2: got "),
        (["{0},1", "{1},cat"], "label: got 'cat' among integers"),
        (["file,class", "{0},1"], "label: got 'class' among integers"),
        (["{0},-1"], "label: got -1, expected an integer of 0 or more"),
        (["path,label"], "lists no images"),
        (["{0},1", "missing.jpg,1"], "missing.jpg: cannot be read (No such file or directory)"),
    ],
)
def test_lists_that_cannot_be_used(lines, message, tmp_path):
    names = [f"{image.name}.jpg" for image in IMAGES]
    for name, image in zip(names, IMAGES, strict=True):
        (tmp_path / name).write_bytes(image.encoded)
    (tmp_path / "val.csv").write_text("\n".join(lines).format(*names))
    assert message.format(*names) in refused("csv", tmp_path)


def test_two_images_of_one_name_in_one_folder_are_two_images(tmp_path):
    for extension, image in zip(("jpg", "jpeg", "png"), IMAGES, strict=False):
        packings._write(tmp_path / "val" / "cat" / f"a.{extension}", image.encoded)
    split = open_split("imagefolder", str(tmp_path), "val", "imagenet-224")
    assert split._table["key"].to_pylist() == ["a.jpeg", "a.jpg", "a.png"]


@pytest.mark.parametrize("on_bad_image", ["fail", "skip"])
def test_a_file_that_cannot_be_read_is_not_skipped(on_bad_image, tmp_path, monkeypatch):
    """A disk that fails for a moment must not make a split smaller."""
    data = packings.image_folder(IMAGES, tmp_path)
    original = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.stem == IMAGES[2].name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(DataError, match=f"{IMAGES[2].name}.JPEG: cannot be read \\(Permission denied\\)"):
        open_split(transform="imagenet-224", on_bad_image=on_bad_image, **data)


def test_images_of_different_sizes_need_a_transform_that_makes_one(tmp_path, monkeypatch):
    data = packings.csv_list(IMAGES, tmp_path)
    with pytest.raises(DataError, match=r"images differ in size .*; name a transform that resizes"):
        open_split(transform="unit", **data)
    monkeypatch.setattr("rmpsweep.data.index.READ_WHOLE", 1)
    monkeypatch.setattr("rmpsweep.data.index.SAMPLED", 1)
    monkeypatch.setenv("RMPSWEEP_CACHE", str(tmp_path / "another"))
    split = open_split(transform="unit", **data)
    with pytest.raises(DataError, match=r"pixels, the first one has .*; name a transform that resizes"):
        split.pixels(range(4))


def test_a_path_with_a_password_is_refused_without_showing_it():
    for url in ("https://me:hunter2@example.org/val.parquet", "s3://key:hunter2@bucket/val.parquet"):
        with pytest.raises(DataError, match="path: got a password") as caught:
            open_split("parquet", url, "val", "imagenet-224")
        assert "hunter2" not in str(caught.value)
