"""Encoded images: what can be told without decoding one, and decoding as torchvision's ImageFolder does.

That is PIL's `Image.open(...).convert("RGB")`: the first frame of several, grey repeated over three channels, CMYK and
palettes converted, alpha dropped, EXIF orientation not applied. Grey of 16 bits is clipped at 255, not scaled, which
makes most such images white; 16 bits per colour are scaled. The contents decide, not the extension.
"""

import contextlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of image files in folders and tar files, in lower case: torchvision's."""


class BadImage(ValueError):
    """Why an image cannot be used."""


def check(encoded: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header.

    A PNG's checksums are verified, and a JPEG that does not end in its end marker is decoded, so that one cut short is
    found; other damage is found by `decode` alone.

    Raises:
        BadImage
    """
    with _opened(encoded, "damaged or cut short") as image:
        size = image.size
        if image.format == "PNG":
            image.verify()
        elif image.format == "JPEG" and not encoded.rstrip(b"\0").endswith(b"\xff\xd9"):
            image.load()
        return size


def decode(encoded: bytes) -> "Image.Image":
    """The image in RGB. Raises BadImage."""
    with _opened(encoded, "cannot be decoded") as image:
        return image.convert("RGB")


@contextlib.contextmanager
def _opened(encoded: bytes, otherwise: str) -> "Iterator[Image.Image]":
    from PIL import Image, UnidentifiedImageError

    if not encoded:
        raise BadImage("empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            most = Image.MAX_IMAGE_PIXELS
            if most is not None and image.width * image.height > most:  # PIL refuses from twice as many
                raise BadImage(f"{image.width}x{image.height} pixels, more than the {most:,} that PIL takes for safe")
            yield image
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadImage(f"{len(encoded)} bytes that are not an image PIL can read") from None
    except Image.DecompressionBombError as error:
        raise BadImage(str(error)) from None
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error, zlib.error and more
        raise BadImage(f"{otherwise} ({error}); {len(encoded)} bytes") from error
