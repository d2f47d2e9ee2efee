"""Results in object stores: real servers of S3 and Google Cloud Storage on the loopback, through pyarrow.fs."""

import threading
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rmpsweep.errors import StorageError
from rmpsweep.results import Layout, commit_unit, scan
from rmpsweep.storage import LOCK, hold_lease, local_copies, locate, write_atomic
from tests.helpers import servers
from tests.helpers.commands import rmpsweep, run_here
from tests.helpers.results import TABLES
from tests.helpers.units import CONTEXT, PROVENANCE, UNIT, result_of

pytestmark = pytest.mark.usefixtures("environment")
OPTIONS = {"s3": "scheme=http&endpoint_override=127.0.0.1:{}", "gs": "scheme=http&endpoint_override=127.0.0.1:{}"}


@pytest.fixture(scope="module")
def ports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("servers")
    with servers.s3(folder) as s3, servers.gcs(folder) as gs:
        yield {"s3": s3, "gs": gs}


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    for name, value in servers.AWS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def bucket(ports, tmp_path):
    """A place in the S3 bucket for this test alone."""
    return locate(uri("s3", ports["s3"], tmp_path.name))


def uri(scheme, port, folder, more=""):
    owner = "anonymous@" if scheme == "gs" else ""
    return f"{scheme}://{owner}bucket/{folder}?{OPTIONS[scheme].format(port)}{more}"


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_an_object_is_read_listed_and_deleted_as_a_file_is(ports, tmp_path, scheme):
    store = locate(uri(scheme, ports[scheme], tmp_path.name))
    for root in (store, tmp_path / "folder"):
        assert (root.is_dir(), list(root.glob("*"))) == (False, [])
        write_atomic(root / "a.json", b"old")
        write_atomic(root / "a.json", "λ".encode())
        write_atomic(root / "units" / "b.parquet", bytes(7_000_000))
        write_atomic(root / "units" / "c.txt", b"")
        assert root.is_dir()
        assert (root / "units").is_dir()
        assert [(root / name).is_file() for name in ("a.json", "b.json", "units")] == [True, False, False]
        assert (root / "a.json").read_text(encoding="utf-8") == "λ"
        assert sorted(path.name for path in (root / "units").iterdir()) == ["b.parquet", "c.txt"]
        (found,) = (root / "units").glob("*.parquet")
        assert (found, found.read_bytes()) == (root / "units" / "b.parquet", bytes(7_000_000))
        with local_copies([root / "a.json", found]) as copies:
            assert [(path.name, path.stat().st_size) for path in copies] == [("a.json", 2), ("b.parquet", 7_000_000)]
        found.unlink()
        found.unlink(missing_ok=True)
        with pytest.raises(FileNotFoundError):
            found.unlink()
        with pytest.raises(FileNotFoundError):
            found.read_bytes()
    store.check_bucket()


def check_equal(root, folder):
    """Same units, tables and settings, byte for byte, and nothing left over."""
    for name in (*TABLES, "plan.json", "sweep.yaml", "calibration.csv"):
        assert (root / name).read_bytes() == (folder / name).read_bytes(), name
    units = {path.name.partition(".")[0]: path.read_bytes() for path in (root / "units").glob("*.parquet")}
    assert units == {path.stem: path.read_bytes() for path in (folder / "units").iterdir()}
    assert not (root / LOCK).is_file()


def test_a_sweep_in_google_cloud_storage_is_the_same_bytes_as_in_a_folder(ports, write_sweep, tmp_path, finished):
    place = uri("gs", ports["gs"], tmp_path.name)
    command = ("launch", write_sweep(), "--results", place, "--limit", 40, "--inline", "--mlflow", "none")
    assert rmpsweep(*command)["units_run"] == 3
    assert rmpsweep(*command)["units_run"] == 0
    check_equal(locate(place), finished)


