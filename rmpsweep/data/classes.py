"""Labels for names of classes, in the order of ILSVRC's synsets or else in the order of the sorted names."""

import functools
from collections.abc import Iterable
from importlib.resources import files

from rmpsweep.errors import DataError


@functools.cache
def synset_labels() -> dict[str, int]:
    """Each of the 1,000 synsets of ILSVRC 2012 (WordNet ids such as n01440764) -> its label, the rank in sorted order.

    The weights of torchvision and timm use this order. The devkit numbers the classes (ILSVRC2012_ID) in another one.
    """
    text = files("rmpsweep.data").joinpath("ilsvrc2012_synsets.txt").read_text(encoding="ascii")
    return {synset: label for label, synset in enumerate(text.split())}


def class_labels(names: Iterable[str], where: str) -> dict[str, int]:
    """Class name -> label: its rank among the 1,000 synsets if all names are synsets, else its rank among the names.

    Even a few synsets therefore have the labels that a network with 1,000 classes gives them.

    Raises:
        DataError: most names are synsets, but not all. Ranking the names would shift every label after a stray one.
    """
    ordered, synsets = sorted(set(names)), synset_labels()
    strays = [name for name in ordered if name not in synsets]
    if not strays:
        return {name: synsets[name] for name in ordered}
    if 2 * len(strays) < len(ordered):
        more = f" and {len(strays) - 3} more" if len(strays) > 3 else ""
        raise DataError(
            f"{where}: class {', '.join(map(repr, strays[:3]))}{more}: not among the 1,000 ILSVRC synsets, but the "
            f"other {len(ordered) - len(strays)} are; remove or rename it, or give labels as integers in a CSV file"
        )
    return {name: label for label, name in enumerate(ordered)}


def count_classes(labels: dict[str, int]) -> int:
    """The number of classes of the network that labels from `class_labels` are for: 1,000 if all names are synsets."""
    return 1000 if labels.keys() <= synset_labels().keys() else len(labels)


def class_names(folders: Iterable[str]) -> tuple[str, ...]:
    """The class names for the labels that `class_labels` gives these folders, in the order of the labels.

    They are the folders' own names, or torchvision's names of all 1,000 classes if every folder is a synset.
    """
    ordered = sorted(set(folders))
    if not set(ordered) <= synset_labels().keys():
        return tuple(ordered)
    from torchvision.models import AlexNet_Weights

    return tuple(AlexNet_Weights.IMAGENET1K_V1.meta["categories"])
