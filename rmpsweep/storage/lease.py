"""One launch at a time on a results directory; another one waits for its turn.

What this guarantees: in a folder, the kernel's lock (flock) goes when its process does, so a killed launch never stands
in the way of the next. NFS servers take part where they offer locks; on mounts with `nolock` only processes of one
machine exclude each other, and without any locks a launch says so and goes on.

Object stores cannot refuse a second writer. There the lease is an object that its holder renews every BEAT_S; a waiter
takes over what has not changed for STALE_S by its own clock, so a killed launch delays the next by that. Two launches
that start within the same second, or a holder that was stopped for longer than STALE_S, may both go on.

The lease saves work and keeps messages clear; results are safe without it: units are committed so that two writers do
no harm (`results.journal`), and everything else is written whole.
"""

import contextlib
import errno
import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from rmpsweep.errors import StorageError
from rmpsweep.storage.location import Location, ObjectPath

LOCK = ".lock"
POLL_S, BEAT_S, STALE_S, SETTLE_S = 1.0, 15.0, 60.0, 1.0
"""A waiter looks this often; a holder in an object store renews its lease this often; a lease is stale after this; a
lease taken is looked at again after this, since another one may have been taken at the same time."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


@contextlib.contextmanager
def hold_lease(root: Location, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the lease of a results directory, which is made where it is missing (and removed if it stays empty).

    Waits for as long as another process holds it; `tell` then gets one line that says who does.

    Raises:
        StorageError: the directory can be neither made nor read.
    """
    with _in_store(root, tell) if isinstance(root, ObjectPath) else _in_folder(root, tell):
        yield


@contextlib.contextmanager
def _in_folder(root: Path, tell: Callable[[str], None]) -> Iterator[None]:
    lock = root / LOCK
    try:
        missing = [folder for folder in (root, *root.absolute().parents) if not folder.exists()]
        descriptor = _lock(lock, tell)
    except OSError as error:
        raise StorageError(f"{root}: cannot be used ({error}); name another folder with --results") from error
    try:
        yield
    finally:
        if descriptor is not None:
            with contextlib.suppress(OSError):
                if _is_at(descriptor, lock):
                    lock.unlink()
            os.close(descriptor)
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _lock(lock: Path, tell: Callable[[str], None]) -> int | None:
    """The descriptor that holds the lock, not inherited by other programs; None where there can be none."""
    told = False
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # the last holder has just removed the folder that it had made
        except OSError as error:
            if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
                return None  # who writes here will say so
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                tell(_waiting(lock, os.pread(descriptor, 200, 0)))
            told = True
            os.close(descriptor)
            time.sleep(POLL_S)
            continue
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _NO_LOCKS:
                raise
            tell(f"warning: {lock.parent}: its file system has no locks: start no second launch on it meanwhile")
            return None
        if _is_at(descriptor, lock):
            with contextlib.suppress(OSError):  # a full disk: it is only for the message
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, _myself().encode(), 0)
            return descriptor
        os.close(descriptor)  # its holder has removed it at its end: another one counts now


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one under this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _in_store(root: ObjectPath, tell: Callable[[str], None]) -> Iterator[None]:
    lock, mine = root / LOCK, f"{_myself()} ({uuid.uuid4().hex}"
    _take(lock, mine, tell)
    ended = threading.Event()

    def renew() -> None:
        beat = 0
        while not ended.wait(BEAT_S):
            beat += 1
            with contextlib.suppress(OSError, StorageError):
                if _read(lock).startswith(mine):
                    lock.write_bytes(f"{mine} {beat})".encode())

    beating = threading.Thread(target=renew, daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        with contextlib.suppress(OSError, StorageError):
            if _read(lock).startswith(mine):
                lock.unlink()


def _take(lock: ObjectPath, mine: str, tell: Callable[[str], None]) -> None:
    seen, seen_at, told = "", time.monotonic(), False
    while True:
        content = _read(lock)
        if content != seen:
            seen, seen_at = content, time.monotonic()
        if not content or time.monotonic() - seen_at > STALE_S:
            try:
                lock.write_bytes(f"{mine} 0)".encode())
            except OSError as error:
                raise StorageError(f"{lock}: cannot be written ({error}); name another place with --results") from error
            time.sleep(SETTLE_S)
            if _read(lock).startswith(mine):
                return
        elif not told:
            tell(_waiting(lock, content.partition(" (")[0].encode()))
            told = True
        time.sleep(POLL_S)


def _read(lock: ObjectPath) -> str:
    try:
        return lock.read_text()
    except FileNotFoundError:
        return ""


def _waiting(lock: Location, holder: bytes) -> str:
    who = holder.decode(errors="replace") or "another process"
    stale = f", or gives no sign of life for {STALE_S:.0f} s" if isinstance(lock, ObjectPath) else ""
    return f"{lock.parent}: {who} is at work here; waiting until it ends{stale}"


def _myself() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S %z')},"
