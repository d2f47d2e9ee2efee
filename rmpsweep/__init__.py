"""Sweeps of converted spiking networks: accuracy against latency, on one laptop or a Ray cluster.

The names in `__all__` are the public interface for Python. Each is imported when it is first used, so that importing
rmpsweep loads neither torch nor ray nor mlflow.

    sweep = rmpsweep.load_sweep("quickstart", changes=["time_steps=[4, 8, 16]"])
    results = rmpsweep.launch(sweep, inline=True)
    results.summary.to_pandas()

Reading order:

1. ``engine``     what a converted network computes; ``engine/neuron.py`` is the specification
2. ``data``       labelled images;  ``models``: networks and their weights
3. ``sweep``      the sweep file, its trials, and the plan: trials times images, cut into units of work
4. ``results``    what lies in a results directory, and the tables made from its units
5. ``workers``    the driver that hands units to workers, what a worker does, and where workers run
6. ``stats``, ``report``, ``tracking``, ``claims``   statistics, the page, MLflow runs, and the paper's claims
7. ``pipeline``   a launch, step by step;  ``checks``: networks, machines and results examined;  ``cli``: the commands

All of them may use ``terms`` (the words of the field as types), ``errors``, ``storage`` (paths, and writing files
whole) and ``environment`` (what a run ran on and with).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rmpsweep.engine import calibrate, convert, simulate, simulate_many
    from rmpsweep.pipeline.launch import launch, plan
    from rmpsweep.results import Results
    from rmpsweep.sweep.file import load_sweep

__version__ = "0.1.0"
__all__ = [
    "Results",
    "__version__",
    "calibrate",
    "convert",
    "launch",
    "load_sweep",
    "plan",
    "simulate",
    "simulate_many",
]

_HOMES = {
    "Results": "rmpsweep.results",
    "calibrate": "rmpsweep.engine",
    "convert": "rmpsweep.engine",
    "launch": "rmpsweep.pipeline.launch",
    "load_sweep": "rmpsweep.sweep.file",
    "plan": "rmpsweep.pipeline.launch",
    "simulate": "rmpsweep.engine",
    "simulate_many": "rmpsweep.engine",
}
"""Public name -> the module that it is imported from."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
