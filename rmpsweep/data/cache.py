"""The folder where derived files are kept between runs."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """$RMPSWEEP_CACHE, else $XDG_CACHE_HOME/rmpsweep, else ~/.cache/rmpsweep; this function does not create it."""
    if own := os.environ.get("RMPSWEEP_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "rmpsweep"
    return Path.home() / ".cache" / "rmpsweep"
