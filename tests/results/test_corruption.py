"""Unit files of a real launch, damaged in every way that happens: found out, never merged, computed again."""

import random
import shutil

import pytest
from safetensors.torch import load_file, save_file

from rmpsweep.pipeline.look import look
from rmpsweep.pipeline.prepare import reopen
from rmpsweep.results import commit_unit
from rmpsweep.sweep.plan import pending
from tests.helpers.commands import TINY, rmpsweep
from tests.helpers.results import tables
from tests.helpers.units import rewritten

pytestmark = pytest.mark.slow
UNITS = 12
OPTIONS = ("--inline", "--mlflow", "none", "--limit", 48, "--set", "data.shard_size=4")


@pytest.fixture(scope="module")
def home(weights, tmp_path_factory):
    """A folder with the finished sweep in `r`, and that of other weights in `other`."""
    home = tmp_path_factory.mktemp("corruption")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RMPSWEEP_CACHE", str(home / "cache"))
        (home / "tiny.yaml").write_text(TINY.format(weights=weights, shard_size=16))
        rmpsweep("launch", home / "tiny.yaml", "--results", home / "r", *OPTIONS)
        tensors = {name: 1.5 * value for name, value in load_file(weights).items()}
        save_file(tensors, home / "other.safetensors")
        (home / "other.yaml").write_text(TINY.format(weights=home / "other.safetensors", shard_size=16))
        rmpsweep("launch", home / "other.yaml", "--results", home / "other", *OPTIONS)
        yield home


@pytest.fixture
def results(home, tmp_path, monkeypatch):
    monkeypatch.setenv("RMPSWEEP_CACHE", str(home / "cache"))
    shutil.copytree(home / "r", tmp_path / "r")
    return tmp_path / "r"


def units(results):
    return sorted((results / "units").glob("*.parquet"))


def bits_flipped(draw, content):
    damaged = bytearray(content)
    position = draw.randrange(len(content))
    damaged[position] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def test_every_damage_of_a_file_is_found_out_and_mended_by_computing_just_that_unit(results):
    planned = reopen(results)
    sound = look(planned)
    assert (len(sound.journal.results), sound.todo) == (UNITS, ())
    draw = random.Random(0)
    damages = [
        ("zero length", lambda content: b""),
        ("an older schema", rewritten(True, schema_version=lambda _: b"1")),
    ]
    for cut in range(20):
        damages.append((f"cut {cut}", lambda content, cut=cut: content[: len(content) * cut // 20]))
    damages += [(f"flip {flip}", lambda content: bits_flipped(draw, content)) for flip in range(200)]
    for i, (damage, change) in enumerate(damages):
        path = units(results)[i % UNITS]
        content = path.read_bytes()
        path.write_bytes(change(content))
        found = look(planned)
        assert list(found.journal.rejected) == [path.name], damage
        assert [unit.unit_id(planned.plan.context) for unit in found.todo] == [path.stem], damage
        (mended,) = [result for result in sound.journal.results if result.unit == found.todo[0]]
        commit_unit(planned.layout, mended)
        assert path.read_bytes() == content, damage
    assert pending(planned.plan, look(planned).journal.done) == []


def test_a_launch_computes_again_what_was_damaged_or_swapped_and_nothing_else(home, results):
    before = {path.name: path.read_bytes() for path in units(results)}
    stamps = {path.name: path.stat().st_mtime_ns for path in units(results)}
    first, second, third, fourth, fifth, sixth = units(results)[:6]
    others = units(home / "other")
    first.write_bytes(others[0].read_bytes())
    (results / "units" / others[1].name).write_bytes(others[1].read_bytes())
    second.write_bytes(third.read_bytes())  # another unit of the same sweep
    third.write_bytes(b"")
    fourth.write_bytes(fourth.read_bytes()[:-1])
    fifth.write_bytes(rewritten(True, schema_version=lambda _: b"1")(fifth.read_bytes()))
    sixth.unlink()
    rejected = rmpsweep("status", results)["rejected"]
    assert [rejected[path.name] for path in (others[1], first, second, third, fourth, fifth)] == [
        "made from other weights, data or engine version",
        "its contents are those of another unit",
        "its contents are those of another unit",
        "has no checksum: it is cut short or damaged, no unit file, or of an earlier version",
        "its checksum does not match its contents",
        "schema version 1, expected 2",
    ]
    for name in ("predictions", "summary", "activity"):
        (results / f"{name}.parquet").unlink()
    assert rmpsweep("launch", home / "tiny.yaml", "--results", results, *OPTIONS)["units_run"] == 6
    assert tables(results) == tables(home / "r")
    assert {name: (results / "units" / name).read_bytes() for name in before} == before
    untouched = [name for name in before if (results / "units" / name).stat().st_mtime_ns == stamps[name]]
    assert len(untouched) == UNITS - 6


def test_a_merge_without_what_was_damaged_refuses_and_a_partial_one_says_so(home, results):
    import pyarrow.parquet as pq

    path = units(results)[0]
    path.write_bytes(bits_flipped(random.Random(1), path.read_bytes()))
    rmpsweep("merge", results, expected=2)
    assert tables(results) == tables(home / "r")
    rmpsweep("merge", results, "--allow-partial")
    summary = pq.read_table(results / "summary.parquet").to_pylist()
    assert {(row["images"], row["images_planned"]) for row in summary} == {(44, 48)}
    # tables of part of the results are not taken for finished ones
    path.write_bytes((home / "r" / "units" / path.name).read_bytes())
    assert rmpsweep("launch", home / "tiny.yaml", "--results", results, *OPTIONS)["units_run"] == 0
    assert tables(results) == tables(home / "r")
