"""Images decoded while those before them are simulated: the same results however it is done, nothing left over."""

import contextlib
import json
import threading
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rmpsweep.data import ImageSplit, Transform, image_order, open_split, prefetch
from rmpsweep.data.decoded import DecodedCache
from rmpsweep.data.figures import InputFigures
from rmpsweep.data.prefetch import Prefetch
from rmpsweep.errors import DataError
from rmpsweep.pipeline.compute import calibrate, limits_of, open_pool, save
from rmpsweep.pipeline.look import look
from rmpsweep.pipeline.place import Place
from rmpsweep.pipeline.prepare import prepare
from rmpsweep.sweep.file import load_sweep
from rmpsweep.sweep.plan import Unit
from rmpsweep.terms import ANN
from rmpsweep.workers.driver import Driver
from rmpsweep.workers.jobs import CalibrationJob, EvaluationJob
from rmpsweep.workers.worker import Worker, WorkerSpec
from tests.helpers import photographs
from tests.helpers.commands import rmpsweep, run_here

pytestmark = pytest.mark.usefixtures("environment")
UNIT = range(3, 43)
"""It begins and ends within a block."""


class CountingSplit(ImageSplit):
    """100 images of one pixel that is their number; counts those whose decoding has begun, after `pause_s` each."""

    def __init__(self, pause_s: float = 0.0) -> None:
        super().__init__(
            "counting",
            num_images=100,
            num_classes=None,
            max_label=99,
            stored_shape=(1, 1, 1),
            content="",
            transform=Transform(),
        )
        self.pause_s, self.begun, self.lock = pause_s, 0, threading.Lock()

    def _read(self, ids):
        with self.lock:
            self.begun += len(ids)
        time.sleep(self.pause_s * len(ids))
        return ids.astype(np.uint8).reshape(-1, 1, 1, 1), ids


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(prefetch, "BLOCK", 16)


def decoding_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def read(split, unit, size, **options):
    """All chunks of a unit, and the figures."""
    figures = InputFigures()
    with contextlib.closing(Prefetch(split, 2, **options).chunks(unit.start, unit.stop, size, figures)) as chunks:
        return list(chunks), figures


