"""Files of data, on this machine, in object stores and behind other URLs. The only file that imports fsspec."""

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
"""HTTP's status of what is not there."""


@dataclass(frozen=True)
class Url:
    """A file behind a URL that fsspec opens: https://, hf:// and others; it has to be readable in part.

    Raises (all methods): StorageError: it cannot be reached.
    """

    url: str

    def __str__(self) -> str:
        """Without query, which may be a signature."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))

    @property
    def name(self) -> str:
        """The last part of its path."""
        return urlsplit(self.url).path.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> "Url":
        """The folder it lies in."""
        return Url(str(self).rstrip("/").rpartition("/")[0])

    def open(self) -> Any:
        """A file of its own position."""
        with self._reaching() as (filesystem, path):
            return filesystem.open(path, "rb")

    def stamp(self) -> str:
        """Its size, and what the server says of its version; empty where there is no such file."""
        try:
            with self._reaching() as (filesystem, path):
                info = filesystem.info(path)
        except FileNotFoundError:
            return ""
        known = ("size", "etag", "content-md5", "last-modified", "last_modified", "lastmodified", "mtime", "md5hash")
        found = {key.lower(): str(value) for key, value in info.items()}
        return ":".join(found[key] for key in known if key in found)

    def iterdir(self) -> Iterator["Url"]:
        """What the folder's listing names."""
        with self._reaching() as (filesystem, path):
            names = filesystem.ls(path, detail=False)
            return iter([Url(filesystem.unstrip_protocol(name)) for name in names])

    def glob(self, pattern: str) -> Iterator["Url"]:
        """Files right below whose names match."""
        return (each for each in self.iterdir() if fnmatchcase(each.name, pattern))

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[tuple[Any, str]]:
        try:
            from fsspec.core import url_to_fs

            yield url_to_fs(self.url)
        except FileNotFoundError as error:  # fsspec says so of whatever a web server does not answer with the file
            why = error.__cause__
            if why is None or getattr(why, "status", None) in _GONE:
                raise
            raise StorageError(f"{self}: cannot be reached ({why}); check address, network and credentials") from error
        except ImportError as error:
            raise DataError(f"{self}: {error}; install it") from error
        except Exception as error:  # every protocol raises its own
            raise StorageError(
                f"{self}: cannot be reached ({error}); check address, network and credentials"
            ) from error


File = Path | ObjectPath | Url


def absolute(path: str) -> str:
    """A path that is the same from anywhere; URLs stay."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def stamp(file: File) -> str:
    """What changes with a file's contents, or when names are added to a folder or removed; empty where it is gone."""
    if not isinstance(file, Path):
        return file.stamp()
    try:
        found = file.stat()
    except OSError:
        return ""
    return f"{found.st_mtime_ns}" if file.is_dir() else f"{found.st_size}:{found.st_mtime_ns}"


def place(source: str, path: str) -> File:
    """Where a path or URL of a sweep file points. Raises DataError: a URL with a password, or without a bucket."""
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
    """The files of a split, sorted by name.

    Args:
        path: a folder (files `<split><suffix>` and `<split>-*<suffix>`), a file, or a pattern: with `{split}`, with
            ranges `{000..012}` and lists `{a,b}` that must be there in full, and with `*`, `?` and `[…]` (in URLs only
            `*`, in the last part).
        suffix: of the files, such as ".parquet".
    Raises:
        DataError: nothing there, no such split (those that are there are listed), or a part of one. StorageError: it
            cannot be reached.
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
            f"{source}: {folder}: split {split!r} is not there in full: of {parts[0][2]} files number {missing[0]:05d} "
            f"is missing{f', and {len(missing) - 1} more' if missing[1:] else ''}; fetch it, or name files by a pattern"
        )
    return sorted(files, key=lambda file: file.name)


def _matches(source: str, pattern: str) -> list[File]:
    """One file, or what a pattern without braces matches."""
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
    """ "a{08..10}{x,y}" -> a08x, a08y, a09x, …"""
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
