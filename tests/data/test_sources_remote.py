"""Parquet files in object stores and behind URLs: real servers on the loopback."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rmpsweep.data import open_split
from rmpsweep.errors import DataError, StorageError
from rmpsweep.storage import locate
from tests.helpers import packings, servers

IMAGES = packings.generated(20)
OPTIONS = "scheme=http&endpoint_override=127.0.0.1:{}"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMPSWEEP_CACHE", str(tmp_path / "cache"))
    for name, value in servers.AWS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """Two Parquet files."""
    packings.parquet(IMAGES, tmp_path / "imagenet")
    return tmp_path / "imagenet"


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Files in parts, with their ETag; requests are counted."""

    asked: list[str]

    def do_GET(self) -> None:
        self._send(body=True)

    def do_HEAD(self) -> None:
        self._send(body=False)

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, body: bool) -> None:
        path = Path(self.translate_path(self.path))
        type(self).asked.append(f"{self.command} {path.name}")
        if not path.is_file():
            return self.send_error(404)
        content = path.read_bytes()
        first, last = 0, len(content) - 1
        if asked := self.headers.get("Range"):
            start, _, stop = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(stop or last), last)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if body:
            self.wfile.write(content[first : last + 1])
        return None


@pytest.fixture
def web(local: Path) -> Iterator[tuple[str, list[str]]]:
    """Address of a server of the folder, and what it is asked for."""
    handler = type("Handler", (_Handler,), {"asked": []})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *arguments: handler(*arguments, directory=str(local))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.asked
    server.shutdown()
    thread.join()
    server.server_close()


def check_same(path: str, split: str, local: Path) -> None:
    ours = open_split("parquet", path, split, "imagenet-224")
    expected = open_split("parquet", str(local), "validation", "imagenet-224")
    assert (ours.num_images, ours.fingerprint) == (20, expected.fingerprint)
    assert torch.equal(ours.pixels([19, 0, 3])[0], expected.pixels([19, 0, 3])[0])


@pytest.mark.server
@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_object_stores(scheme, local, tmp_path, monkeypatch):
    with getattr(servers, {"s3": "s3", "gs": "gcs"}[scheme])(tmp_path) as port:
        owner, query = "anonymous@" if scheme == "gs" else "", OPTIONS.format(port)
        folder = f"{scheme}://{owner}bucket/data/imagenet"
        for file in local.iterdir():
            (locate(f"{folder}?{query}") / file.name).write_bytes(file.read_bytes())
        for path in (folder, f"{folder}/validation-*.parquet", f"{folder}/{{split}}-0000{{0..1}}-of-00002.parquet"):
            check_same(f"{path}?{query}", "validation", local)
        with pytest.raises(DataError, match=r"split: got 'test', found in .*: validation"):
            open_split("parquet", f"{folder}?{query}", "test", "imagenet-224")
        with pytest.raises(DataError, match=r"there is no folder, file or match"):
            open_split("parquet", f"{folder}/test.parquet?{query}", "test", "imagenet-224")
        index = locate(f"{scheme}://{owner}bucket/results/index?{query}")
        split = open_split("parquet", f"{folder}?{query}", "validation", "imagenet-224")
        split.keep_index(index)
        monkeypatch.setenv("RMPSWEEP_CACHE", str(tmp_path / "another"))
        told = []
        options = {"index": index, "on_index": lambda *each: told.append(each)}
        again = open_split("parquet", f"{folder}?{query}", "validation", "imagenet-224", **options)
        assert (again.fingerprint, told) == (split.fingerprint, [])


def test_http(web, local):
    address, asked = web
    pattern = f"{address}/validation-{{00000..00001}}-of-00002.parquet"
    check_same(pattern, "whatever", local)
    asked.clear()
    split = open_split("parquet", pattern, "whatever", "imagenet-224")
    assert {each.split()[0] for each in asked} == {"HEAD"}
    split.pixels([0])
    packings.parquet(packings.generated(20, seed=1), local)
    changed = open_split("parquet", pattern, "whatever", "imagenet-224")
    assert changed.fingerprint != split.fingerprint
    with pytest.raises((DataError, StorageError)):
        split.pixels(range(20))
    with pytest.raises(DataError, match=r"there is no folder, file or match"):
        open_split("parquet", f"{address}/test.parquet", "test", "imagenet-224")


def test_a_server_that_is_away(local):
    address = f"http://127.0.0.1:{servers.free_port()}/validation.parquet"
    with pytest.raises(StorageError, match=r"validation.parquet: cannot be reached"):
        open_split("parquet", address, "validation", "imagenet-224")
