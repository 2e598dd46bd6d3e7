"""The spool: where images of a server lie between their retrieval and their reading, one series at a time and place.

Its places are what bounds how much is asked of a server at once, by all processes of this machine together, and how
much lies on the disk: one series in each. A place is locked by whoever uses it, and emptied before and after; what a
killed run has left is removed by the next one. Names in the spool say nothing of whose images they are.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from storage.source.full_disk import is_full
from storage.source.origin import Limits, Server, SourceError
from storage.source.series import Series
from storage.source.server.archive import connect
from storage.source.server.failures import ServerAwayError

AWAY = 60.0
"""Seconds for which a server that did not answer, however often it was asked, is not asked again by this machine."""

_POLL = 0.05


@contextmanager
def retrieved(series: Series) -> Iterator[Series]:
    """The series with its files on this machine, as long as the context lasts.

    Raises
    ------
    ServerError
        If the server does not give them.
    SourceError
        If the spool cannot be used.
    """
    server = series.server
    if server is None:
        yield series
        return
    study, uid = series.paths[0].split("/")[:2]
    with place(server.limits) as folder:
        names = [path.rpartition("/")[2] for path in series.paths]
        files = {name: folder / f"{number}.dcm" for number, name in enumerate(names)}
        with asking(server), _on_disk(folder), connect(server) as archive:
            archive.retrieve(study, uid, files)
        paths = tuple(str(files[name]) for name in names)
        yield replace(series, paths=paths, server=None)


@contextmanager
def place(limits: Limits) -> Iterator[Path]:
    """An empty folder of the spool, and with it the right to ask the server; waits until one is free."""
    spool = spool_of(limits)
    while True:
        for number in range(limits.connections):
            lock = FileLock(spool / f"{number}.lock", is_singleton=False)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            folder = spool / str(number)
            try:
                _empty(folder)
                folder.mkdir(mode=0o700)
                yield folder
            finally:
                _empty(folder)
                lock.release()
            return
        time.sleep(_POLL)


def clean(limits: Limits) -> None:
    """Remove what killed runs have left in places that nobody uses."""
    spool = spool_of(limits)
    for folder in spool.iterdir():
        if folder.name.isdecimal():
            with suppress(Timeout), FileLock(spool / f"{folder.name}.lock", timeout=0, is_singleton=False):
                _empty(folder)


def spool_of(limits: Limits) -> Path:
    """Folder of the spool, made for its owner alone.

    Raises
    ------
    SourceError
        If it cannot be made, or others may read it.
    """
    spool = limits.spool or Path(tempfile.gettempdir()) / f"qmri-spool-{os.getuid()}"
    try:
        spool.mkdir(parents=True, exist_ok=True, mode=0o700)
        state = spool.lstat()
    except OSError as error:
        raise SourceError(f"the spool cannot be made ({error.strerror}); see QMRI_PACS_SPOOL") from None
    if state.st_uid != os.getuid() or state.st_mode & 0o077 or not spool.is_dir() or spool.is_symlink():
        raise SourceError("the spool must be a folder of this user that nobody else may read; see QMRI_PACS_SPOOL")
    return spool


@contextmanager
def asking(server: Server, *, anew: bool = False) -> Iterator[None]:
    """Ask a server that is not known to be away, or ``anew``; note it if it is found to be."""
    digest = hashlib.sha256(server.address.encode()).hexdigest()[:16]
    mark = spool_of(server.limits) / f"away-{digest}"
    with suppress(OSError):
        if not anew and time.time() - mark.stat().st_mtime < AWAY:
            raise ServerAwayError("the server did not answer a moment ago; run it again later")
    try:
        yield
    except ServerAwayError:
        with suppress(OSError):
            mark.touch()
        raise
    if anew:
        mark.unlink(missing_ok=True)


@contextmanager
def _on_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise SourceError(f"the disk of the spool is full ({folder.parent}); see QMRI_PACS_SPOOL") from None


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
