import itertools
import random
import warnings
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from rmpsweep.errors import StorageError
from rmpsweep.results import (
    CALIBRATION_SCHEMA,
    UNIT_SCHEMA,
    LayerActivity,
    Layout,
    UnitResult,
    commit_unit,
    make_units,
    read_json,
    read_table,
    read_thresholds,
    scan,
    tables,
    thresholds_digest,
    write_json,
    write_table,
    write_thresholds,
)
from rmpsweep.results.journal import _NO_CHECKSUM, _checksum
from rmpsweep.sweep.plan import ANN, Unit

CONTEXT = "weights and data"
PROVENANCE = {"a": "thresholds of a", "b": "thresholds of b"}


def result_of(unit, rank=0):
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


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path / "new" / "results")
    make_units(layout)
    return layout


def reason(layout, content=lambda content: content, name=None):
    """Why the only unit file does not count, after its bytes were replaced or it was renamed."""
    path = commit_unit(layout, result_of(UNIT))
    path.write_bytes(content(path.read_bytes()))
    path = path.rename(path.with_name(name or path.name))
    journal = scan(layout, CONTEXT, PROVENANCE)
    assert journal.results == ()
    assert journal.done == []
    assert list(journal.rejected) == [path.name]
    return journal.rejected[path.name]


def test_a_committed_unit_is_read_back_as_it_was(layout):
    result = result_of(UNIT)
    path = commit_unit(layout, result)
    journal = scan(layout, CONTEXT, PROVENANCE)
    assert (journal.results, journal.rejected, journal.done) == ((result,), {}, [UNIT])
    assert [file.name for file in layout.units.iterdir()] == [path.name] == [f"{UNIT.unit_id(CONTEXT)}.parquet"]


def test_a_directory_without_units_is_empty_and_stays_as_it_is(tmp_path):
    layout = Layout(tmp_path / "results")
    assert scan(layout, CONTEXT, PROVENANCE).results == ()
    assert not layout.root.exists()


def test_identical_results_are_identical_bytes(tmp_path):
    result = result_of(UNIT)
    table = result.predictions
    in_pieces = pa.concat_tables([table[:1], table[1:5], table[5:]])
    other_order = dict(reversed(result.provenance.items()))
    again = replace(result, predictions=in_pieces.combine_chunks(), provenance=other_order)
    contents = set()
    for name, each in (("x", result), ("y", again), ("z", result_of(UNIT, rank=1))):
        layout = Layout(tmp_path / name)
        make_units(layout)
        contents.add(commit_unit(layout, each).read_bytes())
    assert len(contents) == 2


def test_the_first_commit_stays_and_one_with_other_results_is_dropped_with_a_warning(layout):
    first = commit_unit(layout, result_of(UNIT)).read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        commit_unit(layout, result_of(UNIT))
    with pytest.warns(UserWarning, match=r"\.parquet: another attempt at this unit committed other results first"):
        path = commit_unit(layout, result_of(UNIT, rank=1))
    assert path.read_bytes() == first


def test_a_commit_replaces_a_file_that_is_damaged_or_of_other_thresholds(layout):
    path = commit_unit(layout, replace(result_of(UNIT, rank=1), provenance={**PROVENANCE, "b": "others"}))
    sound = result_of(UNIT)
    for damage in (lambda content: content, lambda content: content[:-1], lambda content: b""):
        path.write_bytes(damage(path.read_bytes()))
        commit_unit(layout, sound)
        assert scan(layout, CONTEXT, PROVENANCE).results == (sound,)


def test_a_commit_makes_no_folder(layout):
    layout.units.rmdir()
    with pytest.raises(StorageError, match=r"units/.*\.parquet: cannot be written .*No such file"):
        commit_unit(layout, result_of(UNIT), patience_s=0.5)
    assert not layout.units.exists()


def rewritten(sound=False, **changed):
    """The same rows and footer in a good Parquet file, with columns or footer entries replaced; sound: with a checksum
    that fits them."""

    def rewrite(content):
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
        content = sink.getvalue().to_pybytes()
        return content.replace(_NO_CHECKSUM.encode(), _checksum(content)) if sound else content

    return rewrite


def foreign(content):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"x": [1, 2]}), sink)
    return sink.getvalue().to_pybytes()


