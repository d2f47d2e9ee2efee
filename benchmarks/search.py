"""Replays an adaptive search on the results of a full grid, in many random orders of its images.

Run `python -m benchmarks.search RESULTS [--orders 200]`; only predictions.parquet and summary.parquet are read. For
several T of interest it measures the share of the grid's image-steps that the search would have taken, and how far the
best of the trials that were not stopped is below the best of the grid.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rmpsweep.pipeline.search import Contest
from rmpsweep.sweep.schema import Search
from rmpsweep.terms import ANN

NEAR_POINTS = 0.3


def read_grid(results: Path) -> tuple[list[str], list[int], NDArray[np.int8]]:
    """Read trials in the order of the grid, time steps, and 1 for each correct prediction: int8 [trials, T, images]."""
    summary = pq.read_table(results / "summary.parquet", columns=["trial_id", "time_steps"])
    trials = list(dict.fromkeys(summary["trial_id"].to_pylist()))
    steps = sorted(set(summary["time_steps"].to_pylist()))
    columns = ["trial_id", "time_steps", "image_id", "correct"]
    rows = pq.read_table(results / "predictions.parquet", columns=columns)
    rows = rows.filter(pc.not_equal(rows["trial_id"], ANN))
    trial = pc.index_in(rows["trial_id"], pa.array(trials)).to_numpy()
    image = np.unique(rows["image_id"].to_numpy(), return_inverse=True)[1]
    correct = np.full((len(trials), len(steps), image.max() + 1), -1, np.int8)
    correct[trial, np.searchsorted(steps, rows["time_steps"].to_numpy()), image] = rows["correct"].to_numpy()
    if (correct < 0).any():
        raise SystemExit(f"{results}: not a full grid")
    return trials, steps, correct


def replayed(
    trials: list[str], steps: list[int], correct: NDArray[np.int8], search: Search, orders: int, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Replay the search in random orders of the images.

    Returns:
        For each order: the share of the grid's image-steps that the search takes, the percentage points by which the
        best trial left is below the grid's best (at the worst T of interest), and the number of trials left.
    """
    interest = search.time_steps or tuple(steps)
    rows = [steps.index(t) for t in interest]
    of_all = correct[:, rows].sum(2, dtype=int)
    images = correct.shape[2]
    generator = np.random.default_rng(seed)
    shares, losses, left = [], [], []
    for _ in range(orders):
        order = generator.permutation(images)
        shuffled = {trial: correct[k][rows][:, order] for k, trial in enumerate(trials)}
        contest = Contest(interest, search, images, shuffled)
        contest.run(trials)
        extents = [max((d.images for d in contest.defeats.get(trial, ())), default=images) for trial in trials]
        kept = [k for k, trial in enumerate(trials) if trial not in contest.defeats]
        shares.append(sum(extents) / (images * len(trials)))
        losses.append(100 * (of_all.max(0) - of_all[kept].max(0)).max() / images)
        left.append(len(kept))
    return np.array(shares), np.array(losses), np.array(left)


def main() -> None:
    """Print a table with a row for each T as the only T of interest, and one for all T together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--orders", type=int, default=200)
    parser.add_argument("--error", type=float, default=0.05)
    options = parser.parse_args()
    trials, steps, correct = read_grid(options.results)
    print(f"{len(trials)} trials, {correct.shape[2]} images, {options.orders} random orders, error {options.error}\n")
    print(
        f"| T of interest | grid's best | share of image-steps: median (5 to 95 %) | best lost | winner within "
        f"{NEAR_POINTS} points | largest loss | trials left: median |\n|---|---|---|---|---|---|---|"
    )
    for interest in [*((t,) for t in steps), tuple(steps)]:
        search = Search(time_steps=interest, error=options.error)
        shares, losses, left = replayed(trials, steps, correct, search, options.orders)
        best = ", ".join(f"{correct[:, steps.index(t)].mean(1).max():.2%}" for t in interest)
        low, middle, high = np.percentile(100 * shares, [5, 50, 95])
        near = np.mean(losses <= NEAR_POINTS + 1e-9)
        print(
            f"| {', '.join(map(str, interest))} | {best} | {middle:.1f} % ({low:.1f} to {high:.1f}) | "
            f"{np.mean(losses > 0):.1%} | {near:.1%} | {losses.max():.2f} | {np.median(left):.0f} |"
        )


if __name__ == "__main__":
    main()
