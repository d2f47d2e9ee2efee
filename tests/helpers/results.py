"""Reads results directories into forms that tests compare."""

from pathlib import Path

TABLES = ("predictions.parquet", "summary.parquet", "activity.parquet")


def tables(results: Path) -> dict[str, bytes]:
    """The bytes of each table, by file name."""
    return {name: (results / name).read_bytes() for name in TABLES}


def unit_files(results: Path) -> dict[str, int]:
    """File name of each unit -> when the file was last written, in nanoseconds."""
    return {path.name: path.stat().st_mtime_ns for path in (results / "units").glob("*.parquet")}
