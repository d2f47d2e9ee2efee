"""Where workers run: in this process, or as Ray actors. The only package that imports ray."""

from rmpsweep.workers.pools.cluster import RayPool
from rmpsweep.workers.pools.inline import InlinePool

__all__ = ["InlinePool", "RayPool"]
