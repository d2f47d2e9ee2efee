"""What no other point beats in both accuracy and cost."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (accuracy, cost) that no other point beats, in ascending cost.

    A point is beaten by one that is at least as accurate and at most as costly, and strictly better in one of the two;
    equal points stand together.
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][1], -points[i][0])):
        if not front or points[index][0] > points[front[-1]][0] or points[index] == points[front[-1]]:
            front.append(index)
    return front


def pareto_rows(rows: Sequence[Row], cost: Callable[[Row], float]) -> list[Row]:
    """The rows of a summary table that no other row beats in accuracy and cost, in ascending cost.

    Args:
        rows: with accuracy, over the same images.
        cost: of a row, less is better: `itemgetter("time_steps")`, `itemgetter("synops_per_image")`, or joules looked
            up in `energies`.
    """
    return [rows[i] for i in pareto_front([(row["accuracy"], cost(row)) for row in rows])]
