"""A split of encoded images in files of any packing; an index tells where each image is."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rmpsweep.data.images import BadImage, decode
from rmpsweep.data.index import keep_index, load_index
from rmpsweep.data.split import ImageSplit, OnBadImage, OnIndex
from rmpsweep.data.store import Store
from rmpsweep.data.transforms import Transform
from rmpsweep.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

    from rmpsweep.storage import Location


class StoredSplit(ImageSplit):
    """The images of a store, in RGB; an image_id is the number of a row of the index."""

    def __init__(
        self,
        store: Store,
        transform: Transform,
        on_bad_image: OnBadImage = "fail",
        index: "Location | None" = None,
        on_index: OnIndex | None = None,
    ) -> None:
        self._store, self._on_bad_image = store, on_bad_image
        self._index = load_index(store, on_bad_image, index, on_index)
        self._table = self._index.table
        sized = self._table.select(["key", "width", "height"]).filter(pc.is_valid(self._table["width"]))
        if not transform.makes_one_size:
            _check_one_size(store.name, sized)
        self._size = sized["width"][0].as_py(), sized["height"][0].as_py()
        super().__init__(
            store.name,
            num_images=len(self._table),
            num_classes=self._index.num_classes,
            max_label=pc.max(self._table["label"]).as_py(),
            stored_shape=(3, self._size[1], self._size[0]),
            content=self._index.content,
            transform=transform,
            skipped=self._index.skipped,
            notes=self._index.notes,
        )

    def keep_index(self, folder: "Location") -> None:
        """Put the index into a folder, unless the folder holds a valid one. Raises StorageError."""
        keep_index(self._index, self._store, self._on_bad_image, folder)

    def class_names(self) -> tuple[str, ...]:
        """The class names that the store gives."""
        return self._store.class_names()

    def _read(self, ids: np.ndarray) -> "tuple[list[Image.Image], np.ndarray]":
        rows = self._table.take(pa.array(ids))
        images = {position: self._decoded(rows, position, bytes_) for position, bytes_ in self._store.encoded(rows)}
        return [images[position] for position in range(len(ids))], rows["label"].to_numpy()

    def _decoded(self, rows: pa.Table, position: int, encoded: bytes) -> "Image.Image":
        """Decode an image, and check that it is the one that was indexed.

        Raises:
            DataError: the image has changed, cannot be decoded, or has another size and the transform does not crop.
        """
        row = rows.slice(position, 1).to_pylist()[0]
        if row["sha256"] is not None and hashlib.sha256(encoded).digest() != row["sha256"]:
            raise DataError(
                f"{self._store.where(row)}: the file was changed after its index was made; {self._store.remedy}"
            )
        try:
            image = decode(encoded)
        except BadImage as error:
            changed = "" if row["sha256"] else ", or was changed after its index was made"
            raise DataError(f"{self._store.where(row)}: image: {error}{changed}") from error
        if not self._transform.makes_one_size and image.size != self._size:
            raise DataError(
                f"{self._store.where(row)}: image: got {image.width}x{image.height} pixels, the first one has "
                f"{self._size[0]}x{self._size[1]}; name a transform that resizes: 'imagenet-224'"
            )
        return image


def _check_one_size(name: str, images: pa.Table) -> None:
    width, height = images["width"], images["height"]
    differs = pc.or_(pc.not_equal(width, width[0]), pc.not_equal(height, height[0]))
    first = pc.index(differs, True).as_py()
    if first >= 0:
        found = [f"{images['key'][i]} is {width[i]}x{height[i]}" for i in (0, first)]
        raise DataError(
            f"{name}: images differ in size ({', '.join(found)}); name a transform that resizes: 'imagenet-224'"
        )
