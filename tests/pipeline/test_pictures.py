import base64
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rmpsweep.data import open_split
from rmpsweep.pipeline.pictures import fetch_pictures
from rmpsweep.sweep.schema import Data


def decoded(uri: str) -> np.ndarray:
    kind, _, content = uri.partition(",")
    assert kind == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")).astype(float)


@pytest.fixture
def folder(tmp_path: Path) -> Data:
    """Two plain images of 96 x 64 pixels: a blue cat and a red dog."""
    for name, colour in (("cat", (20, 40, 200)), ("dog", (200, 40, 20))):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (96, 64), colour).save(tmp_path / "val" / name / f"{name}.png")
    return Data(source="imagefolder", path=str(tmp_path), split="val", transform="cifar10")


def test_thumbnails_are_the_images_asked_for_and_small(folder: Data, environment: None, tmp_path: Path):
    fingerprint = folder.open("val").fingerprint
    found = fetch_pictures(folder, tmp_path / "index", fingerprint, [1, 0])
    assert (found.missing, tuple(found.class_names)) == ("", ("cat", "dog"))
    assert list(found.uris) == [1, 0]
    dog = decoded(found.uris[1])
    assert dog.shape == (43, 64, 3)
    assert np.abs(dog - (200, 40, 20)).max() <= 8  # a plain colour through WebP at quality 90


def test_grey_digits_use_the_whole_range(tmp_path: Path):
    split = open_split("digits", None, "test", None)
    found = fetch_pictures(Data(source="digits"), tmp_path, split.fingerprint, [3])
    shown, pixels = decoded(found.uris[3]), split.pixels([3])[0][0, 0].numpy()
    assert shown.shape == (8, 8, 3)
    assert np.abs(shown.mean(2) - 255 / 16 * pixels).mean() < 16  # one level of the digits' own


def test_images_that_cannot_be_had_are_excused(folder: Data, environment: None, tmp_path: Path):
    others = fetch_pictures(folder, tmp_path, "0" * 64, [0])
    assert (others.uris, others.missing) == ({}, "the images found now are not those that were evaluated")
    gone = fetch_pictures(folder.model_copy(update={"path": str(tmp_path / "gone")}), tmp_path, "", [0])
    assert not gone.uris
    assert "there is no such folder" in gone.missing


def test_a_long_index_is_not_made_for_thumbnails(folder: Data, environment: None, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("rmpsweep.pipeline.pictures.INDEX_S", -1)
    found = fetch_pictures(folder, tmp_path, folder.open("val").fingerprint, [0])
    assert found.uris  # its index is there already
    (tmp_path / "val" / "cat" / "second.png").write_bytes((tmp_path / "val" / "cat" / "cat.png").read_bytes())
    assert "would have to be made first" in fetch_pictures(folder, tmp_path, "", [0]).missing


def test_parquet_names_its_classes(tmp_path: Path, environment: None):
    png = io.BytesIO()
    Image.new("RGB", (4, 4)).save(png, "PNG")
    features = '{"info": {"features": {"label": {"names": ["ant", "bee"], "_type": "ClassLabel"}}}}'
    rows = pa.table({"image": [{"bytes": png.getvalue(), "path": "a.png"}], "label": [1]})
    pq.write_table(rows.replace_schema_metadata({"huggingface": features}), tmp_path / "test.parquet")
    assert open_split("parquet", str(tmp_path), "test", "cifar10").class_names() == ("ant", "bee")
    assert open_split("parquet", str(tmp_path), "test[:1]", "cifar10").class_names() == ("ant", "bee")
