"""Encoded images: checks that mostly need no decoding, and decoding as torchvision's ImageFolder does.

Decoding is PIL's `Image.open(...).convert("RGB")`. It takes the first frame of several, repeats grey over three
channels, converts CMYK and palettes, drops alpha, and does not apply the EXIF orientation. Grey images of 16 bits are
clipped at 255, not scaled, which makes most of them white; images with 16 bits per colour are scaled. The format
follows from the contents of a file, not from its extension.
"""

import contextlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""The extensions of image files in folders and tar files, in lower case; they are those that torchvision reads."""


class BadImage(ValueError):
    """An image cannot be used; the message tells why."""


def check(encoded: bytes) -> tuple[int, int]:
    """Return width and height in pixels, from the header of an image.

    The checksums of a PNG are verified. A JPEG that does not end with its end marker is decoded, to find out whether it
    was cut short. Only `decode` finds other damage.

    Raises:
        BadImage: the image is not readable, too large, or damaged in one of these ways.
    """
    with _opened(encoded, "damaged or cut short") as image:
        size = image.size
        if image.format == "PNG":
            image.verify()
        elif image.format == "JPEG" and not encoded.rstrip(b"\0").endswith(b"\xff\xd9"):
            image.load()
        return size


def decode(encoded: bytes) -> "Image.Image":
    """Decode an image to RGB.

    Raises:
        BadImage: the image cannot be decoded.
    """
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
            if most is not None and image.width * image.height > most:  # PIL refuses only twice as many
                raise BadImage(f"{image.width}x{image.height} pixels, more than the {most:,} that PIL considers safe")
            yield image
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BadImage(f"{len(encoded)} bytes that are not an image PIL can read") from None
    except Image.DecompressionBombError as error:
        raise BadImage(str(error)) from None
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error, zlib.error and more
        raise BadImage(f"{otherwise} ({error}); {len(encoded)} bytes") from error
