"""Images as people have them, damaged and odd: what becomes of each, with on_bad_image fail and skip.

What torchvision's ImageFolder decodes is decoded, to the same pixels; all else is an error that names the image, or is
left out and listed.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets.folder import pil_loader

from rmpsweep.data import open_split
from rmpsweep.errors import DataError
from tests.helpers import packings
from tests.helpers.packings import Packed

SIZE = (48, 40)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMPSWEEP_CACHE", str(tmp_path / "cache"))


def picture(mode: str = "RGB") -> Image.Image:
    state = np.random.RandomState(0)
    if mode == "I;16":
        return Image.fromarray(state.randint(0, 400, SIZE[::-1]).astype(np.uint16))
    return Image.fromarray(state.randint(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)).convert(mode)


def saved(kind: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved("JPEG", exif=exif)


def animated(kind: str) -> bytes:
    return saved(kind, save_all=True, append_images=[picture().rotate(180)], duration=50)


def rgb_of_16_bits() -> bytes:
    """A PNG of 16 bits per colour, which PIL cannot write."""
    rows = np.random.RandomState(0).randint(0, 2**16, (SIZE[1], SIZE[0] * 3)).astype(">u2")
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", *SIZE, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header claims that many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def changed(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


GOOD = {
    "JPEG": saved("JPEG"),
    "progressive JPEG": saved("JPEG", progressive=True),
    "grey JPEG": saved("JPEG", "L"),
    "CMYK JPEG": saved("JPEG", "CMYK"),
    "JPEG turned by EXIF: not turned": turned(),
    "JPEG with bytes after its end": saved("JPEG") + b"camera notes",
    "JPEG damaged in the middle: as libjpeg mends it": changed(saved("JPEG"), 1200),
    "PNG under the name of a JPEG": saved("PNG"),
    "PNG with transparency: its colours": saved("PNG", "RGBA"),
    "PNG with a palette": saved("PNG", "P"),
    "PNG of one bit": saved("PNG", "1"),
    "grey PNG of 16 bits: clipped at 255": saved("PNG", "I;16"),
    "PNG of 16 bits per colour": rgb_of_16_bits(),
    "animated GIF: the first frame": animated("GIF"),
    "animated WebP: the first frame": animated("WEBP"),
    "animated PNG: the first frame": animated("PNG"),
    "BMP": saved("BMP"),
    "TIFF": saved("TIFF"),
}
BAD = {
    "zero bytes": (b"", "empty (0 bytes)"),
    "text": (b"<html>404</html>", "16 bytes that are not an image PIL can read"),
    "zeros": (bytes(5000), "5000 bytes that are not an image PIL can read"),
    "JPEG header alone": (saved("JPEG")[:300], "damaged or cut short"),
    "JPEG cut in half": (saved("JPEG")[: len(saved("JPEG")) // 2], "damaged or cut short"),
    "JPEG without its end marker": (saved("JPEG")[:-2], "damaged or cut short"),
    "PNG cut in half": (saved("PNG")[: len(saved("PNG")) // 2], "damaged or cut short"),
    "PNG with a wrong byte": (changed(saved("PNG"), 1000), "damaged or cut short"),
    "bomb that PIL warns of": (bomb(10_000, 9_000), "10000x9000 pixels, more than the 89,478,485"),
    "bomb that PIL refuses": (bomb(60_000, 60_000), "could be decompression bomb"),
}
FOUND_WHEN_READ = {
    "BMP cut in half": (saved("BMP")[: len(saved("BMP")) // 2], "cannot be decoded"),
    "TIFF cut in half": (saved("TIFF", compression="raw")[:3000], "cannot be decoded"),
    "GIF cut in half": (animated("GIF")[:1500], "cannot be decoded"),
}


def write(folder: Path, odd: bytes) -> list[Packed]:
    """A list of three images, the second one odd, so that every extension is taken."""
    images = packings.generated(3)
    images[1] = Packed(images[1].name, odd, images[1].label)
    packings.csv_list(images, folder)
    return images


@pytest.mark.parametrize("on_bad_image", ["fail", "skip"])
@pytest.mark.parametrize("odd", GOOD.values(), ids=GOOD)
def test_what_torchvision_decodes_gives_its_pixels(odd, on_bad_image, tmp_path):
    images = write(tmp_path, odd)
    split = open_split("csv", str(tmp_path), "val", "imagenet-224", on_bad_image=on_bad_image)
    assert (split.num_images, split.skipped) == (3, ())
    (tmp_path / "odd").write_bytes(odd)
    theirs = np.asarray(pil_loader(tmp_path / "odd"))
    (ours,), _ = split._read(np.array([1]))
    assert np.array_equal(np.asarray(ours), theirs)
    assert split.pixels([1])[1].tolist() == [images[1].label]


def test_16_bits_of_grey_are_clipped_and_of_colour_are_scaled():
    from rmpsweep.data.images import decode

    grey = np.asarray(decode(saved("PNG", "I;16")))
    assert np.array_equal(grey[..., 0], np.minimum(np.asarray(picture("I;16")), 255))
    assert np.asarray(decode(rgb_of_16_bits())).std() > 60


@pytest.mark.parametrize(("odd", "reason"), BAD.values(), ids=BAD)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_bad_is_found_before_anything_is_computed(odd, reason, tmp_path):
    images = write(tmp_path, odd)
    with pytest.raises(DataError) as caught:
        open_split("csv", str(tmp_path), "val", "imagenet-224")
    assert f"{images[1].name}.jpeg: image: " in str(caught.value)
    assert reason in str(caught.value)
    assert "data.on_bad_image: skip" in str(caught.value)


@pytest.mark.parametrize(("odd", "reason"), FOUND_WHEN_READ.values(), ids=FOUND_WHEN_READ)
def test_what_only_decoding_finds_is_named_when_it_is_read(odd, reason, tmp_path):
    images = write(tmp_path, odd)
    split = open_split("csv", str(tmp_path), "val", "imagenet-224")
    split.pixels([0, 2])
    with pytest.raises(DataError) as caught:
        split.pixels([0, 1])
    assert f"{images[1].name}.jpeg: image: {reason}" in str(caught.value)


@pytest.mark.parametrize(("odd", "reason"), [*BAD.values(), *FOUND_WHEN_READ.values()], ids=[*BAD, *FOUND_WHEN_READ])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_skip_leaves_out_what_is_bad_and_lists_it(odd, reason, tmp_path):
    images = write(tmp_path / "odd", odd)
    packings.csv_list([images[0], images[2]], tmp_path / "without")
    split = open_split("csv", str(tmp_path / "odd"), "val", "imagenet-224", on_bad_image="skip")
    (skipped,) = split.skipped
    assert skipped.where.endswith(f"{images[1].name}.jpeg")
    assert reason in skipped.reason
    without = open_split("csv", str(tmp_path / "without"), "val", "imagenet-224")
    assert (split.num_images, split.fingerprint) == (2, without.fingerprint)
    assert torch.equal(split.pixels([0, 1])[0], without.pixels([0, 1])[0])
    again = open_split("csv", str(tmp_path / "odd"), "val", "imagenet-224", on_bad_image="skip")
    assert again.skipped == split.skipped


@pytest.mark.parametrize("packing", ["imagefolder", "flat", "parquet", "webdataset", "csv"])
def test_a_bad_image_is_named_and_left_out_in_every_packing(packing, tmp_path):
    images = packings.generated(6)
    images[3] = Packed(images[3].name, images[3].encoded[:200], images[3].label)
    images[4] = Packed(images[4].name, b"", images[4].label)
    data = packings.pack(images, tmp_path)[packing]
    with pytest.raises(DataError, match="2 of 6 images cannot be used; ") as caught:
        open_split(transform="imagenet-224", **data)
    assert [image.name in str(caught.value) for image in images[2:]] == [False, True, True, False]
    split = open_split(transform="imagenet-224", on_bad_image="skip", **data)
    packings.csv_list([*images[:3], images[5]], tmp_path / "without")
    assert split.fingerprint == open_split("csv", str(tmp_path / "without"), "val", "imagenet-224").fingerprint
    assert len(split.skipped) == 2
    for image in images[3:5]:
        assert any(image.name in each.where for each in split.skipped)


def test_an_error_names_a_few_of_many_and_nothing_left_is_an_error(tmp_path):
    images = [Packed(image.name, b"text", image.label) for image in packings.generated(9)]
    packings.csv_list(images, tmp_path)
    with pytest.raises(DataError, match=r"9 of 9 images cannot be used; .* and 6 more; mend or remove them"):
        open_split("csv", str(tmp_path), "val", "imagenet-224")
    with pytest.raises(DataError, match="none of 9 images can be decoded"):
        open_split("csv", str(tmp_path), "val", "imagenet-224", on_bad_image="skip")
