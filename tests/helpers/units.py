"""A unit with made-up results, and unit files that are changed after they were written."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rmpsweep.results import UNIT_SCHEMA, LayerActivity, UnitResult
from rmpsweep.results.journal import _NO_CHECKSUM, _checksum
from rmpsweep.sweep.plan import Unit
from rmpsweep.terms import ANN

CONTEXT = "weights and data"
PROVENANCE = {"a": "thresholds of a", "b": "thresholds of b"}


def result_of(unit: Unit, rank: int = 0) -> UnitResult:
    """Make results of a unit with labels of three classes in turn, all predicted as 2.

    Args:
        rank: label_rank is `rank` plus the image's position.
    """
    rows = [
        {"trial_id": trial, "image_id": 7 * i, "label": i % 3, "time_steps": t, "prediction": 2, "label_rank": rank + i}
        for trial, steps in unit.work
        for t in steps
        for i in range(unit.start, unit.stop)
    ]
    activity = (
        LayerActivity("a", "input", 64, (4, 8), ((10, 20), (2**40, 0), (0, 0))),
        LayerActivity("a", "λ", 2, (4,), ((1,), (2,), (1,))),
    )
    provenance = {trial: PROVENANCE[trial] for trial, _ in unit.work if trial in PROVENANCE}
    return UnitResult(unit, CONTEXT, provenance, pa.Table.from_pylist(rows, schema=UNIT_SCHEMA), activity)


UNIT = Unit(2, 5, ((ANN, (0,)), ("a", (4, 8)), ("b", (4,))))


def rewritten(sound: bool = False, **changed: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    """Make a function that turns the bytes of a unit file into a valid Parquet file with other rows or footer entries.

    Args:
        sound: whether the checksum is made to fit the changed file.
        changed: name of a column or footer entry -> a function that maps its values to others.
    """

    def rewrite(content: bytes) -> bytes:
        table = pq.read_table(pa.BufferReader(content))
        metadata = {**pq.ParquetFile(pa.BufferReader(content)).metadata.metadata}
        for key, change in changed.items():
            if key in table.column_names:
                column = pa.array(change(table[key].to_pylist()), table.schema.field(key).type)
                table = table.set_column(table.column_names.index(key), key, column)
            else:
                metadata[f"rmpsweep.{key}".encode()] = change(metadata[f"rmpsweep.{key}".encode()])
        if sound:
            metadata[b"rmpsweep.checksum"] = _NO_CHECKSUM.encode()
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(metadata), sink)
        changed_content: bytes = sink.getvalue().to_pybytes()
        if sound:
            return changed_content.replace(_NO_CHECKSUM.encode(), _checksum(changed_content))
        return changed_content

    return rewrite
