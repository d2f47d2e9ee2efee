"""Data files on this machine, in object stores and behind other URLs. Only this module imports fsspec."""

import contextlib
import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from rmpsweep.errors import DataError, StorageError
from rmpsweep.storage import Location, ObjectPath, locate

_STORES = ("s3", "gs")
_GONE = (404, 410)
"""The HTTP status codes of a file that does not exist."""


@dataclass(frozen=True)
class Url:
    """A file behind a URL that fsspec opens, such as https:// or hf://; the server must allow reading parts of it.

    Raises (methods that connect):
        FileNotFoundError: the file or folder does not exist (`stamp` is empty instead).
        StorageError: the URL cannot be reached.
        DataError: fsspec needs a package for this kind of URL that is not installed.
    """

    url: str

    def __str__(self) -> str:
        """The URL without its query, which may be a signature."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))

    @property
    def name(self) -> str:
        """The last part of the URL's path."""
        return urlsplit(self.url).path.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> "Url":
        """The folder that holds the file."""
        return Url(str(self).rstrip("/").rpartition("/")[0])

    def open(self) -> Any:
        """Open the file for reading; each call returns a file object with a position of its own."""
        with self._reaching() as (filesystem, path):
            return filesystem.open(path, "rb")

    def stamp(self) -> str:
        """The size of the file and what the server tells about its version; empty if the file does not exist."""
        try:
            with self._reaching() as (filesystem, path):
                info = filesystem.info(path)
        except FileNotFoundError:
            return ""
        known = ("size", "etag", "content-md5", "last-modified", "last_modified", "lastmodified", "mtime", "md5hash")
        found = {key.lower(): str(value) for key, value in info.items()}
        return ":".join(found[key] for key in known if key in found)

    def iterdir(self) -> Iterator["Url"]:
        """The files and folders that the listing of this folder names."""
        with self._reaching() as (filesystem, path):
            names = filesystem.ls(path, detail=False)
            return iter([Url(filesystem.unstrip_protocol(name)) for name in names])

    def glob(self, pattern: str) -> Iterator["Url"]:
        """The files and folders directly in this folder whose names match the pattern."""
        return (each for each in self.iterdir() if fnmatchcase(each.name, pattern))

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[tuple[Any, str]]:
        try:
            from fsspec.core import url_to_fs

            yield url_to_fs(self.url)
        except FileNotFoundError as error:  # fsspec raises this for any answer of a web server but the file
            why = error.__cause__
            if why is None or getattr(why, "status", None) in _GONE:
                raise
            raise StorageError(f"{self}: cannot be reached ({why}); check address, network and credentials") from error
        except ImportError as error:
            raise DataError(f"{self}: {error}; install it") from error
        except Exception as error:  # every protocol raises exceptions of its own
            raise StorageError(
                f"{self}: cannot be reached ({error}); check address, network and credentials"
            ) from error


File = Path | ObjectPath | Url