def test_a_sweep_in_s3_is_the_same_bytes_as_in_a_folder_and_every_command_works(ports, write_sweep, tmp_path, finished):
    from mlflow import MlflowClient

    place = uri("s3", ports["s3"], tmp_path.name)
    code, _, errors = run_here(["launch", str(write_sweep()), "--results", place, "--inline"])
    assert (code, "cannot hold MLflow's database; name one with --mlflow" in errors) == (2, True), errors
    tracking = f"sqlite:///{tmp_path / 'mlflow.db'}"
    command = ("launch", write_sweep(), "--results", place, "--limit", 40, "--inline", "--mlflow", tracking)
    document = rmpsweep(*command)
    assert (document["units_run"], document["results"]) == (3, place)
    root = locate(place)
    check_equal(root, finished)

    client = MlflowClient(tracking)
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    logged = client.download_artifacts(parent.info.run_id, "predictions.parquet")
    assert Path(logged).read_bytes() == (finished / "predictions.parquet").read_bytes()

    known = next((root / "units").glob("*.parquet"))
    (root / "units" / f"{known.name.partition('.')[0]}.0123.parquet").write_bytes(known.read_bytes()[:-1])
    assert rmpsweep(*command)["units_run"] == 0
    status = rmpsweep("status", place)
    assert (status["units_left"], list(status["rejected"].values())) == (0, [CUT])
    (root / "summary.parquet").unlink()
    assert rmpsweep("merge", place)["predictions"] == 40 * 11
    assert rmpsweep("report", place)["report"] == str(root / "report.html")
    assert rmpsweep("log", place, "--mlflow", tracking)["runs_created"] == 0
    written = rmpsweep("claims", "steps", place)["files"]
    assert [locate(each).is_file() for each in written] == [True] * 3


CUT = "its checksum does not match its contents"


@pytest.mark.ray
@pytest.mark.soak
def test_ray_actors_commit_to_a_store(ports, write_sweep, tmp_path, finished, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{ports['s3']}")
    place = f"s3://bucket/{tmp_path.name}"
    rmpsweep("launch", write_sweep(), "--results", place, "--limit", 40, "--actors", 2, "--mlflow", "none")
    for name in TABLES:
        assert (locate(place) / name).read_bytes() == (finished / name).read_bytes()


def test_every_attempt_has_a_file_and_one_of_equal_ones_counts(bucket):
    layout = Layout(bucket)
    for _ in range(3):
        commit_unit(layout, result_of(UNIT))
    assert len(list(layout.units.glob(f"{UNIT.unit_id(CONTEXT)}.*.parquet"))) == 3
    journal = scan(layout, CONTEXT, PROVENANCE)
    assert (journal.results, journal.rejected, journal.conflicts) == ((result_of(UNIT),), {}, ())


def test_attempts_that_differ_are_named_and_stale_or_damaged_ones_do_not_matter(bucket):
    layout = Layout(bucket)
    stale = replace(result_of(UNIT, rank=2), provenance={**PROVENANCE, "b": "others"})
    commit_unit(layout, stale)
    damaged = commit_unit(layout, result_of(UNIT, rank=3))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    first, second = sorted(commit_unit(layout, result_of(UNIT, rank=rank)).name for rank in (0, 1))
    journal = scan(layout, CONTEXT, PROVENANCE)
    assert len(journal.results) == 1
    assert sorted(journal.rejected.values()) == [
        CUT,
        f"its results differ from those of {first}, another attempt at the same unit",
        "made with other thresholds",
    ]
    assert journal.conflicts == (f"{second}: {journal.rejected[second]}",)


def test_a_merge_refuses_attempts_that_differ(ports, write_sweep, tmp_path):
    place = uri("s3", ports["s3"], tmp_path.name)
    command = ("launch", write_sweep(), "--results", place, "--inline", "--limit", 20, "--mlflow", "none")
    rmpsweep(*command)
    root = locate(place)
    known = next((root / "units").glob("*.parquet"))
    table = pq.read_table(pa.BufferReader(known.read_bytes()))
    from rmpsweep.results.journal import _decode

    other = _decode(known.read_bytes())
    ranks = pa.array([rank + 1 for rank in table["label_rank"].to_pylist()], pa.int16())
    changed = other.predictions.set_column(5, "label_rank", ranks)
    second = commit_unit(Layout(root), replace(other, predictions=changed))
    code, _, errors = run_here(["merge", place])
    assert code == 2
    for part in (known.name, second.name, "differ", "Delete one of each pair"):
        assert part in errors
    second.unlink()
    rmpsweep(*command)


@pytest.mark.parametrize(
    ("place", "code", "parts"),
    [
        ("s3://nowhere/x?{}", 4, ["s3://nowhere/x", "no such bucket", "make it, or name another place"]),
        ("s3://bucket/x?{}&flavour=sweet", 4, ["s3://bucket/", "cannot be reached", "'flavour'"]),
        ("ftp://bucket/x", 2, ["results: got 'ftp://bucket/x', expected a folder, s3://bucket/folder or gs://bucket"]),
    ],
)
def test_a_place_that_cannot_be_is_refused(ports, write_sweep, place, code, parts):
    place = place.format(OPTIONS["s3"].format(ports["s3"]))
    found, _, errors = run_here(["launch", str(write_sweep()), "--results", place, "--inline", "--mlflow", "none"])
    assert (found, [part for part in parts if part not in errors]) == (code, []), errors


def test_a_foreign_folder_is_refused(ports, write_sweep, tmp_path):
    place = uri("s3", ports["s3"], tmp_path.name)
    (locate(place) / "thesis.tex").write_bytes(b"years of work")
    code, _, errors = run_here(["launch", str(write_sweep()), "--results", place, "--inline", "--mlflow", "none"])
    assert (code, "is not empty and holds no sweep" in errors) == (2, True), errors


@pytest.mark.slow
def test_a_store_that_is_not_there_is_told_within_its_deadline(write_sweep):
    place = uri("s3", servers.free_port(), "x")
    began = time.monotonic()
    code, _, errors = run_here(["launch", str(write_sweep()), "--results", place, "--inline", "--mlflow", "none"])
    assert (code, "cannot be reached (" in errors, "check address, network and credentials" in errors) == (
        4,
        True,
        True,
    )
    assert time.monotonic() - began < 20


def test_a_commit_waits_for_a_store_that_goes_and_comes_back(ports, tmp_path):
    wire = servers.Wire(ports["s3"])
    layout = Layout(locate(uri("s3", wire.port, tmp_path.name)))
    commit_unit(layout, result_of(UNIT))
    wire.cut()
    threading.Timer(3, wire.mend).start()
    commit_unit(layout, result_of(UNIT), patience_s=60)
    assert scan(layout, CONTEXT, PROVENANCE).done == [UNIT]
    wire.cut()
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"units/.* cannot be written .*; see that the storage can be reached"):
        commit_unit(layout, result_of(UNIT), patience_s=1)
    assert time.monotonic() - began < 15


