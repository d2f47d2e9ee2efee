"""ImageNet in every form in which people have it, through whole launches: the packing changes no byte of the results.

RMPSWEEP_TEST_DATA may name a folder with imagenet/val500-10classes-224px.parquet: its 500 real images are taken then.
"""

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from rmpsweep.data import open_split
from rmpsweep.data.detect import detect
from rmpsweep.errors import DataError
from rmpsweep.models.weights import save_weights
from tests.helpers import packings
from tests.helpers.commands import run_here

SWEEP = """
name: packed
network: {{module: "tests.data.test_packings:network", weights: {weights}}}
data: {{source: auto, path: "{path}", split: val, calibration_split: val, transform: {{resize: 40, crop: 32}}}}
calibration: {{images: 16, time_steps: 4}}
grid: {{alpha: [0.5, 1.0]}}
time_steps: [2, 4]
mlflow: {{tracking_uri: none}}
"""


def network() -> nn.Module:
    """1,000 classes, 32x32 pixels."""
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 1000))


def real_images() -> list[packings.Packed] | None:
    folder = os.environ.get("RMPSWEEP_TEST_DATA")
    path = Path(folder or "nowhere") / "imagenet" / "val500-10classes-224px.parquet"
    return packings.read_parquet(path) if path.is_file() else None


@pytest.fixture(scope="module")
def images() -> list[packings.Packed]:
    return real_images() or packings.generated(500)


@pytest.fixture(scope="module")
def packed(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    return packings.pack(images, folder)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("RMPSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path)


def launch(path, folder, *options):
    torch.manual_seed(0)
    weights = folder / "packed.safetensors"
    save_weights(network(), weights)
    sweep = folder / f"{Path(path).name}.yaml"
    sweep.write_text(SWEEP.format(weights=weights, path=path))
    results = folder / f"{Path(path).name}-results"
    code, output, errors = run_here(
        ["launch", str(sweep), "--results", str(results), "--inline", "--mlflow", "none", "--json", *options]
    )
    return code, json.loads(output) if output else {}, errors, results


@pytest.mark.slow
def test_five_packings_give_the_same_bytes(packed, images, tmp_path):
    written = set()
    for where in packed.values():
        code, _, errors, results = launch(where["path"], tmp_path)
        assert code == 0, errors
        written.add((results / "predictions.parquet").read_bytes())
    assert len(packed) == 5
    assert len(written) == 1
    assert pq.read_table(results / "predictions.parquet").num_rows == len(images) * 5  # the ANN, and 2 alphas x 2 T


@pytest.mark.parametrize(
    ("packing", "source"),
    [
        ("imagefolder", "imagefolder"),
        ("flat", "imagefolder"),
        ("parquet", "parquet"),
        ("webdataset", "webdataset"),
        ("csv", "csv"),
    ],
)
def test_auto_finds_the_form(packing, source, packed):
    where = packed[packing]
    found = open_split("auto", where["path"], "val", "imagenet-224")
    named = open_split(source, where["path"], where["split"], "imagenet-224", labels=where.get("labels"))
    assert (found.name, found.fingerprint) == (named.name, named.fingerprint)


@pytest.mark.parametrize("inside", ["data", "ILSVRC/Data/CLS-LOC"])
def test_auto_looks_where_hugging_face_and_kaggle_have_the_splits(inside, tmp_path):
    packings.image_folder(packings.generated(4), tmp_path / inside)
    assert open_split("auto", str(tmp_path), "validation", "imagenet-224").num_images == 4


def test_auto_takes_a_file_by_its_extension(packed, tmp_path):
    file = next(Path(packed["parquet"]["path"]).glob("*.parquet"))
    shutil.copy(file, tmp_path / "mine.parquet")
    assert open_split("auto", str(tmp_path / "mine.parquet"), "any", "imagenet-224").num_images == 250


def test_of_several_forms_auto_takes_the_splits_folder_and_else_the_first_by_name(tmp_path, monkeypatch):
    packings.webdataset(packings.generated(4), tmp_path)
    packings.parquet(packings.generated(3), tmp_path)
    next(tmp_path.glob("*.parquet")).rename(tmp_path / "val.parquet")  # after val-000000.tar
    listed = os.listdir
    for order in (sorted, lambda names: sorted(names, reverse=True)):
        monkeypatch.setattr(os, "listdir", lambda path, order=order: order(listed(path)))
        assert detect(str(tmp_path), "val").source == "webdataset"
    packings.image_folder(packings.generated(5), tmp_path)
    assert open_split("auto", str(tmp_path), "val", "imagenet-224").num_images == 5


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (None, "auto: path: got none"),
        ("nowhere", "which is not a folder on this machine"),
        (".", "holds no split 'val' in any of these forms"),
    ],
)
def test_auto_says_what_it_looked_for(path, message):
    with pytest.raises(DataError, match=message):
        open_split("auto", path, "val", "imagenet-224")


@pytest.mark.slow
def test_images_left_out_show_wherever_images_are_counted(tmp_path):
    images = packings.generated(24)
    where = packings.image_folder(images, tmp_path / "images")
    bad = sorted(Path(where["path"]).rglob("*.JPEG"))[5]
    whole = bad.read_bytes()
    bad.write_bytes(whole[:200])
    code, _, errors, _ = launch(where["path"], tmp_path)
    assert code == 2
    assert bad.name in errors
    code, document, errors, results = launch(where["path"], tmp_path, "--set", "data.on_bad_image=skip")
    assert code == 0, errors
    note = "1 of 24 images cannot be decoded and are left out: skipped.csv lists them"
    assert note in errors
    assert bad.name in (results / "skipped.csv").read_text()
    assert {(row["images"], row["images_planned"]) for row in document["summary"]} == {(23, 24)}
    assert "1 of the split cannot be decoded and are left out" in (results / "report.html").read_text()
    assert note in run_here(["status", str(results)])[1:][1] + run_here(["status", str(results)])[1]
    code, again, _, _ = launch(where["path"], tmp_path, "--set", "data.on_bad_image=skip")
    assert (code, again["units_run"]) == (0, 0)
    code, document, _, _ = launch(where["path"], tmp_path, "--set", "data.on_bad_image=skip", "--limit", "10")
    assert {(row["images"], row["images_planned"]) for row in document["summary"]} == {(10, 10)}
    bad.write_bytes(whole)
    os.utime(bad.parent)
    code, document, _, _ = launch(where["path"], tmp_path, "--set", "data.on_bad_image=skip")
    assert {(row["images"], row["images_planned"]) for row in document["summary"]} == {(24, 24)}
    assert not (results / "skipped.csv").exists()


@pytest.mark.slow
def test_without_calibration_images_the_message_says_how_to_take_some_of_the_evaluated_split(packed, tmp_path):
    code, _, errors, _ = launch(packed["imagefolder"]["path"], tmp_path, "--set", "data.calibration_split=train")
    assert code == 2
    assert "calibration_split: imagefolder: split: got 'train', found in" in errors
    own = ["--set", "data.split=val[16:]", "--set", "data.calibration_split=val[:16]", "--limit", "8"]
    assert "--set data.split=val[512:] --set data.calibration_split=val[:512]" in errors
    assert launch(packed["imagefolder"]["path"], tmp_path, *own)[0] == 0
