"""Threshold rules and data sources from outside the package: identity, mistakes, and workers in other processes."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rmpsweep.data import open_split
from rmpsweep.errors import DataError
from rmpsweep.sweep.thresholds import find_own_rule
from tests.helpers.chaos import LocalCluster
from tests.helpers.commands import rmpsweep, run_here

RULES = """
from rmpsweep.engine import calibrate

def halved(net, images, granularity):
    found = calibrate(net, images, "activation_max", granularity)
    return {layer: 0.5 * found[layer] for layer in net.layers}

def silent_on_few_images(net, images, granularity):
    return {layer: 0.0 if len(images) < 3 else 1.0 for layer in net.layers}

def all_but_one(net, images, granularity): return {layer: 1.0 for layer in net.layers[1:]}
def one_more(net, images, granularity): return {layer: 1.0 for layer in [*net.layers, "nowhere"]}
def by_channel(net, images, granularity): return {layer: [1.0, 2.0] for layer in net.layers}
def zero(net, images, granularity): return {layer: 0 for layer in net.layers}
def nan(net, images, granularity): return {layer: float("nan") for layer in net.layers}
def words(net, images, granularity): return {layer: "high" for layer in net.layers}
def nothing(net, images, granularity): pass
def fails(net, images, granularity): raise KeyError("conv1")
NO_FUNCTION = 3
"""
BAD_RULES = {
    "nowhere:rule": ["cannot import nowhere", "is it installed, or in the current directory?"],
    "own_rules:rule": ["own_rules has no function rule; it has calibrate, halved"],
    "own_rules:NO_FUNCTION": ["has no function NO_FUNCTION"],
    "own_rules:all_but_one": ["missing features.1; unknown none; the layers are features.1"],
    "own_rules:one_more": ["missing none; unknown nowhere"],
    "own_rules:by_channel": ["has thresholds per channel, the trial has granularity: layer"],
    "own_rules:zero": ["thresholds['features.1']: got 0.0, expected finite numbers > 0"],
    "own_rules:nan": ["thresholds['features.1']: got nan, expected finite numbers > 0"],
    "own_rules:words": ["features.1: got str, expected a number, or one for every channel"],
    "own_rules:nothing": ["returned NoneType, expected a mapping of layers to thresholds"],
    "own_rules:fails": ["the rule failed: KeyError: 'conv1'"],
}


@pytest.fixture
def launch(
    write_sweep: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: None
) -> Callable[..., list[str]]:
    """The arguments that launch the tiny sweep with a rule, where the rules lie in the current directory."""
    sweep = write_sweep()
    (tmp_path / "own_rules.py").write_text(RULES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_rules", raising=False)  # of another test, from another folder

    def arguments(rule: str, *where: str) -> list[str]:
        grid = f"grid=[{{threshold: ['{rule}']}}]"
        shared = ["--results", str(tmp_path / "r"), "--mlflow", "none", "--limit", "8", "--set", grid]
        return ["launch", str(sweep), *shared, *(where or ("--inline",))]

    return arguments


@pytest.mark.slow
def test_an_edited_rule_is_another_one_and_an_unedited_one_is_not_asked_again(
    launch: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert rmpsweep(*launch("own_rules:halved"))["units_run"] == 1
    assert rmpsweep(*launch("own_rules:halved"))["units_run"] == 0
    (tmp_path / "own_rules.py").write_text(RULES.replace("0.5 *", "0.25 *"))
    assert rmpsweep(*launch("own_rules:halved"))["units_run"] == 1
    assert rmpsweep("status", tmp_path / "r")["units_left"] == 0


@pytest.mark.parametrize("rule", BAD_RULES)
def test_a_rule_that_cannot_be_used_is_refused_with_its_name_and_what_is_allowed(
    rule: str, launch: Callable[..., list[str]]
) -> None:
    code, _, errors = run_here(launch(rule))
    assert code == 2
    assert [part for part in [f"grid.threshold: {rule}", *BAD_RULES[rule]] if part not in errors] == []


@pytest.mark.ray
def test_a_rule_runs_in_workers_of_a_cluster_and_is_tried_before_there_is_one(
    launch: Callable[..., list[str]], cluster: LocalCluster, tmp_path: Path
) -> None:
    where = "--address", cluster.address, "--actors", "1"
    code, _, errors = run_here(launch("own_rules:silent_on_few_images", *where))
    assert code == 0, errors
    assert rmpsweep("status", tmp_path / "r")["units_left"] == 0
    code, _, errors = run_here(launch("own_rules:one_more", "--address", "127.0.0.1:1", "--actors", "1"))
    assert code == 2
    assert errors.startswith("error: grid.threshold: own_rules:one_more: missing none; unknown nowhere")


def test_the_digest_of_a_rule_is_that_of_its_modules_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "digested_rules.py"
    module.write_text("def rule(net, images, granularity): return {}\n")
    first = find_own_rule("digested_rules:rule")
    assert find_own_rule("digested_rules:rule") == first
    module.write_text("def rule(net, images, granularity): return {'a': 1}\n")
    assert find_own_rule("digested_rules:rule").digest() != first.digest()


PIXELS = np.arange(4 * 6 * 5, dtype=np.uint8).reshape(4, 6, 5)


class Items(list[tuple[object, object]]):
    classes = ("a", "b", "c", "d")


def gray(path: str | None, split: str) -> Items:
    return Items((image, position) for position, image in enumerate(PIXELS))


def as_pil(path: str | None, split: str) -> Items:
    return Items((Image.fromarray(image), position) for position, image in enumerate(PIXELS))


def other_pixel(path: str | None, split: str) -> Items:
    return Items((np.where(image == 7, 8, image), label) for image, label in gray(path, split))  # type: ignore[call-overload]


def other_label(path: str | None, split: str) -> Items:
    return Items((image, 0) for image, _ in gray(path, split))


def sizes(path: str | None, split: str) -> Items:
    return Items((np.full((side, side + 1, 3), side, np.uint8), 0) for side in (9, 12))


def rgba(path: str | None, split: str) -> Items:
    return Items([(Image.new("RGBA", (3, 2)), 0)])


def floats(path: str | None, split: str) -> Items:
    return Items([(PIXELS[0].astype(np.float32), 0)])


def negative(path: str | None, split: str) -> Items:
    return Items([(PIXELS[0], -1)])


def beyond(path: str | None, split: str) -> Items:
    return Items([(PIXELS[0], 4)])


def no_pairs(path: str | None, split: str) -> Items:
    return Items([PIXELS[0]])  # type: ignore[list-item]


def empty(path: str | None, split: str) -> Items:
    return Items()


def nothing(path: str | None, split: str) -> None:
    return None


def fails(path: str | None, split: str) -> None:
    raise FileNotFoundError(f"{path}/{split}")


def opened(factory: str, transform: str = "unit", split: str = "test"):
    return open_split(f"{__name__}:{factory}", "/data", split, transform)


def test_images_of_a_sequence_are_numbered_by_their_place() -> None:
    split = opened("gray")
    assert (split.num_images, split.num_classes, split.image_shape) == (4, 4, (1, 6, 5))
    assert split.class_names() == ("a", "b", "c", "d")
    pixels, labels = split.pixels([2, 0, 2])
    assert np.array_equal(pixels[:, 0].numpy(), PIXELS[[2, 0, 2]])
    assert labels.tolist() == [2, 0, 2]
    assert opened("gray", split="test[:2]").num_images == 2


def test_a_source_of_its_own_is_known_by_the_contents_of_its_images_and_labels() -> None:
    fingerprint = opened("gray").fingerprint
    assert opened("as_pil").fingerprint == fingerprint
    assert len({fingerprint, opened("other_pixel").fingerprint, opened("other_label").fingerprint}) == 3


def test_images_of_several_sizes_need_a_transform_that_crops() -> None:
    with pytest.raises(DataError, match="image 1: got 13x12 pixels of 3 channels, the first one has 10x9"):
        opened("sizes")
    assert opened("sizes", "imagenet-224").pixels([0, 1])[0].shape == (2, 3, 224, 224)
    assert opened("rgba").image_shape == (3, 2, 3)


@pytest.mark.parametrize(
    ("factory", "transform", "message"),
    [
        ("missing", "unit", "has no function missing; it has"),
        ("fails", "unit", "the factory failed: FileNotFoundError: /data/test"),
        ("nothing", "unit", r"returned NoneType, expected a sequence of \(image, label\)"),
        ("empty", "unit", "split 'test' has no images; expected at least one"),
        ("no_pairs", "unit", r"image 0: cannot be read as \(image, label\)"),
        ("floats", "unit", r"got an image of float32 \[6, 5\]; expected a PIL image or a uint8 array \[H, W\]"),
        ("negative", "unit", "image 0: got label -1, expected 0 or more"),
        ("beyond", "unit", "got label 4, but `classes` has 4 names"),
        ("gray", "imagenet-224", r"of 1 channels, but a transform that resizes or crops takes RGB images; return "),
        ("gray", "cifar10", "transform: got mean and std of 3 channels"),
        ("gray", None, "has no default; name one"),
    ],
)
def test_a_source_that_cannot_be_used_is_refused(factory: str, transform: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(factory, transform)
