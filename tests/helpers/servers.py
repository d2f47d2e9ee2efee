"""Real servers on the loopback interface: object stores, and a connection to them that can be cut."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

GCS_EMULATOR = Path(sys.executable).with_name("gcp-storage-emulator")
AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}


def free_ports(number: int) -> list[int]:
    """Different ports of the loopback interface on which nobody listens.

    They lie below those that the system hands out by itself, so that no process of Ray takes one before it is used.
    """
    found: list[int] = []
    while len(found) < number:
        port = secrets.randbelow(12_000) + 20_000
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found += [port] if port not in found else []
    return found


def free_port() -> int:
    return free_ports(1)[0]


def answers(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(url, timeout=2).status == 200)
    except OSError:
        return False


@contextlib.contextmanager
def serving(command: list[str], url: str, log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in a process group of its own; the context begins with its first answer."""
    with log.open("ab") as file:
        server = subprocess.Popen(
            command, cwd=log.parent, env={**os.environ, **environment}, stdout=file, stderr=file, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while not answers(url):
            assert (server.poll(), time.monotonic() < deadline) == (None, True), log.read_text()
            time.sleep(0.1)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[int]:
    """Run an S3 server with the bucket "bucket", and give its port."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with serving(command, f"http://127.0.0.1:{port}/moto-api/", folder / "s3.log"):
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT"), timeout=10)
        yield port


@contextlib.contextmanager
def gcs(folder: Path) -> Iterator[int]:
    """Run a Google Cloud Storage server with the bucket "bucket", and give its port."""
    port = free_port()
    command = [str(GCS_EMULATOR), "start", "--host=127.0.0.1", f"--port={port}", "--in-memory"]
    with serving([*command, "--default-bucket=bucket"], f"http://127.0.0.1:{port}/storage/v1/b", folder / "gcs.log"):
        yield port


class Wire:
    """A wire that forwards connections from a port of its own to another port until it is cut.

    cut() refuses new connections and ends open ones, and cut_after(n) does so once n more bytes have gone to the
    server. mend() makes the wire whole again.
    """

    def __init__(self, target: int) -> None:
        self.target, self.port = target, free_port()
        self.sockets: list[socket.socket] = []
        self.left: float = float("inf")
        self.mend()

    def mend(self) -> None:
        self.left = float("inf")
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def cut(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        for each in [self.listener, *self.sockets]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self.sockets = []

    def cut_after(self, num_bytes: int) -> None:
        self.left = num_bytes

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            self.sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink, source is near), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(1 << 16):
                if counted:
                    self.left -= len(content)
                    if self.left < 0:
                        return self.cut()
                sink.sendall(content)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        return None
