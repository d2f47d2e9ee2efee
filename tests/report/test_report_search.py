"""The report of an adaptive search: what stopped, when and why."""

from dataclasses import replace

import pyarrow as pa
import pytest

from rmpsweep.report import render
from rmpsweep.report.charts.search import stopped_rows
from rmpsweep.report.trials import by_trial
from rmpsweep.results import SearchFile
from rmpsweep.stats.sequential import Defeat
from tests.helpers.report_tables import IMAGES, INFO, tables, text_of

STOPPED, RIVAL = f"{0:016x}", f"{7:016x}"
DEFEATS = (
    Defeat(time_steps=16, rival=RIVAL, images=20, difference_points=12.5, odds=123456.0),
    Defeat(time_steps=32, rival=RIVAL, images=30, difference_points=30.0, odds=None),
)
SEARCH = SearchFile(
    error=0.05,
    time_steps=(16, 32),
    images=IMAGES,
    over=True,
    rounds=(),
    stopped={STOPPED: DEFEATS},
    added=(),
    image_steps=450,
    image_steps_of_grid=480,
)


def stopped_summary() -> pa.Table:
    rows = tables()[0].to_pylist()
    for row in rows:
        if row["trial_id"] == STOPPED:
            row["images"] = row["images_planned"] = 30
    return pa.Table.from_pylist(rows)


def page(**changes: object) -> str:
    _, activity, predictions = tables()
    return render(stopped_summary(), activity, predictions, replace(INFO, search=replace(SEARCH, **changes)))


@pytest.mark.slow
def test_a_search_is_told_with_its_savings_and_its_promise_and_is_not_partial():
    text = text_of(page())
    assert "1 of 8 trials were stopped, because each was shown to be worse than another trial at every one of" in text
    assert "at every one of T = 16, 32. The others went on to all" in text
    assert "This took 93.8 % of the image-steps of the full grid." in text
    assert "probability of at most 0.05" in text
    assert "hard, α = 0.5 vin_max 20 16 soft, α = 1, activation_p99.9 12.50 123 k" in text
    assert "hard, α = 0.5 vin_max 30 32 soft, α = 1, activation_p99.9 30.00 certain" in text
    assert "Partial results" not in text
    assert "this search is not over yet" in text_of(page(over=False))
    assert "2 trials were added" in text_of(page(added=("a", "b")))


@pytest.mark.slow
def test_classes_and_hardest_images_are_of_trials_that_were_not_stopped():
    text = text_of(page(stopped={f"{6:016x}": DEFEATS}))  # the best with hard reset
    assert "Class images ANN soft points to ANN" in text
    assert "wrong in 3 of 7 image 46" in text
    assert "of 8 image" not in text


@pytest.mark.slow
def test_without_a_search_nothing_is_said_of_one():
    text = text_of(render(*tables(), INFO))
    assert "Adaptive search" not in text


def test_stopped_trials_are_listed_by_how_far_they_came():
    search = replace(SEARCH, stopped={STOPPED: DEFEATS, f"{1:016x}": (replace(DEFEATS[0], images=25),)})
    assert [row["images"] for row in stopped_rows(search, by_trial(stopped_summary().to_pylist()))] == [20, 30, 25]
