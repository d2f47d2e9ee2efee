"""Check whether this machine and a cluster can run a sweep: one finding for each thing that a launch needs.

``finding`` is the result of one check, with a remedy where something is wrong. ``here`` checks this machine and what a
sweep names. ``cluster`` checks every node of a Ray cluster, where it runs the functions of ``probe``.
"""

from rmpsweep.checks.doctor.cluster import examine_cluster
from rmpsweep.checks.doctor.finding import Finding
from rmpsweep.checks.doctor.here import examine_here
from rmpsweep.storage import Location
from rmpsweep.sweep.schema import Sweep

__all__ = ["Finding", "examine"]

ANSWER_S = 60.0
"""Seconds that a node may take to answer. To open a sweep's data and weights it has `run.setup_deadline_s`, as a worker
does."""


def examine(
    results: Location,
    mlflow_uri: str | None,
    sweep: Sweep | None = None,
    address: str | None = None,
    answer_s: float = ANSWER_S,
) -> list[Finding]:
    """Run every check. No check raises or waits forever, and none leaves anything behind but an index in the cache.

    Args:
        results: where the results lie or will lie.
        mlflow_uri: a tracking URI to check instead of the sweep's; "none" checks none.
        sweep: the sweep whose data, weights and results are checked; None leaves these checks out.
        address: address of the Ray cluster; None starts Ray on this machine.
        answer_s: how long a node may take to answer, in seconds.
    Returns:
        One finding for each check, those of this machine first.
    """
    here = examine_here(results, mlflow_uri, sweep)
    return [*here.findings, *examine_cluster(address, results, here.prepared, answer_s)]
