"""The sources that a sweep file can name, and the one function that opens a split of any of them."""

import re
from typing import TYPE_CHECKING

from rmpsweep.data.detect import detect
from rmpsweep.data.split import ImageSlice, ImageSplit, OnBadImage, OnIndex
from rmpsweep.data.transforms import Transform, find_transform
from rmpsweep.errors import DataError
from rmpsweep.terms import is_own

if TYPE_CHECKING:
    from rmpsweep.data.store import Store
    from rmpsweep.storage import Location

SOURCES: dict[str, str] = {
    "auto": "imagefolder, parquet, webdataset or csv, whichever lies under path",
    "digits": "1,797 real handwritten digits, 8x8 pixels, which come with rmpsweep; splits train (1,297), test (500)",
    "cifar10": "CIFAR-10 in its original batch files (cifar-10-batches-py under path); splits train, test",
    "cifar100": "CIFAR-100 in its original files (cifar-100-python under path); splits train, test",
    "imagefolder": "path/split/CLASS/*.JPEG, as torchvision's ImageFolder; or a flat folder, its labels in a file",
    "parquet": "Parquet files with columns image{bytes, path} and label, also in s3://, gs://, https://",
    "webdataset": "tar files with NAME.jpg and NAME.cls; path is a folder or a pattern such as val-{000..049}.tar",
    "csv": "a file, or a folder of them, with columns path and label, separated by commas, tabs or spaces",
    "<package.module>:<factory>": "a function of your own that makes a sequence of (image, label): docs/extending.md",
}

DEFAULT_TRANSFORMS: dict[str, str] = {"digits": "unit", "cifar10": "cifar10", "cifar100": "cifar100"}


def is_source(name: str) -> bool:
    """Whether a sweep file can name a source of this name."""
    return is_own(name) or name in SOURCES


def open_split(
    source: str,
    path: str | None,
    split: str,
    transform: str | Transform | None,
    download: bool = False,
    *,
    labels: str | None = None,
    on_bad_image: OnBadImage = "fail",
    index: "Location | None" = None,
    on_index: OnIndex | None = None,
) -> ImageSplit:
    """Open a split of labelled images. This imports neither torch nor torchvision, except to download files.

    Args:
        source: a name in SOURCES, or "package.module:factory" for an `own.OwnSplit`.
        path: where the files are.
            cifar10, cifar100: the folder that holds the data set's own folder.
            imagefolder: the folder of the split, or the folder that holds it.
            parquet, webdataset: a folder (files `<split>.parquet` and `<split>-*.parquet`, or `.tar`), a file, or a
            pattern with `{split}`, ranges `{00..12}` or `*`.
            csv: a file, or a folder that holds `<split>.csv`.
            auto: any of the paths of imagefolder, parquet, webdataset and csv.
            digits: None.
            A factory: whatever it takes.
        split: the name of the split, such as "train" or "test". "train[:49000]" and "train[49000:]" are the first
            49,000 images of its fixed permutation and the rest.
        transform: a Transform or a name in TRANSFORMS. None takes the default of the source: "unit" for digits, and the
            transform of the same name for cifar10 and cifar100; other sources have none.
        download: fetch missing files of cifar10 and cifar100 with torchvision; other sources ignore it.
        labels: for imagefolder, the file that holds the labels of a flat folder; None searches for it nearby.
        on_bad_image: with "fail", an image that cannot be used is an error. Opening the split finds damage that shows
            without decoding; other damage is found when the image is read. With "skip", all images are decoded once,
            and the bad ones are left out and listed in `skipped`.
        index: a folder that may hold an index of these images; the cache is searched for one too.
        on_index: called with the progress of making an index.
    Returns:
        The split, with num_images and fingerprint known. If there is an index from an earlier run, no image is read.
    Raises:
        DataError: the source, transform or split is unknown, files are missing or unusable, or images are bad.
        StorageError: remote files cannot be reached, or an index cannot be written to the cache.
    """
    found = re.fullmatch(r"([^\[\]]*)(?:\[(\d*):(\d*)\])?", split)
    if found is None:
        raise DataError(f"{source}: split: got {split!r}, expected a name, or a slice such as 'train[:49000]'")
    if not is_source(source):
        raise DataError(f"source: got {source!r}, expected one of {', '.join(SOURCES)}")
    name = found[1]
    if source == "auto":
        source, path, name = detect(path, name)
    if labels is not None and source != "imagefolder":
        raise DataError(f"{source}: labels: got {labels!r}, but only imagefolder takes labels from a file")
    chosen = transform or DEFAULT_TRANSFORMS.get(source)
    if chosen is None:
        raise DataError(f"transform: source {source!r} has no default; name one, e.g. 'cifar10' or 'imagenet-224'")
    chosen = find_transform(chosen) if isinstance(chosen, str) else chosen
    whole = _open_fixed(source, path, name, chosen, download)
    if whole is None:
        from rmpsweep.data.stored import StoredSplit

        whole = StoredSplit(_open_store(source, path, name, labels), chosen, on_bad_image, index, on_index)
    if found[2] is None:
        return whole
    start, stop = int(found[2] or 0), int(found[3] or whole.num_images)
    if not start < stop <= whole.num_images:
        raise DataError(f"{source}: split: got {split!r}, but {whole.name} has {whole.num_images} images")
    return ImageSlice(whole, start, stop)


def _open_fixed(source: str, path: str | None, split: str, transform: Transform, download: bool) -> ImageSplit | None:
    """Open a split that needs no index: digits, CIFAR, or that of a factory; None for the other sources."""
    if is_own(source):
        from rmpsweep.data.own import OwnSplit

        return OwnSplit(source, path, split, transform)
    if source == "digits":
        from rmpsweep.data.digits import DigitsSplit

        return DigitsSplit(path, split, transform)
    if source in ("cifar10", "cifar100"):
        from rmpsweep.data.cifar import CifarSplit

        return CifarSplit(source, path, split, transform, download)
    return None


def _open_store(source: str, path: str | None, split: str, labels: str | None) -> "Store":
    if source == "parquet":
        from rmpsweep.data.parquet import ParquetStore

        return ParquetStore(path, split)
    if source == "webdataset":
        from rmpsweep.data.tars import TarStore

        return TarStore(path, split)
    from rmpsweep.data.loose import CsvStore, FolderStore

    return CsvStore(path, split) if source == "csv" else FolderStore(path, split, labels)
