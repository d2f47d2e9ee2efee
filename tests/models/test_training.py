"""Training on the real digits: what it reaches, resuming bit for bit, divergence, schedule and augmentation."""

import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from rmpsweep.data import ImageSplit, open_split
from rmpsweep.errors import DataError, NetworkError
from rmpsweep.models.recipe import Recipe, digest, read_card
from rmpsweep.models.registry import build
from rmpsweep.models.standardize import fold, standardize
from rmpsweep.models.training import EpochReport, crop_flip, learning_rate, train
from rmpsweep.models.weights import file_sha256, load_weights

RECIPES = Path(__file__).parents[2] / "sweeps" / "recipes"
SHORT = Recipe(name="short", network="vgg-small", source="digits", epochs=4, augment="crop-flip", max_grad_norm=1.0)


@pytest.fixture(scope="module")
def digits() -> tuple[ImageSplit, ImageSplit]:
    return open_split("digits", None, "train", None), open_split("digits", None, "test", None)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are slowed down by more threads, tenfold where other processes compete for the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe_file(name: str) -> Recipe:
    return Recipe(**yaml.safe_load((RECIPES / f"{name}.yaml").read_text()))


def ignore(report: EpochReport) -> None:
    pass


def stop_after(epoch: int) -> Callable[[EpochReport], None]:
    def on_epoch(report: EpochReport) -> None:
        if report.epoch == epoch:
            raise KeyboardInterrupt

    return on_epoch


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipe_files_name_themselves_and_a_known_network(path: Path) -> None:
    recipe = recipe_file(path.stem)
    assert recipe.name == path.stem
    build(recipe.network, 10, 3, 32, recipe.dropout)


@pytest.mark.slow
def test_digits_recipe_reaches_97_percent(digits: tuple[ImageSplit, ImageSplit], tmp_path: Path) -> None:
    recipe, path, reports = recipe_file("digits-vgg-small"), tmp_path / "digits.safetensors", []
    card = train(recipe, *digits, path, reports.append)
    assert card.test_accuracy["images"] == 500
    assert card.test_accuracy["correct"] >= 485

    network = build("vgg-small", 10, 1, 8).eval()
    load_weights(network, path)
    images, labels = digits[1].load(range(500))
    with torch.no_grad():
        assert int((network(images).argmax(1) == labels).sum()) == card.test_accuracy["correct"]

    assert read_card(path) == card
    assert [epoch["test_accuracy"] for epoch in card.history] == [report.test_accuracy for report in reports]
    assert json.loads((tmp_path / "digits.safetensors.json").read_text()) == asdict(card)
    assert card.recipe_digest == digest(recipe, digits[0].fingerprint)
    assert card.weights_sha256 == file_sha256(path)
    assert card.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["digits.safetensors", "digits.safetensors.json"]
    assert [report.epoch for report in reports] == list(range(1, recipe.epochs + 1))
    assert reports[-1].eta_s == 0
    assert reports[-1].loss < reports[0].loss
    assert reports[-1].test_accuracy == card.test_accuracy["correct"] / 500


@pytest.mark.slow
def test_interrupted_training_ends_with_the_same_weights(digits: tuple[ImageSplit, ImageSplit], tmp_path: Path) -> None:
    undisturbed, resumed = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    train(SHORT, *digits, undisturbed, ignore)
    for epoch in (1, 3):
        torch.manual_seed(epoch)
        with pytest.raises(KeyboardInterrupt):
            train(SHORT, *digits, resumed, stop_after(epoch))
        assert not resumed.exists()
    epochs: list[int] = []
    train(SHORT, *digits, resumed, lambda report: epochs.append(report.epoch))
    assert epochs == [4]
    assert file_sha256(resumed) == file_sha256(undisturbed)
    train(replace(SHORT, seed=1), *digits, resumed, ignore)
    assert file_sha256(resumed) != file_sha256(undisturbed)


