"""Writing a file so that nobody ever sees half of it."""

import os
import uuid
from pathlib import Path

from rmpsweep.errors import StorageError


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file, and its folder, such that readers see the old content or all of the new, also after a crash.

    Written under a temporary name (with a leading dot), synced, read back, then moved into place.

    Raises:
        StorageError: it cannot be written, or does not read back as written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if temporary.read_bytes() != content:
            raise StorageError(f"{path}: reads back other than written; check the disk")
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error}); free the space, or name another folder") from error
    finally:
        if temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)
