"""Writing files: whole, once, and through trouble. On real file systems, a small tmpfs where one has to be full."""

import errno
import os
import subprocess
import threading
import time
from pathlib import Path, PurePosixPath

import pytest

from rmpsweep.errors import ResultsError, StorageError
from rmpsweep.storage import ObjectPath, locate, remove_temporaries, write_atomic, write_first
from tests.helpers.disks import tmpfs


@pytest.fixture
def small_disk(tmp_path):
    with tmpfs(tmp_path / "disk") as folder:
        yield folder


def never(existing):
    return False


def always(existing):
    return True


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def later(seconds, action):
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def fill(folder):
    """Take what is free; the file that does."""
    with pytest.raises(OSError, match="No space"), open(folder / "ballast", "wb", buffering=0) as file:  # noqa: PT012
        while True:
            file.write(bytes(1 << 12))
    return folder / "ballast"


def test_a_write_replaces_and_makes_folders_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert files(path.parent) == {"file": b"new"}


def test_the_first_writer_wins_where_it_may_stay(tmp_path):
    path = tmp_path / "file"
    write_first(path, b"first", never)
    seen = []
    write_first(path, b"second", lambda existing: not seen.append(existing))
    assert (files(tmp_path), seen) == ({"file": b"first"}, [b"first"])
    write_first(path, b"third", never)
    assert files(tmp_path) == {"file": b"third"}


def test_a_first_file_that_cannot_be_read_for_a_moment_stays(tmp_path, monkeypatch):
    path, asked = tmp_path / "file", []
    write_first(path, b"first", never)
    read = Path.read_bytes

    def failing_once(self):
        if self == path and not asked:
            asked.append(self)
            raise OSError(errno.EIO, "Input/output error")
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", failing_once)
    write_first(path, b"second", lambda _: True)
    assert asked == [path]
    assert path.read_bytes() == b"first"


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_the_first_writer_wins_without_hard_links_too(tmp_path, monkeypatch, number):
    def no_links(source, target):
        raise OSError(number, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    test_the_first_writer_wins_where_it_may_stay(tmp_path)


def test_of_writers_at_the_same_time_one_wins(tmp_path):
    for attempt in range(20):
        path, start, stayed = tmp_path / f"{attempt}", threading.Barrier(8), []

        def write(content, path=path, start=start, stayed=stayed):
            start.wait()
            write_first(path, content, lambda existing: not stayed.append(existing))

        writers = [threading.Thread(target=write, args=(b"%d" % i * 5000,)) for i in range(8)]
        for each in writers:
            each.start()
        for each in writers:
            each.join()
        assert stayed == [path.read_bytes()] * 7
    assert len(files(tmp_path)) == 20


@pytest.mark.slow
def test_storage_that_goes_and_comes_back_is_waited_for_and_nothing_is_made_in_its_place(tmp_path):
    units, away = tmp_path / "units", tmp_path / "away"
    units.mkdir()
    units.rename(away)
    made_meanwhile = []
    later(0.6, lambda: (made_meanwhile.append(units.exists()), away.rename(units)))
    write_first(units / "file", b"content", never, patience_s=20)
    assert (files(units), made_meanwhile) == ({"file": b"content"}, [False])


@pytest.mark.slow
def test_storage_that_stays_away_ends_the_wait_in_time(tmp_path):
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"gone/file: cannot be written .*, tried for [12] s; see that the storage"):
        write_first(tmp_path / "gone" / "file", b"content", never, patience_s=2)
    assert 1 < time.monotonic() - began < 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_is_told_soon_and_keeps_no_piece(small_disk):
    write_first(small_disk / "first", bytes(1000), never)
    fill(small_disk)
    for write in (lambda path: write_first(path, bytes(10**6), never), lambda path: write_atomic(path, bytes(10**6))):
        began = time.monotonic()
        with pytest.raises(StorageError, match=r"file: cannot be written .*No space left.*the disk is full: free spac"):
            write(small_disk / "file")
        assert time.monotonic() - began < 5
        assert sorted(files(small_disk)) == ["ballast", "first"]


@pytest.mark.slow
def test_a_full_disk_that_gets_space_in_time_is_written(small_disk):
    ballast = fill(small_disk)
    later(0.5, ballast.unlink)
    write_first(small_disk / "file", bytes(10**6), never)
    assert files(small_disk) == {"file": bytes(10**6)}


@pytest.mark.slow
def test_a_read_only_file_system_is_told_soon(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"file: cannot be written .*; the file system is read-only: mount it so"):
        write_first(small_disk / "file", b"", never)
    assert time.monotonic() - began < 5


@pytest.mark.slow
def test_what_reads_back_other_than_written_gets_no_name(tmp_path, monkeypatch):
    sound = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: sound(path)[:-1])
    with pytest.raises(StorageError, match=r"file: cannot be written .*what was read back differs from"):
        write_first(tmp_path / "file", b"content", always, patience_s=0.5)
    with pytest.raises(StorageError, match="what was read back differs from what was written"):
        write_atomic(tmp_path / "file", b"content", patience_s=0.5)
    assert list(tmp_path.iterdir()) == []


def test_old_temporary_files_are_removed_and_nothing_else(tmp_path):
    for name in (".old.0123.tmp", ".new.0123.tmp", "old.tmp", ".hidden", "old.parquet"):
        (tmp_path / name).write_bytes(b"x")
        if name != ".new.0123.tmp":
            os.utime(tmp_path / name, (0, 0))
    remove_temporaries(tmp_path, min_age_s=600)
    assert sorted(files(tmp_path)) == [".hidden", ".new.0123.tmp", "old.parquet", "old.tmp"]
    remove_temporaries(tmp_path, min_age_s=0)
    assert sorted(files(tmp_path)) == [".hidden", "old.parquet", "old.tmp"]
    remove_temporaries(tmp_path / "missing", min_age_s=0)


PLACES = {
    "results/x": Path("results/x"),
    "/data/x": Path("/data/x"),
    "s3://bucket": ObjectPath("s3://bucket", ""),
    "s3://bucket/a/b/": ObjectPath("s3://bucket", "a/b"),
    "gs://bucket/a?retry_limit_seconds=3": ObjectPath("gs://bucket", "a", "retry_limit_seconds=3"),
    "s3://key:secret@bucket/a?region=x&scheme=http": ObjectPath("s3://key:secret@bucket", "a", "region=x&scheme=http"),
}


@pytest.mark.parametrize(("text", "expected"), PLACES.items(), ids=PLACES)
def test_places(text, expected):
    place = locate(text)
    assert place == expected == locate(place)
    assert "secret" not in str(place / "file")
    if "secret" not in text:
        assert locate(str(place)) == place


@pytest.mark.parametrize("text", ["http://host/x", "s3://", "s3:///a", "file:///data/x", "hdfs://host/x", "s3://b/a#b"])
def test_other_places_are_refused(text):
    with pytest.raises(ResultsError, match=r"results: got '.*', expected a folder, s3://bucket/folder or gs://bucket"):
        locate(text)


def test_a_refusal_shows_no_secret():
    with pytest.raises(ResultsError) as caught:
        locate("http://me:secret@host/x")
    assert "secret" not in str(caught.value)


def test_a_key_has_the_names_of_a_path():
    key, path = ObjectPath("s3://bucket", "a/b/c.parquet"), PurePosixPath("a/b/c.parquet")
    assert (key.name, key.parent.key, (key.parent / "d").key) == (path.name, str(path.parent), str(path.parent / "d"))
    assert ObjectPath("s3://bucket", "a").parent / "b" == ObjectPath("s3://bucket", "b")
