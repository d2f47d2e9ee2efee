"""Paths in folders and in object stores. Only this module imports pyarrow.fs."""

import contextlib
import functools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from rmpsweep.errors import ResultsError, StorageError

_DEFAULTS = {
    "s3": ("allow_delayed_open", "true"),  # an object of up to 5 MB is one PUT
    "gs": ("retry_limit_seconds", "20"),  # Google's client would otherwise retry for 15 minutes
}
"""Scheme -> an option that is added to URIs of this scheme, unless they have it already."""
_READS = 3


@dataclass(frozen=True, order=True)
class ObjectPath:
    """A key in an object store, or the common prefix of the keys in a "folder", which exists while any such key does.

    Methods that share a name with one of `pathlib.Path` do the same.

    Raises:
        FileNotFoundError: there is no such object (`read_bytes`, `read_text`, `open`, and `unlink` unless missing_ok).
        StorageError: the store cannot be reached, or refuses access (all methods that connect; for `write_bytes`, see
            there).
    """

    store: str
    """s3://bucket or gs://bucket, with credentials if the URI had them."""
    key: str
    options: str = ""
    """The query of the URI."""

    def __str__(self) -> str:
        """The URI that `locate` takes, without credentials."""
        scheme, _, bucket = self.store.partition("://")
        return f"{scheme}://{bucket.rpartition('@')[2]}/{self.key}" + (f"?{self.options}" if self.options else "")

    def __truediv__(self, name: str) -> "ObjectPath":
        return replace(self, key=f"{self.key}/{name}" if self.key else name)

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> "ObjectPath":
        """The path without the last part of the key."""
        return replace(self, key=self.key.rpartition("/")[0])

    def absolute(self) -> "ObjectPath":
        """Return this path; it is always absolute."""
        return self

    def is_file(self) -> bool:
        """Whether there is an object with this key."""
        return bool(self._info().is_file)

    def is_dir(self) -> bool:
        """Whether there are keys below this one."""
        return bool(self._info().type.name == "Directory")

    def iterdir(self) -> Iterator["ObjectPath"]:
        """The objects and folders directly below this key; no error if there are none."""
        from pyarrow.fs import FileSelector

        filesystem, path = self._resolve()
        with _reaching(self):
            found = filesystem.get_file_info(FileSelector(path, allow_not_found=True))
        return (self / info.base_name for info in found)

    def glob(self, pattern: str) -> Iterator["ObjectPath"]:
        """The objects and folders directly below this key whose names match the pattern."""
        return (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def read_bytes(self) -> bytes:
        """Read the contents of the object."""
        filesystem, path = self._resolve()
        with _reaching(self), filesystem.open_input_file(path) as file:
            content: bytes = file.read()
            return content

    def read_text(self, encoding: str = "utf-8") -> str:
        """Read and decode the contents of one whole object, even if another object takes its place meanwhile."""
        for _ in range(_READS):  # pyarrow asks for the length, then reads that many bytes of what may be another object
            with contextlib.suppress(StorageError):
                content = self.read_bytes()
                if self._info().size == len(content):
                    return content.decode(encoding)
        return self.read_bytes().decode(encoding)

    def open(self) -> Any:
        """Open the object as a file (pyarrow.NativeFile) that can be read from any position."""
        filesystem, path = self._resolve()
        with _reaching(self):
            return filesystem.open_input_file(path)

    def stamp(self) -> str:
        """The size of the object and the time it was put; empty if there is no such object."""
        info = self._info()
        return f"{info.size}:{info.mtime_ns}" if info.is_file else ""

    def write_bytes(self, content: bytes) -> None:
        """Put a whole object, and replace an existing one. Readers see either the old object or the new one.

        Raises:
            OSError: the write failed; the object may or may not have been put.
            StorageError: the store cannot be reached.
        """
        filesystem, path = self._resolve()
        # no `with`: closing the stream makes the object, and a failed write must not make half of one
        stream = filesystem.open_output_stream(path, compression=None)
        stream.write(content)
        stream.close()

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object."""
        filesystem, path = self._resolve()
        try:
            with _reaching(self):
                filesystem.delete_file(path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def check_bucket(self) -> None:
        """Check that the bucket exists.

        Raises:
            StorageError: the bucket does not exist or cannot be reached.
        """
        if not replace(self, key="").is_dir():
            raise StorageError(f"{self}: no such bucket, or no permission to see it; make it, or name another place")

    def _info(self) -> Any:
        filesystem, path = self._resolve()
        with _reaching(self):
            return filesystem.get_file_info(path)

    def _resolve(self) -> tuple[Any, str]:
        with _reaching(self):
            filesystem, bucket = _connect(self.store, self.options)
        return filesystem, f"{bucket}/{self.key}" if self.key else bucket


Location = Path | ObjectPath


def locate(where: str | Location) -> Location:
    """The location of a folder, or of a URI s3://bucket/folder or gs://bucket/folder. This connects to nothing.

    Options of the store follow as a query, as in s3://bucket/folder?endpoint_override=127.0.0.1:9000&scheme=http.
    Credentials come from the environment, or precede the bucket as in s3://key:secret@bucket/folder.

    Raises:
        ResultsError: the URI is of another kind, or has no bucket.
    """
    if not isinstance(where, str):
        return where
    if "://" not in where:
        return Path(where)
    parts = urlsplit(where)
    if parts.scheme not in _DEFAULTS or not parts.netloc.rpartition("@")[2] or parts.fragment:
        got = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise ResultsError(f"results: got {got!r}, expected a folder, s3://bucket/folder or gs://bucket/folder")
    return ObjectPath(f"{parts.scheme}://{parts.netloc}", parts.path.strip("/"), parts.query)


@contextlib.contextmanager
def local_copies(paths: Sequence[Location]) -> Iterator[tuple[Path, ...]]:
    """Yield paths on this machine of the same names and contents; objects are copied, and copies removed at the end.

    Raises:
        FileNotFoundError, StorageError: an object is missing, or cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="rmpsweep-") as folder:
        copies = []
        for path in paths:
            if isinstance(path, ObjectPath):
                copy = Path(folder) / path.name
                copy.write_bytes(path.read_bytes())
                copies.append(copy)
            else:
                copies.append(path)
        yield tuple(copies)


@functools.lru_cache(maxsize=8)
def _connect(store: str, options: str) -> tuple[Any, str]:
    """The file system of a store, and the name of the bucket in it."""
    from pyarrow.fs import FileSystem

    name, value = _DEFAULTS[store.partition("://")[0]]
    queries = [options] if options else []
    if name not in parse_qs(options):
        queries.append(f"{name}={value}")
    filesystem, bucket = FileSystem.from_uri(f"{store}?{'&'.join(queries)}")
    return filesystem, bucket


@contextlib.contextmanager
def _reaching(path: ObjectPath) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid, for options it does not know, is a ValueError
        reason = str(error).partition(" error_info=")[0]
        raise StorageError(
            f"{path}: cannot be reached ({reason}); check address, network and credentials, or name another place"
        ) from error
