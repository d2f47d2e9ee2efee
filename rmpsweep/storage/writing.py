"""Writes that never show anybody half of a file, and that wait while storage is away.

In a folder, a file is written under a temporary name of its own (with a leading dot), synced, read back, and then moved
into place. An object store has no rename, but an object is put as a whole and appears whole or not at all; it is read
back too, when others may see it already.
"""

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from rmpsweep.errors import StorageError
from rmpsweep.storage.location import Location

PATIENCE_S = 60.0
"""How long a write waits for storage that is away."""
REFUSED_PATIENCE_S = 2.0
"""How long a write waits if waiting seldom helps, as with a full disk or a read-only file system."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0

_ANOTHER = "or name another folder; the same command continues"
_REMEDIES = {
    errno.ENOSPC: f"the disk is full: free space, {_ANOTHER}",
    errno.EDQUOT: f"the quota is used up: free space, {_ANOTHER}",
    errno.EROFS: f"the file system is read-only: mount it so that it can be written, {_ANOTHER}",
    errno.EACCES: f"give this user the permission to write there, {_ANOTHER}",
    errno.EPERM: f"give this user the permission to write there, {_ANOTHER}",
}
_AWAY = {
    errno.EIO,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENODEV,
    errno.ENXIO,
    errno.EBUSY,
    errno.EAGAIN,
}
_DENIED = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "PERMISSION_DENIED")
"""Words in the messages of object stores which mean that waiting does not help."""
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def write_atomic(path: Location, content: bytes, patience_s: float = PATIENCE_S) -> None:
    """Write a file, and make its folder. Readers see the old content or all of the new, even after a crash.

    Raises:
        StorageError: the file cannot be written, or does not read back as written. This is raised after `patience_s` if
            the storage is away, and sooner if waiting does not help.
    """

    def attempt() -> None:
        if isinstance(path, Path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _written_aside(path, content) as temporary:
                os.replace(temporary, path)
            _sync(path.parent)
        else:
            path.write_bytes(content)
            _check(path, content)

    _patiently(attempt, path, patience_s)


def write_first(path: Path, content: bytes, stays: Callable[[bytes], bool], patience_s: float = PATIENCE_S) -> None:
    """Write a file as `write_atomic` does, but only if it does not exist yet: the first of several writers wins.

    The folder must exist. A missing folder means that its file system is not mounted: a folder made now would be hidden
    once it is mounted again, so none is made. On file systems without hard links, the second of two writers at the same
    instant may replace the first one's file.

    Args:
        stays: tells from the contents of an existing file whether it stays; if not, the file is replaced.
        patience_s: how long to wait for storage that is away.
    Raises:
        StorageError: as for `write_atomic`; a missing folder counts as storage that is away.
    """

    def attempt() -> None:
        with _written_aside(path, content) as temporary:
            try:
                os.link(temporary, path)
            except OSError as error:
                if error.errno not in {errno.EEXIST, *_NO_LINKS}:
                    raise
                if not _stays(path, stays):
                    os.replace(temporary, path)
        _sync(path.parent)

    _patiently(attempt, path, patience_s, away=_AWAY | {errno.ENOENT})


def remove_temporaries(folder: Location, min_age_s: float) -> None:
    """Remove temporary files that dead writers have left in a folder, if this machine's clock makes them that old."""
    for path in folder.glob(".*.tmp") if isinstance(folder, Path) else ():
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime >= min_age_s:
                path.unlink()


@contextlib.contextmanager
def _written_aside(path: Path, content: bytes) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _check(temporary, content)
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _check(path: Location, content: bytes) -> None:
    if path.read_bytes() != content:
        raise OSError(errno.EIO, "what was read back differs from what was written")


def _stays(path: Path, stays: Callable[[bytes], bool]) -> bool:
    try:
        return stays(path.read_bytes())
    except OSError as error:
        if error.errno in _AWAY:
            raise  # the file may be fit to stay, and can be read once the storage is back
        return False


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _patiently(attempt: Callable[[], None], path: Location, patience_s: float, away: set[int] = _AWAY) -> None:
    """Attempt a write, and repeat it while the storage is away (errors with the numbers in `away`)."""
    began, pause_s = time.monotonic(), _FIRST_PAUSE_S
    while True:
        try:
            return attempt()
        except (OSError, StorageError) as error:  # an object store's errors have no number
            number = error.errno if isinstance(error, OSError) else None
            lost = number in away or (number is None and not any(word in str(error) for word in _DENIED))
            limit_s = patience_s if lost else REFUSED_PATIENCE_S if number in _REMEDIES else 0.0
            waited_s = time.monotonic() - began
            if waited_s + pause_s > limit_s:
                tried = f", tried for {waited_s:.0f} s" if waited_s >= 1 else ""
                remedy = _REMEDIES.get(number or 0, f"see that the storage can be reached and written, {_ANOTHER}")
                raise StorageError(f"{path}: cannot be written ({error}){tried}; {remedy}") from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
