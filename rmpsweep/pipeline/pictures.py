"""The pictures of a report, from a sweep's images where these can still be had."""

import time
from collections.abc import Sequence

from rmpsweep.errors import DataError, RmpsweepError
from rmpsweep.report import Pictures, thumbnails
from rmpsweep.storage import Location
from rmpsweep.sweep.schema import Data

INDEX_S = 10.0
"""An index of the images that is not there and takes longer is not worth a few thumbnails."""


def fetch_pictures(data: Data, index: Location, fingerprint: str, image_ids: Sequence[int]) -> Pictures:
    """Thumbnails of evaluated images, and the names of the classes.

    Where they cannot be had, says why instead of raising: a report is worth as much without them.

    Args:
        index: as of `rmpsweep.data.open_split`.
        fingerprint: of the images that were evaluated; others are not shown.
    """
    began = time.monotonic()

    def on_index(*_: object) -> None:
        if time.monotonic() > began + INDEX_S:
            raise DataError(
                f"an index of the images would have to be made first, which takes more than {INDEX_S:.0f} s"
            )

    try:
        split = data.open(data.split, index=index, on_index=on_index)
        if split.fingerprint != fingerprint:
            return Pictures(missing="the images found now are not those that were evaluated")
        return Pictures(thumbnails(split, image_ids), split.class_names())
    except (RmpsweepError, OSError, ImportError) as error:
        return Pictures(missing=str(error))
