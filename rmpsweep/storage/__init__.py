"""Storage of results in folders and object stores, and how files get there whole.

``location`` holds paths in either. ``writing`` puts each file under its name once and whole, and waits while storage is
away. ``lease`` keeps two launches from working on one results directory at the same time.
"""

from rmpsweep.storage.lease import LOCK, hold_lease
from rmpsweep.storage.location import Location, ObjectPath, local_copies, locate
from rmpsweep.storage.writing import PATIENCE_S, remove_temporaries, write_atomic, write_first

__all__ = [
    "LOCK",
    "PATIENCE_S",
    "Location",
    "ObjectPath",
    "hold_lease",
    "local_copies",
    "locate",
    "remove_temporaries",
    "write_atomic",
    "write_first",
]
