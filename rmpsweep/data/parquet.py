"""Images in Parquet files, as Hugging Face data sets are stored: columns image{bytes, path} and label."""

import glob
import hashlib
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rmpsweep.data.index import BATCH_ROWS, load_index, open_parquet, row_group_starts
from rmpsweep.data.split import ImageSplit
from rmpsweep.data.transforms import Transform
from rmpsweep.errors import DataError

if TYPE_CHECKING:
    from PIL import Image


class ParquetSplit(ImageSplit):
    """A split held in one or more Parquet files.

    The key of an image is the basename of its image.path where all rows have a distinct one, else its row number over
    the files in order of name. Loading reads whole row groups, so small ones (100 to 1,000 images) serve it best.
    Images are decoded by PIL and converted to RGB.
    """

    def __init__(self, path: str | None, split: str, transform: Transform) -> None:
        if path is None:
            raise DataError("parquet: path: got none, expected a folder, a file or a pattern")
        self._files = _find_files(path, split)
        self._index = load_index(self._files)
        name = f"{self._files[0].resolve().parent.name}/{split}"
        if not transform.makes_one_size:
            self._check_one_size(name)
        super().__init__(
            name,
            num_images=len(self._index),
            num_classes=None,
            max_label=pc.max(self._index["label"]).as_py(),
            stored_shape=(3, self._index["height"][0].as_py(), self._index["width"][0].as_py()),
            content=self._index.schema.metadata[b"content"].decode(),
            transform=transform,
        )

    def _check_one_size(self, name: str) -> None:
        width, height = self._index["width"], self._index["height"]
        differs = pc.or_(pc.not_equal(width, width[0]), pc.not_equal(height, height[0]))
        first = pc.index(differs, True).as_py()
        if first >= 0:
            found = [f"{self._index['key'][i]} is {width[i]}x{height[i]}" for i in (0, first)]
            raise DataError(
                f"{name}: images differ in size ({', '.join(found)}); name a transform that resizes: 'imagenet-224'"
            )

    def _read(self, ids: np.ndarray) -> "tuple[list[Image.Image], np.ndarray]":
        wanted = self._index.take(pa.array(ids))
        positions: dict[tuple[int, int], list[tuple[int, int]]] = {}
        groups = zip(
            wanted["file"].to_pylist(), wanted["row_group"].to_pylist(), wanted["row"].to_pylist(), strict=True
        )
        for position, (file, group, row) in enumerate(groups):
            positions.setdefault((file, group), []).append((row, position))
        images: dict[int, Image.Image] = {}
        for (file, group), rows in positions.items():
            encoded = self._encoded(file, group, {row for row, _ in rows})
            for row, position in rows:
                where = f"{self._files[file]}: row {row} (key {wanted['key'][position].as_py()!r})"
                if hashlib.sha256(encoded[row]).hexdigest() != wanted["sha256"][position].as_py():
                    raise DataError(f"{where}: the file was changed after it was opened; start again")
                images[position] = _decode(encoded[row], where)
        return [images[position] for position in range(len(ids))], wanted["label"].to_numpy()

    def _encoded(self, file: int, group: int, rows: set[int]) -> dict[int, bytes]:
        """The bytes of some rows (numbered within the file) of one row group."""
        parquet = open_parquet(self._files[file])
        start = row_group_starts(parquet)[group]
        found: dict[int, bytes] = {}
        for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group], columns=["image.bytes"]):
            column = batch["image"].field("bytes")
            found |= {row: column[row - start].as_py() for row in rows if start <= row < start + len(batch)}
            start += len(batch)
        return found


def _find_files(path: str, split: str) -> list[Path]:
    """Files of a split, sorted by name."""
    expanded = Path(path).expanduser()
    if expanded.is_dir():
        files = [*expanded.glob(f"{glob.escape(split)}.parquet"), *expanded.glob(f"{glob.escape(split)}-*.parquet")]
        if not files:
            found = sorted({re.sub(r"-\d+-of-\d+$", "", file.stem) for file in expanded.glob("*.parquet")})
            raise DataError(f"parquet: split: got {split!r}, found in {path}: {', '.join(found) or 'no Parquet files'}")
        return sorted(files)
    pattern = str(expanded).replace("{split}", split)
    files = [Path(match) for match in sorted(glob.glob(pattern))]
    if not files:
        raise DataError(f"parquet: path: got {path!r}, but there is no folder, file or match for {pattern}")
    return files


def _decode(encoded: bytes, where: str) -> "Image.Image":
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return image.convert("RGB")
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error, zlib.error and more
        raise DataError(f"{where}: image: cannot be decoded ({error})") from error
