"""Adaptive searches through whole launches."""

import json

import pyarrow.parquet as pq
import pytest

from tests.helpers.commands import rmpsweep
from tests.helpers.results import tables, unit_files

pytestmark = pytest.mark.usefixtures("environment")
GRID = "grid=[{reset: [soft, hard], alpha_scope: [network], alpha: [0.3, 0.5, 1.0, 2.0, 4.0]}]"
SEARCH = "search={time_steps: [12], first_images: 24}"


@pytest.fixture
def launch(write_sweep, tmp_path):
    def run(name, *options, shard_size=64):
        results = tmp_path / name
        found = rmpsweep(
            "launch",
            write_sweep(shard_size),
            "--results",
            results,
            "--mlflow",
            "none",
            "--limit",
            240,
            "--set",
            GRID,
            *options,
        )
        return results, found

    return run


@pytest.mark.slow
def test_a_search_is_a_part_of_the_grid_and_each_becomes_the_other(launch):
    results, found = launch("search", "--inline", "--set", SEARCH)
    search = json.loads((results / "search.json").read_text())
    stopped = {trial: max(defeat["images"] for defeat in defeats) for trial, defeats in search["stopped"].items()}
    assert search["over"] is True
    assert 2 <= len(stopped) <= 9
    assert search["image_steps"] < search["image_steps_of_grid"]
    for row in found["summary"]:
        assert row["images"] == row["images_planned"] == stopped.get(row["trial_id"], 240)

    assert launch("search", "--inline", "--set", SEARCH)[1]["units_run"] == 0
    grid, _ = launch("grid", "--inline")
    theirs, ours = (
        {tuple(row.values()) for row in pq.read_table(each / "predictions.parquet").to_pylist()}
        for each in (grid, results)
    )
    assert ours < theirs

    before = unit_files(grid)
    launch("grid", "--inline", "--set", SEARCH)
    assert unit_files(grid) == before, "a grid holds every search"
    assert (grid / "predictions.parquet").read_bytes() == (results / "predictions.parquet").read_bytes()
    assert (grid / "search.json").read_bytes() == (results / "search.json").read_bytes()

    launch("search", "--inline")
    assert not (results / "search.json").exists()
    assert {tuple(row.values()) for row in pq.read_table(results / "predictions.parquet").to_pylist()} == theirs


@pytest.mark.ray
@pytest.mark.soak
def test_a_search_on_two_actors_with_other_shards_is_the_same_bytes(launch):
    results, _ = launch("search", "--inline", "--set", SEARCH)
    with_actors, _ = launch("actors", "--actors", 2, "--set", SEARCH, shard_size=16)
    assert tables(with_actors) == tables(results)
    assert (with_actors / "search.json").read_bytes() == (results / "search.json").read_bytes()


@pytest.mark.slow
def test_refined_trials_are_reported_verified_and_kept(launch):
    options = ("--inline", "--set", SEARCH, "--set", "search.refine=1", "--set", "grid.alpha=[0.5, 0.52, 0.54, 4.0]")
    results, found = launch("refined", *options)
    search = json.loads((results / "search.json").read_text())
    assert search["added"]
    assert set(search["added"]) <= {row["trial_id"] for row in found["summary"]}
    assert len(rmpsweep("status", results)["trials"]) == 1 + 8 + len(search["added"])
    assert rmpsweep("status", results)["units_left"] == 0
    rmpsweep("verify", results, "--inline", "--units", 2)
    assert launch("refined", *options)[1]["units_run"] == 0


def test_plan_says_that_a_search_takes_at_most_so_much(write_sweep, tmp_path):
    command = ("plan", write_sweep(), "--results", tmp_path / "none", "--limit", 40, "--inline")
    searched, grid = rmpsweep(*command, "--set", SEARCH), rmpsweep(*command)
    assert "worse at T = 12" in searched.pop("search")
    assert grid.pop("search") is None
    assert searched == grid
    assert not (tmp_path / "none").exists()