@pytest.mark.parametrize("unit", [range(0, 100), range(3, 43), range(17, 18), range(15, 33)])
@pytest.mark.parametrize("size", [1, 16, 20, 1000])
def test_every_position_comes_once_and_in_order(unit, size):
    split = CountingSplit()
    chunks, figures = read(split, unit, size)
    ids = image_order(100)[unit.start : unit.stop]
    assert np.concatenate([chunk.ids for chunk in chunks]).tolist() == ids.tolist()
    assert torch.equal(torch.cat([chunk.labels for chunk in chunks]), torch.from_numpy(ids))
    assert torch.equal(torch.cat([chunk.images for chunk in chunks]), split.load(ids)[0])
    assert all(len(chunk.ids) <= -(-size // prefetch.BLOCK) * prefetch.BLOCK for chunk in chunks)
    assert (figures.images_decoded, figures.images_cached) == (len(unit), 0)


@pytest.mark.parametrize(("threads", "size"), [(1, 1), (1, 64), (2, 16)])
def test_no_more_is_decoded_ahead_than_one_chunk_or_two_blocks_for_every_thread(threads, size):
    split, taken = CountingSplit(), 0
    most = max(2 * threads, size // prefetch.BLOCK) * prefetch.BLOCK
    with contextlib.closing(Prefetch(split, threads).chunks(0, 100, size, InputFigures())) as chunks:
        for chunk in chunks:
            taken += len(chunk.ids)
            expected = min(100, taken + most)
            deadline = time.monotonic() + 30
            while split.begun < expected:  # the next ones are decoded although nobody asks for them yet
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(0.02)
            assert split.begun == expected
    assert taken == 100


def test_a_reader_that_stops_early_leaves_no_thread():
    split = CountingSplit()
    with contextlib.closing(Prefetch(split, 2).chunks(0, 100, 16, InputFigures())) as chunks:
        next(chunks)
        assert decoding_threads()
    assert not decoding_threads()
    assert split.begun < 100


@pytest.mark.slow
def test_waiting_is_told_from_working():
    _, slow = read(CountingSplit(pause_s=0.002), range(100), 16)
    assert slow.wait_fraction > 0.9
    assert slow.wait_s > slow.decode_s / 4
    figures = InputFigures()
    with contextlib.closing(Prefetch(CountingSplit(pause_s=0.001), 2).chunks(0, 100, 16, figures)) as chunks:
        for _ in chunks:
            time.sleep(0.2)
    assert figures.wait_fraction < 0.3
    assert figures.decode_s > figures.wait_s


def test_every_block_is_told_while_the_engine_waits():
    told = []
    read(CountingSplit(), range(3, 43), 1000, on_block=lambda: told.append(threading.current_thread().name))
    assert len(told) == 3
    assert threading.current_thread().name not in told


# Units of a real worker, on real JPEGs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    photographs.write_sweep(folder)
    return folder


def make_worker(folder: Path, results: Path) -> tuple[Worker, EvaluationJob]:
    """A worker that is set up, and a unit: three groups of time steps, the ANN among them."""
    prepared = prepare(load_sweep(str(folder / "photographs.yaml")), results)
    facts = prepared.plan.facts
    results.mkdir()
    save(prepared, look(prepared))
    worker = Worker(
        WorkerSpec(
            prepared.sweep,
            prepared.weights.path,
            results,
            facts.data_fingerprint,
            facts.calibration_fingerprint,
            device="cpu",
        )
    )
    worker.setup()
    trials = {}
    for trial in prepared.plan.trials:
        found = worker.run(CalibrationJob(trial.trial_id, trial.setting, tuple(range(12))))
        trials[trial.trial_id] = (trial.setting, found.value)
    steps = [(4,), (4, 12), (4, 12), (4, 12), (4, 12)]
    work = ((ANN, (0,)), *((trial, each) for trial, each in zip(trials, steps[: len(trials)], strict=True)))
    unit = Unit(UNIT.start, UNIT.stop, work)
    return worker, EvaluationJob("unit", unit, prepared.plan.context, trials)


def run(worker: Worker, job: EvaluationJob) -> tuple[bytes, InputFigures]:
    """The bytes of the unit's file, which is removed, and how images came in."""
    report = worker.run(job)
    assert not decoding_threads()
    (path,) = (worker.spec.results / "units").glob("*.parquet")
    content = path.read_bytes()
    path.unlink()
    return content, report.input


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """The unit's file, its images loaded at once by one thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RMPSWEEP_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(prefetch, "BLOCK", 1000)
        worker, job = make_worker(folder, tmp_path_factory.mktemp("whole") / "results")
        worker.images = replace(worker.images, threads=1)
        return run(worker, job)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "block", "threads", "rows"),
    [(1, 1, 1, None), (1, 1, 2, None), (7, 7, 2, None), (7, 1, 2, None), (1000, 16, 2, None), (16, 16, 2, 5)],
)
def test_a_unit_is_the_same_bytes_however_its_images_come_in(
    folder, tmp_path, monkeypatch, whole, size, block, threads, rows
):
    monkeypatch.setattr(prefetch, "BLOCK", block)
    monkeypatch.setattr(Worker, "_chunk_size", lambda *_: size)
    worker, job = make_worker(folder, tmp_path / "results")
    worker.images = replace(worker.images, threads=threads)
    content, figures = run(worker, replace(job, batch_size=rows))
    assert content == whole
    assert figures.images_decoded == len(UNIT)


@pytest.mark.slow
def test_a_network_that_runs_node_by_node_gives_the_same_bytes_too(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(import_module("rmpsweep.engine.simulate"), "find_program", lambda *_: None)
    worker, job = make_worker(folder, tmp_path / "results")
    found = []
    for size in (7, 1000):
        monkeypatch.setattr(prefetch, "BLOCK", size)
        monkeypatch.setattr(Worker, "_chunk_size", lambda *_, size=size: size)
        found.append(run(worker, job)[0])
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_unit_is_the_same_bytes_from_the_cache_whole_damaged_or_too_small(folder, tmp_path, whole):
    worker, job = make_worker(folder, tmp_path / "results")
    split, images = worker.images.split, len(UNIT)
    worker.images = replace(worker.images, cache=DecodedCache(split, 10**9))
    found = []
    found.append(run(worker, job))
    found.append(run(worker, job))
    blocks = sorted((tmp_path / "cache" / "decoded" / split.fingerprint).iterdir())
    assert [path.name for path in blocks] == ["16-32", "3-16", "32-43"]
    blocks[0].write_bytes(blocks[0].read_bytes()[:-1])
    blocks[1].write_bytes(blocks[1].read_bytes()[:-1] + b"\0")
    found.append(run(worker, job))
    found.append(run(worker, job))
    blocks[0].unlink()
    worker.images = replace(worker.images, cache=DecodedCache(split, sum(path.stat().st_size for path in blocks[1:])))
    found.append(run(worker, job))
    assert [content == whole for content, _ in found] == [True] * 5
    counts = [(figures.images_decoded, figures.images_cached) for _, figures in found]
    assert counts == [(images, 0), (0, images), (29, 11), (0, images), (16, 24)]
    assert not blocks[0].exists()


def test_an_image_that_cannot_be_decoded_ends_its_unit_by_name_and_no_other(folder, tmp_path):
    bad = tmp_path / "bad"
    photographs.write_sweep(bad)
    images = [photographs.photograph(i) for i in range(45)]
    number = int(image_order(45)[20])
    images[number] = (
        b"BM"
        + bytes(8)
        + (54).to_bytes(4, "little")
        + (40).to_bytes(4, "little")
        + (b"\x10\0\0\0\x10\0\0\0\x01\0\x18\0" + bytes(24))
    )  # a BMP's headers without its pixels
    photographs.pack(bad / "images" / "test.parquet", images)
    worker, job = make_worker(bad, tmp_path / "results")
    with pytest.raises(DataError, match=rf"test\.parquet: row {number} \(key '{number:04d}'\).*cannot be decoded"):
        worker.run(job)
    assert not decoding_threads()
    assert not list((tmp_path / "results" / "units").iterdir())
    good = replace(job, unit=replace(job.unit, start=24, stop=45))
    assert run(worker, good)[1].images_decoded == 21


def test_an_engine_that_fails_leaves_no_thread(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(prefetch, "BLOCK", 4)
    worker, job = make_worker(folder, tmp_path / "results")
    monkeypatch.setattr(worker, "_compute", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        worker.run(job)
    assert not decoding_threads()


def test_other_data_than_planned_is_refused_before_anything_is_computed(folder, tmp_path):
    own = tmp_path / "own"
    sweep = load_sweep(str(photographs.write_sweep(own)))
    prepared = prepare(sweep, tmp_path / "results")
    planned = prepared.plan.facts
    for split, fingerprint in (("train", planned.calibration_fingerprint), ("test", planned.data_fingerprint)):
        other = own / "images" / f"{split}.parquet"
        photographs.pack(other, [photographs.photograph(i) for i in range(500, 545)])
        found = open_split("parquet", str(own / "images"), split, "cifar10").fingerprint
        with pytest.raises(DataError) as refused:
            find_thresholds(prepared)
        for expected in (str(own / "images"), f"'{split}'", fingerprint[:16], found[:16], "same files"):
            assert expected in str(refused.value)


def find_thresholds(prepared):
    """As a launch does; raises what a worker raises."""
    pool = open_pool(prepared, prepared.weights.path, Place(inline=True))
    calibrate(prepared, look(prepared), Driver(pool, limits_of(prepared.sweep)))


@pytest.mark.slow
def test_launch_status_and_report_say_how_images_came_in(folder, tmp_path):
    sweep, results = folder / "photographs.yaml", tmp_path / "results"
    command = ("launch", sweep, "--results", results, "--inline", "--mlflow", "none", "--set", "run.decoded_cache_gb=1")
    first = rmpsweep(*command)["input"]
    assert (first["images_decoded"], first["images_cached"]) == (45, 0)
    assert 0 <= first["wait_fraction"] < 1
    assert first["busy_s"] > 0
    status = rmpsweep("status", results)
    assert status["input"] == first
    assert f"input of the last launch: {InputFigures.read(first)}" in run_here(["status", str(results)])[1]
    assert str(InputFigures.read(first)) in (results / "report.html").read_text()
    assert json.loads((results / "run.json").read_text())["launches"][-1]["input"] == first
    second = rmpsweep(*command, "--set", "time_steps=[4, 8, 12]")["input"]
    assert (second["images_decoded"], second["images_cached"]) == (0, 45)
    assert "45 images decoded" in (results / "report.html").read_text()
    assert "45 taken from the cache" in (results / "report.html").read_text()
    assert rmpsweep(*command, "--set", "time_steps=[4, 8, 12]")["input"] is None
    assert pq.read_schema(results / "predictions.parquet").names[0] == "trial_id"


def test_much_waiting_is_warned_of_with_its_remedy():
    assert InputFigures(100, 0, 5.0, wait_s=20.0, busy_s=200.0).advice() is None
    assert InputFigures(100, 0, 5.0, wait_s=9.0, busy_s=1.0).advice() is None
    advice = InputFigures(100, 0, 5.0, wait_s=20.0, busy_s=100.0).advice()
    assert "17% of the time" in advice
    assert "run.decoded_cache_gb" in advice