def test_standardised_weights_fold_into_plain_convolutions() -> None:
    torch.manual_seed(0)
    network = build("resnet20", 10, 3, 16, 0.0).double()
    keys, images = list(network.state_dict()), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    norms = {name: p.flatten(1).norm(dim=1) for name, p in network.named_parameters() if p.dim() == 4}
    standardize(network)
    with torch.no_grad():
        expected = network(images)
        fold(network)
        assert torch.equal(network(images), expected)
    assert list(network.state_dict()) == keys
    for name, weight in network.named_parameters():
        if weight.dim() == 4:
            torch.testing.assert_close(weight.mean((1, 2, 3)), torch.zeros(len(weight)).double(), atol=1e-12, rtol=0)
            started = norms[name] / math.sqrt(1 - 1 / math.pi)
            torch.testing.assert_close(weight.flatten(1).norm(dim=1), started, rtol=1e-3, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_resuming_with_standardised_weights_is_exact(
    precision: Literal["float32", "bfloat16"], digits: tuple[ImageSplit, ImageSplit], tmp_path: Path
) -> None:
    recipe = replace(SHORT, epochs=2, weight_standardization=True, precision=precision)
    undisturbed, resumed = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    card = train(recipe, *digits, undisturbed, ignore)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, *digits, resumed, stop_after(1))
    epochs: list[int] = []
    again = train(recipe, *digits, resumed, lambda report: epochs.append(report.epoch))
    assert (epochs, again.weights_sha256) == ([2], card.weights_sha256)
    assert card.precision == precision
    steps = math.ceil(digits[0].num_images / recipe.batch_size)
    assert [epoch["learning_rate"] for epoch in card.history] == [
        learning_rate(recipe, epoch * steps - 1, steps) for epoch in (1, 2)
    ]
    load_weights(build("vgg-small", 10, 1, 8), resumed)


@pytest.mark.parametrize("left_behind", ["another recipe", "damaged"])
def test_checkpoint_that_does_not_fit_is_ignored(
    left_behind: str, digits: tuple[ImageSplit, ImageSplit], tmp_path: Path
) -> None:
    path, recipe = tmp_path / "w.safetensors", replace(SHORT, epochs=2)
    with pytest.raises(KeyboardInterrupt):
        train(replace(recipe, seed=9) if left_behind == "another recipe" else recipe, *digits, path, stop_after(1))
    checkpoint = tmp_path / "w.safetensors.ckpt"
    if left_behind == "damaged":
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    epochs: list[int] = []
    train(recipe, *digits, path, lambda report: epochs.append(report.epoch))
    assert epochs == [1, 2]
    assert not checkpoint.exists()


def test_training_leaves_the_callers_random_numbers_alone(
    digits: tuple[ImageSplit, ImageSplit], tmp_path: Path
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(replace(SHORT, epochs=1), *digits, tmp_path / "w.safetensors", ignore)
    assert torch.equal(torch.rand(3), expected)


def test_divergence_stops_early_and_says_where(digits: tuple[ImageSplit, ImageSplit], tmp_path: Path) -> None:
    recipe = replace(SHORT, learning_rate=1e4, max_grad_norm=None, warmup_epochs=0)
    with pytest.raises(NetworkError, match=r"recipe short: training diverged in epoch 1 of 4 at learning rate"):
        train(recipe, *digits, tmp_path / "w.safetensors", ignore)
    assert list(tmp_path.iterdir()) == []


def test_splits_must_have_the_same_image_shape(
    digits: tuple[ImageSplit, ImageSplit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "PNG")
    pq.write_table(
        pa.table({"image": [{"bytes": buffer.getvalue(), "path": "a.png"}], "label": [0]}), tmp_path / "test.parquet"
    )
    monkeypatch.setenv("RMPSWEEP_CACHE", str(tmp_path))
    larger = open_split("parquet", str(tmp_path), "test", "unit")
    with pytest.raises(DataError, match=r"digits/train has .* \(1, 8, 8\), .*/test of \(3, 16, 16\)"):
        train(SHORT, digits[0], larger, tmp_path / "w.safetensors", ignore)


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("cosine", 0, 0.01),
        ("cosine", 9, 0.1),
        ("cosine", 10, 0.1),
        ("cosine", 55, 0.05),
        ("cosine", 99, 0.05 * (1 + math.cos(math.pi * 89 / 90))),
        ("step", 4, 0.05),
        ("step", 59, 0.1),
        ("step", 60, 0.01),
        ("step", 80, 0.001),
        ("step", 99, 0.0001),
    ],
)
def test_learning_rate(schedule: str, step: int, expected: float) -> None:
    recipe = replace(SHORT, epochs=10, learning_rate=0.1, warmup_epochs=1, schedule=schedule)  # type: ignore[arg-type]
    assert learning_rate(recipe, step, steps_per_epoch=10) == pytest.approx(expected, rel=1e-12)


def test_crop_flip_gives_windows_of_the_padded_image_and_of_its_mirror_image() -> None:
    images = torch.arange(1.0, 1 + 200 * 2 * 5 * 6).view(200, 2, 5, 6)
    augmented = crop_flip(images, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(images, [4] * 4)
    seen = set()
    for image, source in zip(augmented, padded, strict=True):
        found = [
            (top, left, flip)
            for top in range(9)
            for left in range(9)
            for flip in (False, True)
            if torch.equal(image, source[:, top : top + 5, left : left + 6].flip(2 if flip else ()))
        ]
        assert found
        seen.update(found)
    assert {top for top, _, _ in seen} == {left for _, left, _ in seen} == set(range(9))
    assert {flip for _, _, flip in seen} == {False, True}
