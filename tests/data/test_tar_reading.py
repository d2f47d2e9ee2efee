"""WebDataset tar files of every format are read as Python's tarfile reads them."""

import io
import json
import random
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmpsweep.data import open_split
from rmpsweep.data.tars import _members
from rmpsweep.errors import DataError
from tests.helpers import packings

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMPSWEEP_CACHE", str(tmp_path / "cache"))


def add(tar: tarfile.TarFile, name: str, content: bytes, mtime: float = 0) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(content), mtime
    tar.addfile(info, io.BytesIO(content))


names = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=90).filter(
    lambda name: name not in (".", "..")
)


@pytest.mark.slow
@given(st.lists(st.tuples(st.lists(names, min_size=1, max_size=4), st.binary(max_size=1500)), max_size=6), st.data())
def test_members_are_those_that_tarfile_finds(files, data):
    buffer = io.BytesIO()
    kind = data.draw(st.sampled_from(["gnu", "pax"]))
    with tarfile.open(fileobj=buffer, mode="w", format=FORMATS[kind]) as tar:
        for parts, content in files:
            add(tar, "/".join(parts), content, mtime=data.draw(st.sampled_from([0, 1.5])))
            if data.draw(st.booleans()):
                tar.addfile(folder("d" * 120))
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as tar:
        theirs = [(each.name, each.offset_data, each.size) for each in tar if each.isreg()]
    assert list(_members(buffer)) == theirs


def folder(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


@pytest.mark.parametrize("format_", FORMATS)
def test_samples_in_folders_and_with_other_files_in_every_format(format_, tmp_path):
    """Times with fractions, as the webdataset package writes them, make a pax header for each file."""
    images = packings.generated(6)
    random.Random(0).shuffle(images)
    with tarfile.open(tmp_path / "train.tar", "w", format=FORMATS[format_]) as tar:
        add(tar, "README.txt", b"six images")
        add(tar, "about.json", b'{"author": "me"}')
        for number, image in enumerate(images):
            tar.addfile(folder(f"f{number}"))
            name = f"f{number}/{'x' * 60}/{image.name}"
            add(tar, f"{name}.JPEG", image.encoded, mtime=1.25)
            add(tar, f"{name}.cls", f"{image.label:04d}\n".encode(), mtime=1.25)
            add(tar, f"{name}.json", json.dumps({"label": image.label, "text": "x"}).encode())
            add(tar, f"{name}.txt", b"caption")
    split = open_split("webdataset", str(tmp_path), "train", "imagenet-224")
    expected = open_split(**packings.csv_list(images, tmp_path / "csv"), transform="imagenet-224")
    assert split.fingerprint == expected.fingerprint


def packed(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            add(tar, name, content)
    return buffer.getvalue()


WHOLE = packed(("a.jpg", packings.generated(1)[0].encoded), ("a.cls", b"3"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends early, at byte 0"),
        (b"text" * 1000, r"not a tar file \(at byte 0\)"),
        (bytes(2048), "no images in 1 tar"),
        (WHOLE[:2000], "ends early"),
        (WHOLE[:1024], "ends early"),
        (packed(("a.jpg", b"x")), "sample 'a' has no label"),
        (packed(("a.cls", b"3")), "sample 'a' has no image"),
        (packed(("a.jpg", b"x"), ("a.cls", b"cat")), "a.cls: label: got 'cat', expected an integer"),
        (packed(("a.jpg", b"x"), ("a.json", b'{"label": "cat"}')), 'a.json: label: got .*"cat"'),
        (packed(("a.jpg", b"x"), ("a.cls", b"-1")), "label: got -1, expected an integer of 0 or more"),
        (packed(("a.jpg", b"x"), ("a.png", b"x"), ("a.cls", b"1")), "sample 'a' has two images, the second in a.png"),
        (packed(("a.jpg", b"x"), ("a.json", b'{"label": 2}'), ("a.cls", b"1")), "sample 'a' has two labels"),
        (packed(("notes.txt", b"x")), "no images in 1 tar"),
    ],
)
def test_what_is_wrong_in_a_tar_file_is_named(content, message, tmp_path):
    (tmp_path / "val.tar").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_split("webdataset", str(tmp_path), "val", "imagenet-224")


def test_a_compressed_tar_file_is_refused(tmp_path):
    with tarfile.open(tmp_path / "val.tar", "w:gz") as tar:
        add(tar, "a.jpg", b"x")
    with pytest.raises(DataError, match="unpack it if it is compressed"):
        open_split("webdataset", str(tmp_path), "val", "imagenet-224")