def test_a_write_that_breaks_off_makes_no_object_and_leaves_the_old_one(ports, tmp_path):
    wire = servers.Wire(ports["s3"])
    path = locate(uri("s3", wire.port, tmp_path.name)) / "large"
    path.write_bytes(b"old")
    wire.cut_after(15_000_000)
    with pytest.raises(StorageError, match="cannot be written"):
        write_atomic(path, bytes(30_000_000), patience_s=0)
    wire.mend()
    assert path.read_bytes() == b"old"
    write_atomic(path, bytes(30_000_000))
    assert path.read_bytes() == bytes(30_000_000)


LEASE = import_module("rmpsweep.storage.lease")


def test_the_lease_of_a_store_is_waited_for_and_taken_over_from_the_dead(bucket, monkeypatch):
    for name, seconds in (("POLL_S", 0.05), ("BEAT_S", 0.2), ("STALE_S", 1.5), ("SETTLE_S", 0.1)):
        monkeypatch.setattr(LEASE, name, seconds)
    lock = bucket / LOCK
    told, order = [], []

    def second():
        with hold_lease(bucket, told.append):
            order.append("second")

    waiter = threading.Thread(target=second)
    with hold_lease(bucket, print):
        waiter.start()
        time.sleep(2.5)  # longer than STALE_S: a beating lease is not taken over
        order.append("first")
    waiter.join()
    assert (order, lock.is_file()) == (["first", "second"], False)
    (line,) = told
    assert line.startswith(f"{bucket}: process "), line
    assert line.endswith("is at work here; waiting until it ends, or gives no sign of life for 2 s"), line

    lock.write_bytes(b"process 1 on a node that died, since yesterday, (0123 7)")
    began = time.monotonic()
    with hold_lease(bucket, told.append):
        assert 1.4 < time.monotonic() - began < 5
    assert "process 1 on a node that died" in told[1]
    assert not lock.is_file()


def test_launches_that_take_the_lease_at_the_same_time_run_one_after_another(bucket, monkeypatch):
    for name, seconds in (("POLL_S", 0.05), ("SETTLE_S", 0.3)):
        monkeypatch.setattr(LEASE, name, seconds)
    inside, most, barrier = [], [], threading.Barrier(3)

    def one():
        barrier.wait()
        with hold_lease(bucket, lambda line: None):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.3)
            inside.pop()

    threads = [threading.Thread(target=one) for _ in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert most == [1, 1, 1]
