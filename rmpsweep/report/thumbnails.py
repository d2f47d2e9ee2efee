"""Small images of a split, as data URIs."""

import base64
import io
from collections.abc import Sequence

from rmpsweep.data import ImageSplit

SIDE = 64
"""Longest side in pixels: larger images are scaled down to fit, smaller ones stay as they are."""


def thumbnails(split: ImageSplit, image_ids: Sequence[int]) -> dict[int, str]:
    """Make thumbnails of images as the network sees them before normalisation, that is, resized and cropped.

    Returns:
        image_id -> a WebP image as a data URI.
    Raises:
        DataError, StorageError: an image cannot be read.
    """
    from PIL import Image

    uris: dict[int, str] = {}
    if not image_ids:
        return uris
    for image_id, each in zip(image_ids, split.shown(image_ids), strict=True):
        shown = (each.astype("float32") * (255 / split.pixel_max)).round().astype("uint8")
        picture = Image.fromarray(shown.squeeze(2) if shown.shape[2] == 1 else shown).convert("RGB")
        picture.thumbnail((SIDE, SIDE))
        encoded = io.BytesIO()
        picture.save(encoded, "WEBP", quality=90)
        uris[image_id] = "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode()
    return uris
