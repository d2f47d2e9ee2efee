"""The Pareto front: what nothing else beats in accuracy and cost."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The indices of the points (accuracy, cost) that no other point beats, in ascending cost.

    A point is beaten by another one that is at least as accurate and at most as costly, and strictly better in one of
    the two. Equal points are on the front together or not at all.
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][1], -points[i][0])):
        if not front or points[index][0] > points[front[-1]][0] or points[index] == points[front[-1]]:
            front.append(index)
    return front


def pareto_rows(rows: Sequence[Row], cost: Callable[[Row], float]) -> list[Row]:
    """The rows of a summary table that no other row beats in accuracy and cost, in ascending cost.

    Args:
        rows: rows whose accuracies are over the same images.
        cost: gives the cost of a row, less being better: `itemgetter("time_steps")`, `itemgetter("synops_per_image")`,
            or joules looked up in `energies`.
    """
    return [rows[i] for i in pareto_front([(row["accuracy"], cost(row)) for row in rows])]
