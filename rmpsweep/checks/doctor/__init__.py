"""Can this machine, or this cluster, run a sweep? A finding for each thing a launch needs, and a remedy where it lacks.

``finding`` is what a check comes to; ``here`` checks this machine, and what a sweep names; ``cluster`` checks every
node of a Ray cluster, by asking it what ``probe`` can say.
"""

from rmpsweep.checks.doctor.cluster import examine_cluster
from rmpsweep.checks.doctor.finding import Finding
from rmpsweep.checks.doctor.here import examine_here
from rmpsweep.storage import Location
from rmpsweep.sweep.schema import Sweep

__all__ = ["Finding", "examine"]

ANSWER_S = 60.0
"""A node that has not answered by then does not; the data of a sweep may take as long as a worker's setup."""


def examine(
    results: Location,
    mlflow_uri: str | None,
    sweep: Sweep | None = None,
    address: str | None = None,
    answer_s: float = ANSWER_S,
) -> list[Finding]:
    """Run every check; none raises, none waits without end, and none leaves anything but an index in the cache.

    Args:
        results: where they lie or shall lie.
        mlflow_uri: in place of the sweep's; "none" checks none.
        sweep: whose data, weights and results are checked; None leaves them out.
        address: of the Ray cluster; None starts Ray on this machine.
        answer_s: how long a node may take to answer.
    """
    here = examine_here(results, mlflow_uri, sweep)
    return [*here.findings, *examine_cluster(address, results, here.prepared, answer_s)]
