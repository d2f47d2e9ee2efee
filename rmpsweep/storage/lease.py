"""A lease that lets one launch at a time work on a results directory; other launches wait for their turn.

In a folder, the lease is a lock of the kernel (flock), which ends with its process, so a killed launch never stands in
the way of the next. NFS servers take part if they offer locks. On mounts with `nolock`, only processes of one machine
exclude each other; on a file system without any locks, a launch warns and goes on.

Object stores cannot refuse a second writer. There, the lease is an object that its holder renews every BEAT_S. A waiter
takes over a lease that has not changed for STALE_S by the waiter's own clock, so a killed launch delays the next one by
that time. Two launches that start within the same second may both go on, and so may a holder that was suspended for
longer than STALE_S and the launch that took over.

The lease saves work and keeps messages clear. Results are safe without it: units are committed in such a way that two
writers do no harm (`results.journal`), and every other file is written whole.
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
"""In seconds: how often a waiter looks; how often a holder in an object store renews its lease; the age at which a
lease is stale; and when a launch looks again at a lease it took, since another may have taken it at the same time."""
MOST_FAILURES = 100
"""How often making the folder may fail before it counts as impossible: other holders may be removing it."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


@contextlib.contextmanager
def hold_lease(root: Location, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the lease of a results directory, and make the directory if it is missing (it is removed if it stays empty).

    If another process holds the lease, this waits for as long as that takes; `tell` then gets one line that names the
    holder.

    Raises:
        StorageError: the directory can be neither made nor read, or the lease cannot be put into an object store.
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
    """Wait for the lock, and return the descriptor that holds it, which other programs do not inherit.

    The descriptor is None if the folder cannot be written, or its file system has no locks.
    """
    told, failures = False, 0
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, FileNotFoundError):
            failures += 1
            if failures == MOST_FAILURES:
                raise
            continue  # the last holder removed the folder, or one above it, while it was being made
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # the last holder has just removed the folder that it had made
        except OSError as error:
            if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
                return None  # the first write will report this
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
            with contextlib.suppress(OSError):  # the disk may be full; the text only serves messages
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, _myself().encode(), 0)
            return descriptor
        os.close(descriptor)  # the last holder has removed this file; another one may be in its place


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at this path."""
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
