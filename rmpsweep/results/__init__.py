"""What lies in a results directory. The only package that knows file names.

``layout`` names everything; ``tables`` reads and writes what is made of units; ``journal`` commits units and reads them
back, trusting no file that it cannot verify; ``directory`` says whether a directory is fit for a sweep.
"""

from rmpsweep.results.directory import check_directory, check_space, discard_index, make_units, remove_orphans
from rmpsweep.results.journal import Journal, LayerActivity, UnitResult, commit_unit, scan
from rmpsweep.results.layout import Layout
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