def absolute(path: str) -> str:
    """Make a path absolute, so that it means the same from any working directory; URLs are returned as they are."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def stamp(file: File) -> str:
    """A text that changes when a file is written, or when a folder gains or loses names; empty if it does not exist."""
    if not isinstance(file, Path):
        return file.stamp()
    try:
        found = file.stat()
    except OSError:
        return ""
    return f"{found.st_mtime_ns}" if file.is_dir() else f"{found.st_size}:{found.st_mtime_ns}"


def place(source: str, path: str) -> File:
    """The file or folder that a path or URL in a sweep file points to.

    Raises:
        DataError: the URL holds a password, or names no bucket in an object store.
    """
    if "://" not in path:
        return Path(path).expanduser()
    parts = urlsplit(path)
    if parts.password:
        raise DataError(
            f"{source}: path: got a password in {parts.scheme}://…{parts.path}, which results would keep; give it in "
            "the environment"
        )
    if parts.scheme not in _STORES:
        return Url(path)
    try:
        found: Location = locate(path)
    except ValueError:
        raise DataError(f"{source}: path: got {path!r}, expected {parts.scheme}://bucket/folder") from None
    return found


def find_files(source: str, path: str | None, split: str, suffix: str) -> list[File]:
    """Find the files of a split, sorted by name.

    Args:
        source: the name of the data source, with which error messages begin.
        path: a folder, a file or a pattern. In a folder, the files of the split are `<split><suffix>` and
            `<split>-*<suffix>`. A pattern may hold `{split}`; ranges `{000..012}` and lists `{a,b}`, every member of
            which must exist; and `*`, `?` and `[…]` (in URLs only `*`, in the last part).
        suffix: the extension of the files, such as ".parquet".
    Raises:
        DataError: `path` is None; there is no such folder or file, or the pattern, or one member of a range or list in
            it, matches nothing; the folder has no such split (the message lists those that are there); files of the
            split in a folder are numbered `-N-of-M`, and one of the M is missing; or a URL holds a password, names no
            bucket, or needs a package that is not installed.
        StorageError: the files cannot be reached.
    """
    if path is None:
        raise DataError(f"{source}: path: got none, expected a folder, a file or a pattern")
    pattern = path.replace("{split}", split)
    root = place(source, pattern)
    is_folder = root.is_dir() if isinstance(root, Path) else not (root.name.endswith(suffix) or set("*{") & {*pattern})
    if is_folder:
        return _of_folder(source, path, root, split, suffix)
    found = [file for each in expand_braces(pattern) for file in _matches(source, each)]
    return sorted(found, key=lambda file: (file.name, str(file)))


def _of_folder(source: str, path: str, folder: File, split: str, suffix: str) -> list[File]:
    try:
        there = [file for file in folder.iterdir() if file.name.endswith(suffix) and not file.name.startswith(".")]
    except FileNotFoundError:
        raise DataError(f"{source}: path: got {str(folder)!r}, but there is no such folder") from None
    files = [file for file in there if file.name == split + suffix or file.name.startswith(f"{split}-")]
    if not files:
        found = sorted({re.sub(r"-\d+(-of-\d+.*)?$", "", file.name.removesuffix(suffix)) for file in there})
        raise DataError(
            f"{source}: split: got {split!r}, found in {path}: {', '.join(found) or f'no files named *{suffix}'}"
        )
    parts = [match for file in files if (match := re.search(r"-(\d+)-of-(\d+)", file.name))]
    missing = sorted({*range(max((int(part[2]) for part in parts), default=0))} - {int(part[1]) for part in parts})
    if missing:
        raise DataError(
            f"{source}: {folder}: split {split!r} is incomplete: of {parts[0][2]} files, number {missing[0]:05d} "
            f"is missing{f', and {len(missing) - 1} more' if missing[1:] else ''}; fetch it, or name files by a pattern"
        )
    return sorted(files, key=lambda file: file.name)


def _matches(source: str, pattern: str) -> list[File]:
    """The file that a path names, or the files that a pattern without braces matches."""
    root = place(source, pattern)
    found: list[File]
    if isinstance(root, Path):
        found = [Path(match) for match in glob.glob(str(root))]
    elif "*" in root.name:
        found = list(root.parent.glob(root.name))
    else:
        found = [root] if root.stamp() else []
    if not found:
        raise DataError(f"{source}: path: got {pattern!r}, but there is no folder, file or match for it")
    return found


def expand_braces(pattern: str) -> list[str]:
    """Expand ranges and lists in braces: "a{08..10}{x,y}" -> a08x, a08y, a09x, …"""
    found = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if found is None:
        return [pattern]
    if found[3] is not None:
        choices = found[3].split(",")
    else:
        choices = [f"{number:0{len(found[1])}d}" for number in range(int(found[1]), int(found[2]) + 1)]
    return [
        whole for each in choices for whole in expand_braces(pattern[: found.start()] + each + pattern[found.end() :])
    ]