CHECKSUM = "its checksum does not match its contents"
NO_CHECKSUM = "has no checksum: it is cut short or damaged, no unit file, or of an earlier version"
DAMAGES = {
    "empty": (lambda content: b"", NO_CHECKSUM),
    "zeros": (lambda content: bytes(len(content)), NO_CHECKSUM),
    "text": (lambda content: b"PAR1 no PAR1", NO_CHECKSUM),
    "twice": (lambda content: content + content, NO_CHECKSUM),
    "another parquet": (foreign, NO_CHECKSUM),
    "another schema version": (rewritten(True, schema_version=lambda _: b"1"), "schema version 1, expected 2"),
    "written again": (rewritten(), CHECKSUM),
    "one prediction": (rewritten(prediction=lambda values: [3, *values[1:]]), CHECKSUM),
    "one rank": (rewritten(label_rank=lambda values: [*values[:-1], 0]), CHECKSUM),
    "one trial": (rewritten(trial_id=lambda values: ["b", *values[1:]]), CHECKSUM),
    "two trials exchanged": (rewritten(trial_id=lambda v: [{"a": "b", "b": "a"}.get(x, x) for x in v]), CHECKSUM),
    "two rows exchanged": (rewritten(image_id=lambda values: [values[1], values[0], *values[2:]]), CHECKSUM),
    "thresholds claimed": (rewritten(unit=lambda footer: footer.replace(b"of a", b"of c")), CHECKSUM),
    "activity": (rewritten(unit=lambda footer: footer.replace(b"[10,20]", b"[10,21]")), CHECKSUM),
}


