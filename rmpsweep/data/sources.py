"""The sources a sweep file can name, and the one function that opens a split of any of them."""

import re
from typing import Literal

from rmpsweep.data.split import ImageSlice, ImageSplit
from rmpsweep.data.transforms import Transform, find_transform
from rmpsweep.errors import DataError

SOURCES: dict[str, str] = {
    "digits": "1,797 real handwritten digits, 8x8 pixels, shipped with scikit-learn; splits train (1,297), test (500)",
    "cifar10": "CIFAR-10 in its original batch files (cifar-10-batches-py under path); splits train, test",
    "cifar100": "CIFAR-100 in its original files (cifar-100-python under path); splits train, test",
    "parquet": "Parquet files with columns image{bytes, path} and label; path is a folder, a file or a pattern",
}

DEFAULT_TRANSFORMS: dict[str, str] = {"digits": "unit", "cifar10": "cifar10", "cifar100": "cifar100"}


OnBadImage = Literal["fail", "skip"]


def open_split(
    source: str, path: str | None, split: str, transform: str | Transform | None, download: bool = False, *,
    labels: str | None = None, on_bad_image: OnBadImage = "fail",
) -> ImageSplit:  # fmt: skip
    """Open a split of labelled images. Imports neither torch nor torchvision nor scikit-learn.

    Args:
        source: a name in SOURCES.
        path: where the files are: for cifar10 and cifar100 the folder that holds their own folder; for parquet a folder
            (files `<split>.parquet` and `<split>-*.parquet`), or a file or glob pattern, with or without `{split}`;
            None for digits.
        split: name of the split, e.g. "train" or "test"; "train[:49000]" and "train[49000:]" are the first 49,000
            images of its fixed permutation and the rest.
        transform: a Transform, or a name in TRANSFORMS; None for the source's own (digits: unit; cifar10, cifar100: of
            that name).
        download: fetch missing files of cifar10 and cifar100 with torchvision; the others have nothing to fetch.
    Returns:
        The split, with num_images and fingerprint known and no image decoded.
    Raises:
        DataError: unknown source, transform or split, missing or unusable files.
    """
    found = re.fullmatch(r"([^\[\]]*)(?:\[(\d*):(\d*)\])?", split)
    if found is None:
        raise DataError(f"{source}: split: got {split!r}, expected a name, or a slice such as 'train[:49000]'")
    whole = _open_whole(source, path, found[1], transform, download, labels, on_bad_image)
    if found[2] is None:
        return whole
    start, stop = int(found[2] or 0), int(found[3] or whole.num_images)
    if not start < stop <= whole.num_images:
        raise DataError(f"{source}: split: got {split!r}, but {whole.name} has {whole.num_images} images")
    return ImageSlice(whole, start, stop)


def _open_whole(
    source: str, path: str | None, split: str, transform: str | Transform | None, download: bool, labels: str | None,
    on_bad_image: OnBadImage,
) -> ImageSplit:  # fmt: skip
    if source not in SOURCES:
        raise DataError(f"source: got {source!r}, expected one of {', '.join(SOURCES)}")
    chosen = transform or DEFAULT_TRANSFORMS.get(source)
    if chosen is None:
        raise DataError(f"transform: source {source!r} has no default; name one, e.g. 'cifar10' or 'imagenet-224'")
    chosen = find_transform(chosen) if isinstance(chosen, str) else chosen
    if source == "digits":
        from rmpsweep.data.digits import DigitsSplit

        return DigitsSplit(path, split, chosen)
    if source == "parquet":
        from rmpsweep.data.parquet import ParquetSplit

        return ParquetSplit(path, split, chosen)
    from rmpsweep.data.cifar import CifarSplit

    return CifarSplit(source, path, split, chosen, download)
