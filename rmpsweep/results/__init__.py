"""Everything that lies in a results directory. This is the only package that knows the names of its files.

``layout``      the paths of all files
``journal``     commits units and reads them back; no file is trusted that cannot be verified
``tables``      reads and writes tables, thresholds, text and JSON
``merge``       makes the tables from the units
``records``     the JSON files as values
``directory``   checks that a directory belongs to a sweep and can hold its results, and keeps it tidy
``reader``      opens a results directory for use in Python
"""

from rmpsweep.results.directory import check_directory, check_space, discard_index, make_units, remove_orphans
from rmpsweep.results.journal import Journal, LayerActivity, UnitResult, commit_unit, scan
from rmpsweep.results.layout import Layout
from rmpsweep.results.reader import Results
from rmpsweep.results.records import PlanFile, ProgressFile, RunRecord, SearchFile
from rmpsweep.results.tables import (
    ACTIVITY_SCHEMA,
    CALIBRATION_SCHEMA,
    PREDICTIONS_SCHEMA,
    SCHEMA_VERSION,
    SUMMARY_SCHEMA,
    UNIT_SCHEMA,
    digest,
    read_json,
    read_table,
    read_thresholds,
    thresholds_digest,
    write_csv,
    write_json,
    write_table,
    write_text,
    write_thresholds,
)

__all__ = [
    "ACTIVITY_SCHEMA",
    "CALIBRATION_SCHEMA",
    "PREDICTIONS_SCHEMA",
    "SCHEMA_VERSION",
    "SUMMARY_SCHEMA",
    "UNIT_SCHEMA",
    "Journal",
    "LayerActivity",
    "Layout",
    "PlanFile",
    "ProgressFile",
    "Results",
    "RunRecord",
    "SearchFile",
    "UnitResult",
    "check_directory",
    "check_space",
    "commit_unit",
    "digest",
    "discard_index",
    "make_units",
    "read_json",
    "read_table",
    "read_thresholds",
    "remove_orphans",
    "scan",
    "thresholds_digest",
    "write_csv",
    "write_json",
    "write_table",
    "write_text",
    "write_thresholds",
]
