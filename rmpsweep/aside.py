"""Work in a process of its own: it loads what this process should not hold, and it loads it while this one works.

The process runs no code of the caller's main module, so scripts and notebooks need no guard. It ends with this process,
even if this process is killed, and takes no notice of Ctrl-C, which is for this process to answer.
"""

import contextlib
import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any, Self

from rmpsweep.errors import RmpsweepError

_SERVE = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path[:] = sys.argv[2:]; "
    "from rmpsweep.aside import serve; serve(int(sys.argv[1]))"
)


class Lost(Exception):
    """The process has ended without an answer."""


class Aside:
    """A process that calls functions for this one, in the order in which they are asked for."""

    def __init__(self) -> None:
        """Start the process. Raises OSError."""
        self._pipe, theirs = Pipe()
        self._asked = 0
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, str(theirs.fileno()), *sys.path],
                stdin=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )
        except OSError:
            self._pipe.close()
            raise
        finally:
            theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Let the process call a function of a module, with arguments that can be pickled; does not wait for it.

        A process that has ended is reported by `answer`.
        """
        self._asked += 1
        with contextlib.suppress(OSError):
            self._pipe.send((function.__module__, function.__qualname__, pickle.dumps(arguments)))

    def answer(self) -> Any:
        """Wait for the last call, and return what it returned. What earlier calls returned or raised is dropped.

        Raises:
            Lost: the process has ended. Otherwise what the function raised.
        """
        value, error = None, None
        try:
            while self._asked:
                value, error = self._pipe.recv()
                self._asked -= 1
        except (EOFError, OSError):
            raise Lost(f"a process of rmpsweep ended with exit code {self._process.wait()}") from None
        if error is not None:
            raise error
        return value

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.communicate()
        self._pipe.close()


def serve(descriptor: int) -> None:
    """Answer calls, in the process, until the other side is gone.

    Args:
        descriptor: the number of the open pipe.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with Connection(descriptor) as pipe:
        while True:
            try:
                module, name, arguments = pipe.recv()
            except EOFError:
                return
            pipe.send(_call(module, name, arguments))


def _call(module: str, name: str, arguments: bytes) -> tuple[Any, BaseException | None]:
    try:
        return getattr(importlib.import_module(module), name)(*pickle.loads(arguments)), None
    except Exception as error:
        text = traceback.format_exc()
        if not isinstance(error, RmpsweepError):
            error.add_note(text)
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # an error of somebody else's may not survive the way
            return None, RuntimeError(text)
        return None, error
    finally:
        sys.stdout.flush()


def _end_with_parent() -> None:
    """Wait until this process's input is closed, which happens when the parent ends, however it does."""
    os.read(0, 1)
    os._exit(1)
