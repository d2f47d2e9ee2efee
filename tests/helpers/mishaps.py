"""Runs the real command in processes in which something happens at a named point: they are killed, the disk fills up …

The product has no hooks for this. Before the command starts, a function such as `os.link`, `os.replace` or
`MlflowClient.create_run` is replaced in its process. Everything is imported once, in a server process, and each command
runs in a fork of that process.
"""

import builtins
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Happening = Callable[[], None]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def when_named(function: str, before: bool, name: str, happening: Happening, times: int = 1) -> None:
    """Let something happen before or after a file gets its name by os.replace or os.link.

    Args:
        name: how the file's name ends.
        times: which of these files it is, from 1.
    """
    original, seen = getattr(os, function), []

    def instead(source: Any, target: Any) -> None:
        matches = str(target).endswith(name)
        if matches:
            seen.append(target)
        if matches and before and len(seen) == times:
            happening()
        original(source, target)
        if matches and not before and len(seen) == times:
            happening()

    setattr(os, function, instead)


def when_half_written(name: str, happening: Happening) -> None:
    """Let something happen when half of a temporary file is on the disk.

    Args:
        name: the final name of the file, or its end.
    """
    from rmpsweep.storage import writing

    def instead(path: Path, mode: str) -> Any:
        file = builtins.open(path, mode)  # noqa: SIM115
        if f"{name}." not in path.name:
            return file

        class Half(io.BufferedWriter):
            def write(self, content: Any) -> int:
                super().write(content[: len(content) // 2])
                self.flush()
                os.fsync(self.fileno())
                happening()
                return 0

        return Half(file.detach())

    writing.open = instead  # type: ignore[attr-defined]


def after_call(method: str, times: int, happening: Happening) -> None:
    """Let something happen after a method of MLflow's client has been called this number of times."""
    from mlflow import MlflowClient

    original, seen = getattr(MlflowClient, method), []

    def instead(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        seen.append(method)
        if len(seen) == times:
            happening()
        return result

    setattr(MlflowClient, method, instead)


def fill(folder: str) -> Happening:
    """A happening: the disk of this folder fills up."""

    def happen() -> None:
        with contextlib.suppress(OSError), open(Path(folder) / "ballast", "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 12))

    return happen


def run_command(command: str) -> Happening:
    return lambda: subprocess.run(command, shell=True, check=True) and None


def take_away(folder: str, seconds: float) -> Happening:
    """A happening: the folder is gone for this number of seconds."""

    def happen() -> None:
        away = f"{folder} away"
        os.rename(folder, away)
        threading.Timer(seconds, lambda: os.rename(away, folder)).start()

    return happen


class Server:
    """Runs commands in forks of a process that has imported everything."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, where: str, *arguments: object) -> tuple[int, str]:
        """Run `rmpsweep` in a process that first evaluates `where`, an expression of this file's functions.

        Returns:
            The exit code, and what the command printed.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([where, [str(each) for each in arguments]]) + "\n")
        self.process.stdin.flush()
        code, said = json.loads(self.process.stdout.readline())
        return code, said


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


def _serve() -> None:
    import altair  # noqa: F401
    import torch.fx.experimental.symbolic_shapes  # noqa: F401
    import vl_convert

    import rmpsweep.cli
    import rmpsweep.report
    import rmpsweep.workers.worker

    library = vl_convert.javascript_bundle()  # takes a second
    vl_convert.javascript_bundle = lambda: library

    for line in sys.stdin:
        where, arguments = json.loads(line)
        said_path = Path(tempfile.gettempdir(), f"rmpsweep-mishap-{os.getpid()}")
        child = os.fork()
        if child == 0:
            said = os.open(said_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for descriptor in (1, 2):
                os.dup2(said, descriptor)
            if where:
                eval(where)
            sys.argv = ["rmpsweep", *arguments]
            code = 0
            try:
                rmpsweep.cli.main()
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        said_text = said_path.read_text()
        said_path.unlink()
        print(json.dumps([os.waitstatus_to_exitcode(status), said_text]), flush=True)


if __name__ == "__main__":
    _serve()
