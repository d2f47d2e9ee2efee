"""From names of classes to labels: the order of ILSVRC's synsets, else that of the sorted names."""

import functools
from collections.abc import Iterable
from importlib.resources import files

from rmpsweep.errors import DataError


@functools.cache
def synset_labels() -> dict[str, int]:
    """The 1,000 synsets of ILSVRC 2012 (WordNet ids such as n01440764) -> label, their rank in sorted order.

    It is the order of torchvision's and timm's weights; the ids of the devkit (ILSVRC2012_ID) are another one.
    """
    text = files("rmpsweep.data").joinpath("ilsvrc2012_synsets.txt").read_text(encoding="ascii")
    return {synset: label for label, synset in enumerate(text.split())}


def class_labels(names: Iterable[str], where: str) -> dict[str, int]:
    """Labels of class names: their place among the 1,000 synsets if all are of them, else their rank.

    Some of the 1,000, or all: their labels are those of a network with 1,000 classes.

    Raises:
        DataError: most are of the 1,000 synsets, but not all: ranks would shift every label after a stray one.
    """
    ordered, synsets = sorted(set(names)), synset_labels()
    strays = [name for name in ordered if name not in synsets]
    if not strays:
        return {name: synsets[name] for name in ordered}
    if 2 * len(strays) < len(ordered):
        more = f" and {len(strays) - 3} more" if len(strays) > 3 else ""
        raise DataError(
            f"{where}: class {', '.join(map(repr, strays[:3]))}{more}: not of the 1,000 ILSVRC synsets, as the other "
            f"{len(ordered) - len(strays)} are; remove or rename it, or give labels as integers in a CSV file"
        )
    return {name: label for label, name in enumerate(ordered)}


def count_classes(labels: dict[str, int]) -> int:
    """Classes of the network that labels of `class_labels` belong to."""
    return 1000 if labels.keys() <= synset_labels().keys() else len(labels)


def class_names(folders: Iterable[str]) -> tuple[str, ...]:
    """Of the classes of these folders, by the labels of `class_labels`; of synsets what torchvision calls them."""
    ordered = sorted(set(folders))
    if not set(ordered) <= synset_labels().keys():
        return tuple(ordered)
    from torchvision.models import AlexNet_Weights

    return tuple(AlexNet_Weights.IMAGENET1K_V1.meta["categories"])
