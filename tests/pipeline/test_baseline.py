"""The ANN's accuracy against its card, and against chance."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rmpsweep.data import open_split
from rmpsweep.models.recipe import card_path, read_card
from rmpsweep.models.weights import file_sha256
from rmpsweep.pipeline.baseline import Stated, baseline_warnings, stated_accuracy
from rmpsweep.results import PREDICTIONS_SCHEMA
from rmpsweep.results.records import BASELINE
from rmpsweep.sweep.schema import Network
from tests.helpers.commands import rmpsweep

CARD = Stated(0.73314, "its card")


def ann_rows(correct: int, images: int, classes: int = 1000) -> pa.Table:
    """The ANN's predictions of the first images of classes that take turns, so many correct, and another trial's."""
    labels = np.arange(images) % classes
    predictions = np.where(np.arange(images) < correct, labels, (labels + 1) % classes)
    rows = {
        "trial_id": ["ann"] * images,
        "image_id": range(images),
        "label": labels,
        "time_steps": [0] * images,
        "prediction": predictions,
        "label_rank": [0] * images,
        "correct": predictions == labels,
    }
    table = pa.table({field.name: pa.array(rows[field.name]).cast(field.type) for field in PREDICTIONS_SCHEMA})
    others = table.set_column(0, "trial_id", pa.array(["ab"] * images))
    return pa.concat_tables([table, others.set_column(6, "correct", pa.array([False] * images))])


@pytest.mark.parametrize(
    ("correct", "images", "warns"),
    [
        (36_657, 50_000, False),  # the card's own
        (36_520, 50_000, False),  # 0.27 point below
        (36_400, 50_000, True),  # 0.51 point below
        (36_900, 50_000, True),  # 0.49 point above, which is as suspicious
        (720, 1_000, False),  # 1.3 points, which 1,000 images do not tell from chance
        (690, 1_000, True),
        (67, 100, False),  # 6 points on 100 images
        (40, 100, True),
        (3, 4, False),
    ],
)
def test_a_warning_where_it_is_off_by_more_than_03_point_and_by_more_than_chance(correct, images, warns) -> None:
    found = baseline_warnings(ann_rows(correct, images), CARD)
    assert len(found) == warns, found
    assert baseline_warnings(ann_rows(correct, images), None) == []
    if warns:
        assert found[0].startswith(f"{BASELINE}{correct / images:.2%} of {images:,} images")
        for part in ("73.31% according to its card", "transform or interpolation", "labels in another order", "lossy"):
            assert part in found[0]


@pytest.mark.parametrize(
    ("correct", "images", "classes", "warns"),
    [
        (1, 100, 1000, True),  # random weights: 1 in 1,000
        (0, 500, 1000, True),
        (10, 100, 10, True),
        (0, 500, 10, True),  # labels permuted: worse than chance
        (20, 100, 10, False),
        (1, 4, 10, False),  # four images say nothing
        (3, 8, 10, False),
        (250, 500, 2, True),
        (300, 500, 2, False),
        (5, 5, 1, False),  # every image of one class: nothing to be taken for another
    ],
)
def test_a_warning_where_it_is_no_better_than_chance(correct, images, classes, warns) -> None:
    found = baseline_warnings(ann_rows(correct, images, classes), None)
    assert len(found) == warns, found
    if warns:
        assert re.search(r"no better than chance among \d+ classes or more", found[0])
        assert "labels in another order" in found[0]


def test_no_rows_of_the_ann_no_warning() -> None:
    assert baseline_warnings(ann_rows(1, 10).slice(10), CARD) == []


def test_the_card_of_a_training_counts_for_its_weights_on_its_own_images(weights: Path) -> None:
    card = read_card(weights)
    assert card is not None
    network = Network(name="vgg-small", weights=weights)
    test, train = (open_split("digits", None, split, None).fingerprint for split in ("test", "train"))
    found = stated_accuracy(network, weights, file_sha256(weights), test)
    assert found is not None
    assert found.accuracy == card.test_accuracy["correct"] / 500
    assert "500 images" in found.by
    assert stated_accuracy(network, weights, file_sha256(weights), train) is None
    assert stated_accuracy(network, weights, "0" * 64, test) is None
    published = stated_accuracy(Network(name="torchvision:resnet34", weights="IMAGENET1K_V1"), weights, "", "")
    assert published is not None
    assert published.accuracy == pytest.approx(0.73314)


@pytest.mark.slow
def test_launch_says_it_on_the_terminal_in_run_json_and_in_the_report(
    weights: Path, write_sweep, tmp_path: Path, environment: None
) -> None:
    """The card is changed to what these images contradict; a launch of few images has no reason to say so."""
    copy = tmp_path / weights.name
    copy.write_bytes(weights.read_bytes())
    card = json.loads(card_path(weights).read_text())
    sweep = write_sweep()
    sweep.write_text(sweep.read_text().replace(str(weights), str(copy)))
    results = tmp_path / "results"
    launch = ("launch", sweep, "--inline", "--mlflow", "none", "--set", "time_steps=[2]", "--results", results)

    def warned(limit: int, correct: int) -> list[str]:
        card_path(copy).write_text(json.dumps(card | {"test_accuracy": {"correct": correct, "images": 500}}))
        document = rmpsweep(*launch, "--limit", limit)
        notes = json.loads((results / "run.json").read_text())["warnings"]
        assert [note for note in notes if note.startswith(BASELINE)] == document["baseline_warnings"]
        report = (results / "report.html").read_text(encoding="utf-8")
        assert ("according to the card" in report) == bool(document["baseline_warnings"])
        return document["baseline_warnings"]

    correct = card["test_accuracy"]["correct"]
    assert warned(8, correct // 2 + correct // 4) == []
    assert len(warned(200, correct // 2)) == 1
    assert warned(500, correct) == []