@pytest.mark.parametrize(("damage", "expected"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_unit_file_never_counts(layout, damage, expected):
    found = reason(layout, damage)
    assert found.strip()
    assert expected in found


def test_a_unit_file_of_any_shorter_length_never_counts(layout):
    path = commit_unit(layout, result_of(UNIT))
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert scan(layout, CONTEXT, PROVENANCE).results == ()


def test_a_flipped_bit_anywhere_is_found_out(layout):
    path = commit_unit(layout, result_of(UNIT))
    whole = path.read_bytes()
    draw = random.Random(0)
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        journal = scan(layout, CONTEXT, PROVENANCE)
        assert (journal.results, len(journal.rejected)) == ((), 1), f"byte {position}"


def test_a_renamed_file_never_counts(layout):
    assert reason(layout, name="0123456789abcdef.parquet") == "its contents are those of another unit"


@pytest.mark.parametrize(
    ("context", "provenance", "expected"),
    [
        ("other weights", PROVENANCE, "made from other weights, data or engine version"),
        (CONTEXT, {**PROVENANCE, "b": "others"}, "made with other thresholds"),
    ],
)
def test_a_stale_file_never_counts(layout, context, provenance, expected):
    path = commit_unit(layout, result_of(UNIT))
    journal = scan(layout, context, provenance)
    assert (journal.results, dict(journal.rejected)) == ((), {path.name: expected})


def test_a_file_with_trials_no_longer_planned_counts(layout):
    commit_unit(layout, result_of(UNIT))
    assert scan(layout, CONTEXT, {"a": PROVENANCE["a"]}).done == [UNIT]


def test_a_file_with_fewer_rows_than_its_unit_never_counts(layout):
    whole = result_of(UNIT)
    path = commit_unit(layout, replace(whole, predictions=whole.predictions[:-1]))
    assert dict(scan(layout, CONTEXT, PROVENANCE).rejected) == {path.name: "holds 11 rows, expected 12"}


def test_a_file_without_a_column_never_counts(layout):
    whole = result_of(UNIT)
    path = commit_unit(layout, replace(whole, predictions=whole.predictions.drop_columns("label")))
    (reason,) = scan(layout, CONTEXT, PROVENANCE).rejected.values()
    assert reason.startswith("columns trial_id, image_id, time_steps,"), path


def test_files_in_the_making_are_ignored(layout):
    path = commit_unit(layout, result_of(UNIT))
    path.rename(path.with_name(f".{path.name}.0f0f.tmp"))
    journal = scan(layout, CONTEXT, PROVENANCE)
    assert (journal.results, dict(journal.rejected)) == ((), {})


def test_of_overlapping_units_one_counts(layout):
    small, large, apart = (Unit(*edges, (("a", (4, 8)),)) for edges in ((0, 3), (2, 6), (6, 8)))
    for unit in (small, large, apart):
        commit_unit(layout, result_of(unit))
    journal = scan(layout, CONTEXT, PROVENANCE)
    assert set(journal.done) == {large, apart}
    assert journal.rejected == {f"{small.unit_id(CONTEXT)}.parquet": "its cells are held by another unit file"}


def test_a_damaged_file_takes_nothing_from_a_sound_one(layout):
    small, large = Unit(0, 3, (("a", (4,)),)), Unit(0, 6, (("a", (4,)),))
    commit_unit(layout, result_of(small))
    commit_unit(layout, result_of(large)).write_bytes(b"")
    assert scan(layout, CONTEXT, PROVENANCE).done == [small]


ROWS = pa.table({"layer": ["a", "a", "b"], "channel": [0, 1, -1], "threshold": [0.1, 0.2, 3.0]})


def test_a_table_is_written_once_and_left_untouched_when_it_would_be_the_same(tmp_path):
    path = tmp_path / "new" / "t.parquet"
    write_table(path, ROWS, CALIBRATION_SCHEMA)
    before = path.stat()
    write_table(path, ROWS, CALIBRATION_SCHEMA)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    write_table(path, ROWS[:2], CALIBRATION_SCHEMA)
    assert read_table(path, CALIBRATION_SCHEMA) == ROWS[:2].cast(CALIBRATION_SCHEMA)


def test_the_rows_wanted_are_read_of_every_row_group(tmp_path, monkeypatch):
    monkeypatch.setattr("rmpsweep.results.tables.ROW_GROUP", 2)
    write_table(tmp_path / "t.parquet", ROWS, CALIBRATION_SCHEMA)
    rows = read_table(tmp_path / "t.parquet", CALIBRATION_SCHEMA, pc.field("threshold") > 0.15)
    assert rows == ROWS[1:].cast(CALIBRATION_SCHEMA)
    assert read_table(tmp_path / "t.parquet", CALIBRATION_SCHEMA, pc.field("threshold") > 9).num_rows == 0


def test_json_is_left_untouched_when_it_would_be_the_same(tmp_path):
    path = tmp_path / "new" / "x.json"
    assert read_json(path) is None
    write_json(path, {"b": [1.5, None], "a": "λ"})
    before = path.stat()
    write_json(path, {"a": "λ", "b": [1.5, None]})
    assert (read_json(path), path.stat().st_ino) == ({"a": "λ", "b": [1.5, None]}, before.st_ino)
    path.write_text("{")
    with pytest.raises(StorageError, match=r"x\.json: cannot be read"):
        read_json(path)


THRESHOLDS = {
    "layer": {"input": [1.0], "conv1": [0.1 + 0.2], "a.b": [5e-324], "fc": [1.7976931348623157e308]},
    "channel": {"input": [3.5], "conv1": [1 / 3, 0.1, 2.0**-1074], "one channel": [0.7], "fc": [3.0] * 11},
}


@pytest.mark.parametrize("thresholds", THRESHOLDS.values(), ids=THRESHOLDS)
def test_thresholds_read_back_bit_for_bit_in_order(tmp_path, thresholds):
    write_thresholds(tmp_path / "t.parquet", thresholds)
    found = read_thresholds(tmp_path / "t.parquet")
    assert [(layer, [x.hex() for x in values]) for layer, values in found.items()] == [
        (layer, [x.hex() for x in values]) for layer, values in thresholds.items()
    ]
    assert thresholds_digest(found) == thresholds_digest(thresholds)


def test_the_digest_of_thresholds_depends_on_every_bit_and_name_and_not_on_the_order_of_layers():
    base = THRESHOLDS["channel"]
    others = [{**base, "fc": [3.0] * 10}, {**base, "input": [3.5000000000000004]}, {**base, "conv1": [0.1, 1 / 3, 2.0]}]
    assert len({thresholds_digest(each) for each in [base, *others]}) == 4
    assert thresholds_digest(dict(reversed(base.items()))) == thresholds_digest(base)


def test_a_table_that_is_missing_damaged_or_of_another_version_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    with pytest.raises(StorageError, match=r"t\.parquet: cannot be read"):
        read_table(path, CALIBRATION_SCHEMA)
    write_table(path, ROWS, CALIBRATION_SCHEMA)
    with pytest.raises(StorageError, match=r"t\.parquet: "):
        read_table(path, UNIT_SCHEMA)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StorageError, match=r"t\.parquet: cannot be read"):
        read_table(path, CALIBRATION_SCHEMA)
    monkeypatch.setattr(tables, "SCHEMA_VERSION", "0")
    write_table(path, ROWS, CALIBRATION_SCHEMA)
    monkeypatch.undo()
    with pytest.raises(StorageError, match="schema version 0, expected 1"):
        read_table(path, CALIBRATION_SCHEMA)


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    below_a_file = Layout(tmp_path / "file" / "results")
    for write in (
        lambda: commit_unit(below_a_file, result_of(UNIT)),
        lambda: write_table(below_a_file.summary, ROWS, CALIBRATION_SCHEMA),
        lambda: write_json(below_a_file.plan, {}),
    ):
        with pytest.raises(StorageError, match=r"file/results/.*cannot be written"):
            write()


def test_how_a_table_is_cut_into_chunks_does_not_show_in_its_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROW_GROUP", 300_000)
    whole = pa.table({"x": np.random.RandomState(0).randint(0, 2**62, 500_000)})  # pages of 1 MB: several a row group
    cuts = [0, 700, 701, 290_000, 420_011, 500_000]
    pieces = pa.concat_tables([whole[start:stop] for start, stop in itertools.pairwise(cuts)])
    write_table(tmp_path / "whole", whole, whole.schema)
    write_table(tmp_path / "pieces", pieces, whole.schema)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "pieces").read_bytes()
    file = pq.ParquetFile(tmp_path / "whole").metadata
    assert [file.row_group(i).num_rows for i in range(file.num_row_groups)] == [300_000, 200_000]
