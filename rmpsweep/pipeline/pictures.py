"""The pictures of a report, made from the sweep's images if these can still be read."""

import time
from collections.abc import Sequence

from rmpsweep.errors import DataError, RmpsweepError
from rmpsweep.report import Pictures, thumbnails
from rmpsweep.storage import Location
from rmpsweep.sweep.schema import Data

INDEX_S = 10.0
"""If the images have no index yet, making one may take this many seconds; a few thumbnails are not worth more."""


def fetch_pictures(data: Data, index: Location, fingerprint: str, image_ids: Sequence[int]) -> Pictures:
    """Make thumbnails of evaluated images, and find the names of the classes.

    If they cannot be made, the result says why instead of an error being raised, because the report is useful without
    pictures.

    Args:
        index: the folder of the index of the images, as `rmpsweep.data.open_split` takes it.
        fingerprint: the fingerprint of the evaluated images; other images are not shown.
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
