"""The places where workers run: this process, or Ray actors. This is the only package that imports ray.

``inline``       one worker in this process
``cluster``      workers as Ray actors; ``actor`` is what each actor holds
``outcomes``     turns errors into outcomes of jobs, for both
``connection``   connects to a Ray cluster, or starts Ray on this machine
``nodes``        asks every node of a cluster a question, for `rmpsweep doctor`
``submission``   sends a command to a cluster as a Ray job, for `rmpsweep submit`
"""

from rmpsweep.workers.pools.cluster import RayPool
from rmpsweep.workers.pools.inline import InlinePool

__all__ = ["InlinePool", "RayPool"]
