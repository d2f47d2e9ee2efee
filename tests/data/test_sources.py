"""The same images in every packing are the same images; and what each source makes of folders, files and names."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from rmpsweep.data import ImageSplit, open_split
from tests.helpers import packings
from tests.helpers.packings import SYNSETS, Packed

DATA = Path(os.environ.get("RMPSWEEP_TEST_DATA", "test-data"))
REAL = DATA / "imagenet" / "val500-10classes-224px.parquet"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMPSWEEP_CACHE", str(tmp_path / "cache"))


def check_equal(splits: dict[str, ImageSplit], images: list[Packed]) -> None:
    """Every packing holds these images under the same ids."""
    by_name = sorted(images, key=lambda image: image.name)
    for name, split in splits.items():
        assert split.num_images == len(images), name
        assert split.fingerprint == splits["parquet"].fingerprint, name
        for start in range(0, len(images), 50):
            ids = range(start, min(start + 50, len(images)))
            pixels, labels = split.pixels(ids)
            assert labels.tolist() == [by_name[i].label for i in ids], name
            assert torch.equal(pixels, splits["parquet"].pixels(ids)[0]), name


@pytest.mark.slow
def test_every_packing_of_generated_images_is_the_same_split(tmp_path):
    images = packings.generated(60)
    packed = packings.pack(images, tmp_path)
    splits = {name: open_split(transform="imagenet-224", **data) for name, data in packed.items()}
    assert len(splits) == 5
    check_equal(splits, images)
    assert {name: split.num_classes for name, split in splits.items()} == {
        "imagefolder": 1000,
        "flat": 1000,
        "parquet": None,
        "webdataset": None,
        "csv": None,
    }


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is not there; set RMPSWEEP_TEST_DATA")
def test_every_packing_of_real_images_is_the_same_split(tmp_path):
    images = packings.read_parquet(REAL)
    assert len(images) >= 500
    packed = packings.pack(images, tmp_path)
    check_equal({name: open_split(transform="imagenet-224", **data) for name, data in packed.items()}, images)


def test_one_different_byte_label_or_name_is_another_fingerprint(tmp_path):
    images = packings.generated(5)
    first = images[0]
    others = {
        "same": first,
        "bytes": Packed(first.name, first.encoded + b"\0", first.label),
        "label": Packed(first.name, first.encoded, first.label + 1),
        "name": Packed(first.name.replace("val", "vat"), first.encoded, first.label),
    }
    found = {}
    for name, image in others.items():
        packings.image_folder([image, *images[1:]], tmp_path / name)
        found[name] = open_split("imagefolder", str(tmp_path / name), "val", "imagenet-224").fingerprint
    assert len(set(found.values())) == 4


def test_pixels_and_labels_are_those_of_torchvisions_image_folder(tmp_path):
    for label, name in enumerate(("cat", "dog", "Ant")):
        for number in range(3):
            image = packings.generated(3, seed=label)[number]
            path = tmp_path / "train" / name / ("deep" if number == 2 else "") / f"{name}{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image.encoded)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("of a cat")
    (tmp_path / "train" / "README.md").write_text("animals")
    theirs = ImageFolder(tmp_path / "train")
    split = open_split("imagefolder", str(tmp_path), "train", "imagenet-224")
    assert (split.num_images, split.num_classes, split.max_label) == (len(theirs), len(theirs.classes), 2)
    assert split.notes == (f"2 files in {tmp_path / 'train'} are not named as images and were ignored",)
    ours = {name: split._read(np.array([i])) for i, name in enumerate(split._table["key"].to_pylist())}
    for path, label in theirs.samples:
        (image,), (found,) = ours[Path(path).stem]
        assert found == label
        assert np.array_equal(np.asarray(image), np.asarray(theirs.loader(path)))


def test_ten_synsets_are_classes_of_a_thousand_and_other_names_are_ranked(tmp_path):
    images = packings.generated(6)
    for image, number in zip(images, (999, 0, 500, 0, 999, 0), strict=True):
        packings._write(tmp_path / "synsets" / SYNSETS[number] / f"{image.name}.JPEG", image.encoded)
        packings._write(tmp_path / "names" / f"class{number:03d}" / f"{image.name}.JPEG", image.encoded)
    found = {
        name: open_split("imagefolder", str(tmp_path / name), "val", "imagenet-224") for name in ("synsets", "names")
    }
    assert found["synsets"].pixels(range(6))[1].tolist() == [999, 0, 500, 0, 999, 0]
    assert found["names"].pixels(range(6))[1].tolist() == [2, 0, 1, 0, 2, 0]
    assert [split.num_classes for split in found.values()] == [1000, 3]


@pytest.mark.parametrize("how", ["devkit near", "devkit beside", "kaggle", "caffe", "labels: caffe", "labels: synsets"])
def test_labels_of_a_flat_folder_are_found(how, tmp_path):
    images = packings.generated(12)
    root = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    for image in images:
        packings._write(root / "val" / f"{image.name}.JPEG", image.encoded)
    labels = None
    if how == "devkit near":
        packings.devkit(images, root.parent / "ILSVRC2012_devkit_t12" / "data")
    elif how == "devkit beside":
        packings.devkit(images, root)
    elif how == "kaggle":
        lines = [f"{image.name},{SYNSETS[image.label]} 1 2 3 4 n02119789 5 6 7 8 \n" for image in images]
        (tmp_path / "LOC_val_solution.csv").write_text("".join(["ImageId,PredictionString\n", *reversed(lines)]))
    elif how == "caffe":
        (root / "val.txt").write_text("".join(f"{image.name}.JPEG {image.label}\n" for image in reversed(images)))
    else:
        labels = str(tmp_path / "mine.txt")
        value = (lambda image: SYNSETS[image.label]) if "synsets" in how else (lambda image: image.label)
        Path(labels).write_text("".join(f"some/where/{image.name}.JPEG\t{value(image)}\n" for image in images))
    for path, split in ((root, "val"), (root / "val", "test")):
        opened = open_split("imagefolder", str(path), split, "imagenet-224", labels=labels)
        assert opened.pixels(range(12))[1].tolist() == [image.label for image in images]
        assert opened.num_classes == 1000
        assert "is flat; its labels are from" in opened.notes[0]


def test_a_part_of_the_validation_set_says_how_much_is_there(tmp_path):
    images = packings.generated(9)
    data = packings.flat_folder(images, tmp_path)
    for image in images[:2]:
        (tmp_path / "val" / f"{image.name}.JPEG").unlink()
    split = open_split(transform="imagenet-224", **data)
    assert split.pixels(range(7))[1].tolist() == [image.label for image in images[2:]]
    assert split.notes[1].startswith("7 of the 9 images that ")


@pytest.mark.parametrize(
    "text",
    [
        "path,label\n{0},3\n{1},5\n",
        "{0},3\n{1},5\n",
        "{0}\t3\n{1}\t5\n",
        "{0} 3\n{1} 5\n",
        "./{0}  3\n./{1} 5\n\n",
        'index,label,"path"\n0,3,"{0}"\n1,5,{1}\n',
        "\ufeffpath,label\r\n{0},3\r\n{1},5\r\n",
    ],
)
def test_lists_with_and_without_header_and_in_three_separators(text, tmp_path):
    images = packings.generated(2)
    for image in images:
        packings._write(tmp_path / "a b" / f"{image.name}.jpg", image.encoded)
    text = text.replace("{0}", f"a b/{images[0].name}.jpg").replace("{1}", f"a b/{images[1].name}.jpg")
    (tmp_path / "val.csv").write_text(text, encoding="utf-8")
    for path in (tmp_path, tmp_path / "val.csv", tmp_path / "{split}.csv"):
        split = open_split("csv", str(path), "val", "imagenet-224")
        assert split.pixels([0, 1])[1].tolist() == [3, 5]


@pytest.mark.parametrize(
    ("names", "labels", "num_classes"),
    [(("cat", "ant", "cat"), [1, 0, 1], 2), ((SYNSETS[7], SYNSETS[999], SYNSETS[0]), [7, 999, 0], 1000)],
)
def test_a_list_may_name_classes(names, labels, num_classes, tmp_path):
    images = packings.generated(3)
    for image in images:
        packings._write(tmp_path / f"{image.name}.jpg", image.encoded)
    lines = [f"{tmp_path / image.name}.jpg,{name}\n" for image, name in zip(images, names, strict=True)]
    (tmp_path / "val.csv").write_text("".join(lines))
    split = open_split("csv", str(tmp_path), "val", "imagenet-224")
    assert (split.pixels(range(3))[1].tolist(), split.num_classes) == (labels, num_classes)


def test_keys_fall_back_to_paths_and_to_row_numbers(tmp_path):
    """Ids then follow the folders, in a list as in class folders; and the order of rows in Parquet and tar files."""
    images = [Packed("0", image.encoded, label) for label, image in enumerate(packings.generated(3))]
    for image in images:
        packings._write(tmp_path / "folders" / "val" / f"class{image.label}" / "0.jpg", image.encoded)
    (tmp_path / "list.csv").write_text("".join(f"folders/val/class{i}/0.jpg,{i}\n" for i in (2, 0, 1)))
    packings.parquet(images[:0:-1], tmp_path / "parquet")
    packings.webdataset(images[:0:-1], tmp_path / "tars")
    found = {
        "imagefolder": open_split("imagefolder", str(tmp_path / "folders"), "val", "imagenet-224"),
        "csv": open_split("csv", str(tmp_path / "list.csv"), "val", "imagenet-224"),
        "parquet": open_split("parquet", str(tmp_path / "parquet"), "validation", "imagenet-224"),
        "webdataset": open_split("webdataset", str(tmp_path / "tars" / "val-00000*.tar"), "val", "imagenet-224"),
    }
    assert found["imagefolder"]._table["key"].to_pylist() == ["class0/0", "class1/0", "class2/0"]
    assert found["parquet"]._table["key"].to_pylist() == ["000000000000", "000000000001"]
    assert found["imagefolder"].fingerprint == found["csv"].fingerprint
    assert found["parquet"].fingerprint == found["webdataset"].fingerprint
    assert found["csv"].pixels(range(3))[1].tolist() == [0, 1, 2]
    assert found["parquet"].pixels(range(2))[1].tolist() == [2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["imagefolder", "parquet", "webdataset", "csv"])
def test_many_threads_read_the_same_pixels_as_one(packing, tmp_path):
    images = packings.generated(24)
    data = packings.pack(images, tmp_path)[packing]
    split = open_split(transform="imagenet-224", **data)
    ids = [np.random.RandomState(i).permutation(24)[:7] for i in range(40)]
    one = [split.pixels(each) for each in ids]
    with ThreadPoolExecutor(8) as pool:
        many = list(pool.map(split.pixels, ids))
    for (pixels, labels), (others, expected) in zip(many, one, strict=True):
        assert torch.equal(pixels, others)
        assert torch.equal(labels, expected)


def test_exif_orientation_is_not_applied_and_animations_show_their_first_frame(tmp_path):
    """As torchvision's ImageFolder."""
    picture = Image.fromarray(np.random.RandomState(0).randint(0, 256, (60, 40, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    folder = tmp_path / "val" / "some"
    folder.mkdir(parents=True)
    picture.save(folder / "a.png", exif=exif)
    picture.save(folder / "b.webp", save_all=True, append_images=[picture.rotate(180)], lossless=True)
    split = open_split("imagefolder", str(tmp_path), "val", "unit")
    pixels, _ = split.pixels([0, 1])
    for each in pixels:
        assert np.array_equal(each.permute(1, 2, 0).numpy(), np.asarray(picture))
