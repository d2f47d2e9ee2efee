"""Check that a results directory belongs to a sweep, can be written and has space, and keep it tidy."""

import contextlib
import operator
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from rmpsweep.data.transforms import WEIGHTS
from rmpsweep.errors import ResultsError, StorageError
from rmpsweep.results.layout import Layout
from rmpsweep.storage import Location, ObjectPath, remove_temporaries
from rmpsweep.sweep.file import parse_sweep
from rmpsweep.sweep.plan import Plan, Unit
from rmpsweep.sweep.schema import Sweep

CELL_BYTES, STEP_BYTES, TRIAL_BYTES, FIXED_BYTES = 8, 4 << 10, 64 << 10, 16 << 20
"""Bytes that results take, rounded up from real sweeps (docs/decisions/0012). CELL_BYTES: a cell in a unit file, in
predictions.parquet or in MLflow's copy of it. STEP_BYTES: the activity of a trial at one T in a unit file.
TRIAL_BYTES: a trial in the other tables, the report and MLflow's database. FIXED_BYTES: everything else."""


def check_directory(layout: Layout, sweep: Sweep) -> None:
    """Check that a directory holds this sweep, or nothing but what a launch makes first and files with a leading dot.

    A folder must be writable, or its nearest existing parent if it does not exist yet. In an object store the bucket
    must exist; whether it can be written is not checked here.

    Raises:
        ResultsError: the directory holds another sweep or something else.
        SweepError: its sweep.yaml is not a sweep of this version.
        StorageError: the directory cannot be reached or written.
    """
    root = layout.root
    if isinstance(root, ObjectPath):
        root.check_bucket()
    else:
        existing = _existing(root)
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise StorageError(f"{root}: {existing} is not a writable directory; name another with --results")
    early = {
        path.name for path in (layout.logs, layout.index, layout.progress, layout.cancel)
    }  # made before sweep.yaml is
    if not root.is_dir() or all(path.name.startswith(".") or path.name in early for path in root.iterdir()):
        return
    if not layout.sweep.is_file():
        raise ResultsError(f"{root}: is not empty and holds no sweep; name another with --results")
    other = parse_sweep(layout.sweep.read_text(encoding="utf-8"), str(layout.sweep))
    for key in ("name", "network.label", "data.source", "data.split", "data.transform"):
        ours, theirs = map(operator.attrgetter(key), (sweep, other))
        if ours != theirs and ours != WEIGHTS:  # "weights" becomes a transform only in the resolved sweep
            raise ResultsError(
                f"{root}: holds the results of another sweep ({key.removesuffix('.label')} {theirs!r}, here {ours!r}); "
                "name another with --results"
            )


def check_space(root: Location, plan: Plan, todo: Sequence[Unit]) -> None:
    """Check that the disk has room for the missing results. Object stores are assumed to have room.

    Raises:
        StorageError: less space is free than unit files, tables, report and MLflow's copies will take.
    """
    if isinstance(root, ObjectPath):
        return
    existing = _existing(root)
    free = shutil.disk_usage(existing).free
    needed = needed_bytes(plan, todo)
    if needed > free:
        cells = sum(unit.num_cells for unit in todo)
        raise StorageError(
            f"{root}: the {cells:,} missing results take about {_megabytes(needed)}, and {existing} has "
            f"{_megabytes(free)} free; free space, lower --limit or the grid, or name another folder with --results"
        )


def needed_bytes(plan: Plan, todo: Sequence[Unit]) -> int:
    """Estimate from above the bytes of the missing unit files and of everything that is made from all unit files."""
    cells = sum(unit.num_cells for unit in todo) + 2 * plan.num_cells
    steps = sum(len(steps) for unit in todo for _, steps in unit.work)
    return CELL_BYTES * cells + STEP_BYTES * steps + TRIAL_BYTES * len(plan.trials) + FIXED_BYTES


def make_units(layout: Layout) -> None:
    """Make the folder that units are committed to; commits never make it. Raises StorageError."""
    try:
        if isinstance(layout.units, Path):
            layout.units.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{layout.units}: cannot be made ({error}); name another folder with --results") from error


def remove_orphans(layout: Layout, min_age_s: float = 0.0) -> None:
    """Remove temporary files older than `min_age_s`, whose writers have died. Unit files are never removed."""
    for folder in (layout.root, layout.units, layout.calibration, layout.index):
        remove_temporaries(folder, min_age_s)


def discard_index(layout: Layout) -> None:
    """Remove the index of the images if nothing has been launched in the directory. The cache has the index too."""
    with contextlib.suppress(OSError, StorageError):
        if layout.sweep.is_file():
            return
        for path in layout.index.glob("*"):
            path.unlink()
        if isinstance(layout.index, Path):
            layout.index.rmdir()


def _existing(root: Path) -> Path:
    return next(path for path in (root, *root.absolute().parents) if path.exists())


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
