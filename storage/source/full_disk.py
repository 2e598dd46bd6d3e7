"""Temporary files on a disk that is full: said in words that name the disk, and never taken for a fault of the source.

Tables of a scan lie in temporary files, so that memory stays small. SQLite makes its own, not always where Python does.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a file system on which nothing more can be written: it is full, a quota or the limit of a file is."""

_SQLITE_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN})
"""Errors of a temporary database, which no other cause can have: there is no file before it."""


_NOWHERE = "No usable temporary directory"
"""What Python says if none of its folders takes a file of four bytes."""


class DiskFullError(RuntimeError):
    """The disk of temporary files takes no more; what is stored stays, and another run does the rest."""


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk is full."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in _FULL


def sqlite_folder() -> str:
    """Folder of the temporary files of SQLite, by its own rule."""
    stated = (os.environ.get(name) for name in ("SQLITE_TMPDIR", "TMPDIR"))
    for folder in (*stated, "/var/tmp", "/usr/tmp", "/tmp"):  # noqa: S108 - where SQLite looks
        if folder and os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):  # noqa: PTH112
            return folder
    return "."


@contextmanager
def temporary_files() -> Iterator[None]:
    """Say which disk is full where temporary files cannot be written.

    Raises
    ------
    DiskFullError
        In place of an error of SQLite or of the system that says so.
    """
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _SQLITE_FULL:
            raise
        raise _full(sqlite_folder()) from error
    except OSError as error:
        if error.errno not in _FULL and not str(error.strerror).startswith(_NOWHERE):
            raise
        raise _full(_python_folder()) from error


@contextmanager
def temporary_table() -> Iterator[IO[str]]:
    """Temporary file of text; see `temporary_files` for what is raised where it cannot be made."""
    with temporary_files():
        table = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed below
    try:
        yield table
    finally:
        with suppress(OSError):  # what is still to be written is of no use any more
            table.close()


@contextmanager
def temporary_folder(prefix: str) -> Iterator[str]:
    """Temporary folder that ends with the context; see `temporary_files` for what is raised where none can be made."""
    with temporary_files():
        folder = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
    with folder as name:
        yield name


def _python_folder() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:  # in none of its places a file can be made
        return os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - where Python looks


def _full(folder: str) -> DiskFullError:
    return DiskFullError(
        f"the disk of temporary files ({folder}) is full; free space there, or set TMPDIR to a folder of another disk, "
        "and run it again; what is stored stays"
    )
