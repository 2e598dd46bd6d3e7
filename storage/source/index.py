"""What discovery has read of a source, in a file of its own: a scan can be cut short, and memory stays small.

The index holds identities and paths, as the source does. It is a private file of the user, never part of a store.

Several runs may use one index at once. What is in it never changes: a file that has changed gets a new row, and each
run keeps a list of the rows of the files that it has met itself, on which alone its result rests. Rows that no run
has met for `KEPT_DAYS` go.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from storage.source.bids.sidecars import Folders
from storage.source.dicom.frames import Frame
from storage.source.full_disk import is_full
from storage.source.origin import Source, mark_of
from storage.source.scans import Nifti, Scan, stamp_of
from storage.source.visits.identity import Met, Unit

VERSION = 11
"""Raised when a scan of the same file gives something else."""


KEPT_DAYS = 7
"""Days that a file stays in the index although no run meets it; longer than any run that may still rest on it."""

WAIT = 300.0
"""Seconds to wait for a lock that another run holds; what is written at once takes it well below a second."""

_AT_ONCE = 1000
"""Files that are looked up or kept in one transaction."""

_KEEP_EVERY = 5.0
"""Seconds of scanning that a kill may cost."""

_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_BESIDE = ("-journal", "-wal", "-shm", "")
"""Endings of a database and of what SQLite keeps beside it, in the order in which they are removed."""


class IndexUnusableError(OSError):
    """The index cannot be read or written, or has lost what was in it; its text names no path.

    ``is_damaged`` says that it is to be made again, ``is_full`` that its disk, or that of temporary files, is full.
    """

    def __init__(self, text: str, *, is_damaged: bool = False, is_full: bool = False) -> None:
        super().__init__(text)
        self.is_damaged, self.is_full = is_damaged, is_full


class Index:
    """Scans of one source, on disk, and which of them this run has met.

    Parameters
    ----------
    location
        File to keep, made for its owner alone; None for a file that ends with the index.
    source
        What was scanned; an index of another source, or made with another key, is made again.
    key
        Key of the pseudonyms.

    Raises
    ------
    IndexUnusableError
        Here and in every method: if the file cannot be made, read or written, or another run locks it for `WAIT`.
    """

    def __init__(self, location: Path | None, source: Source, key: bytes) -> None:
        mark = hashlib.sha256(b"\0".join((key, mark_of(source), str(VERSION).encode()))).hexdigest()
        self._today = int(time.time() // 86400)
        self._waiting: list[Scan] = []
        self._to_keep: list[tuple[str, bytes]] = []
        self._kept_at = time.monotonic()
        try:
            self._database = _opened(location, mark)
        except IndexUnusableError as error:
            if not error.is_damaged or location is None:
                raise
            remove_index(location)  # it is only a cache
            self._database = _opened(location, mark)

    def close(self) -> None:
        """Close the file; one without a location is gone then. What was scanned is kept where that is possible."""
        with suppress(IndexUnusableError):
            self._keep()
            if self._to_keep:
                self._keep_values()
        self._database.close()

    def unknown(self, paths: Iterable[str]) -> Iterator[str]:
        """Those of ``paths`` that must be scanned; the others are met."""
        folders = Folders()
        return self.changed((path, _stamp_or_none(path, folders)) for path in paths)

    def changed(self, stamped: Iterable[tuple[str, str | None]]) -> Iterator[str]:
        """Those of paths with their stamps that must be scanned; the others are met."""
        rest = iter(stamped)
        while batch := list(islice(rest, _AT_ONCE)):  # before the transaction: a slow disk holds up nobody
            met, to_scan = list[tuple[int]](), list[str]()
            with self._transaction("DEFERRED") as run:
                for path, stamp in batch:
                    known = None if stamp is None else self._row(path, stamp)
                    if known is None:
                        to_scan.append(path)
                    else:
                        met.append((known,))
                run.executemany("INSERT OR IGNORE INTO temp.met VALUES (?)", met)
            yield from to_scan

    def add(self, scans: Iterable[Scan]) -> None:
        """Keep scans, many in one transaction, and note them as met."""
        self._waiting += scans
        n_waiting = sum(1 + len(scan.records) for scan in self._waiting)
        if n_waiting >= _AT_ONCE or time.monotonic() - self._kept_at >= _KEEP_EVERY:
            self._keep()

    def note(self) -> bytes:
        """What was last kept with `keep_note`; empty if nothing was."""
        return b"".join(bytes(value) for (value,) in self._rows("SELECT value FROM note"))

    def keep_note(self, value: bytes) -> None:
        """Keep what the next scan of the source is to know, in place of what was kept before."""
        with self._transaction("IMMEDIATE") as run:
            run.execute("INSERT OR REPLACE INTO note VALUES (1, ?)", (value,))

    def kept(self, session: str) -> bytes:
        """What was last kept with `keep` of a session; empty if nothing was."""
        return b"".join(bytes(value) for (value,) in self._rows("SELECT value FROM kept WHERE session = ?", session))

    def keep(self, session: str, value: bytes) -> None:
        """Keep something of a session for later runs, in place of what was kept before; many in one transaction."""
        self._to_keep.append((session, value))
        if len(self._to_keep) >= _AT_ONCE:
            self._keep_values()

    def keep_only(self, sessions: Sequence[str]) -> None:
        """Drop what was kept of other sessions, once it is as much as what is kept of these."""
        if self._rows("SELECT COUNT(*) FROM kept")[0][0] < 2 * len(sessions):
            return
        others = {name for (name,) in self._rows("SELECT session FROM kept")} - set(sessions)
        with self._transaction("IMMEDIATE") as run:
            run.executemany("DELETE FROM kept WHERE session = ?", [(name,) for name in others])

    def files_of(self, unit: str) -> str:
        """Which files of a unit this run has met; a file in another state has another number."""
        query = (
            "SELECT GROUP_CONCAT(file) FROM (SELECT file FROM record JOIN met USING (file) WHERE unit = ? ORDER BY 1)"
        )
        return str(self._rows(query, unit)[0][0])

    def _keep_values(self) -> None:
        with self._transaction("IMMEDIATE") as run:
            run.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?)", self._to_keep)
        self._to_keep.clear()

    def _keep(self) -> None:
        if not self._waiting:
            return
        with self._transaction("IMMEDIATE") as run:
            for scan in self._waiting:
                row = self._row(scan.path, scan.stamp) if scan.stamp else None  # another run may have been faster
                run.execute("INSERT OR IGNORE INTO temp.met VALUES (?)", (self._new_row(scan) if row is None else row,))
        self._waiting.clear()
        self._kept_at = time.monotonic()

    def _row(self, path: str, stamp: str) -> int | None:
        found = self._database.execute(
            "SELECT id FROM file WHERE path = ? AND stamp = ?", (os.fsencode(path), stamp)
        ).fetchone()
        return None if found is None else int(found[0])

    def _new_row(self, scan: Scan) -> int:
        run = self._database.execute
        other = pickle.dumps(scan.other) if scan.other else None
        values = (os.fsencode(scan.path), scan.stamp, self._today, scan.n_files, len(scan.records), other, scan.unread)
        row = int(run("INSERT INTO file VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", values).lastrowid or 0)
        for one in scan.records:
            run("INSERT OR IGNORE INTO unit VALUES (?, ?)", (one.unit.digest, pickle.dumps(tuple(one.unit))))
            run("INSERT INTO record VALUES (?, ?, ?, ?)", (row, one.unit.digest, one.clock, one.content))
        return row

    def finish(self) -> None:
        """End the scan: drop what no run has met for long, and see that all that this run has met is there."""
        self._keep()
        with self._transaction("IMMEDIATE") as run:
            run.execute(
                "UPDATE file SET day = ? WHERE day < ? AND id IN (SELECT file FROM temp.met)",
                (self._today, self._today),
            )
            old = (self._today - KEPT_DAYS,)
            run.execute("DELETE FROM record WHERE file IN (SELECT id FROM file WHERE day < ?)", old)
            run.execute("DELETE FROM file WHERE day < ?", old)
            if run.rowcount:
                run.execute("DELETE FROM unit WHERE digest NOT IN (SELECT unit FROM record)")
        files, records = self._rows("SELECT COUNT(*), COALESCE(SUM(n_records), 0) FROM file JOIN met ON met.file = id")[
            0
        ]
        held = self._rows("SELECT COUNT(*) FROM record JOIN met USING (file)")[0][0]
        if (files, records) != (self._rows("SELECT COUNT(*) FROM met")[0][0], held):
            raise IndexUnusableError("it has lost files", is_damaged=True)

    @property
    def n_files(self) -> int:
        """Files of the source, members of archives included."""
        return int(self._rows("SELECT COALESCE(SUM(n_files), 0) FROM file JOIN met ON met.file = id")[0][0])

    @property
    def other(self) -> dict[str, int]:
        """Files that are no image that is read, by reason."""
        total: Counter[str] = Counter()
        for (content,) in self._rows("SELECT other FROM file JOIN met ON met.file = id WHERE other IS NOT NULL"):
            total.update(pickle.loads(content))  # noqa: S301 - our own private file
        return dict(total)

    @property
    def unread(self) -> dict[str, int]:
        """How many images that cannot be read belong to which sessions, by their BIDS names."""
        query = "SELECT unread, COUNT(*) FROM file JOIN met ON met.file = id WHERE unread != '' GROUP BY unread"
        return dict(self._rows(query))

    def units(self) -> Iterator[Met]:
        """What the files agree in that say the same of who, when and where; one at a time."""
        query = (
            "SELECT unit.content, MIN(clock), MAX(clock), COUNT(*) FROM record JOIN met USING (file) LEFT JOIN "
            "unit ON unit.digest = record.unit GROUP BY record.unit"
        )
        with _database_errors(), closing(self._database.execute(query)) as rows:
            for content, first, last, n_files in rows:
                if content is None:
                    raise IndexUnusableError("it has lost what its files have in common", is_damaged=True)
                unit = Unit(*pickle.loads(content))  # noqa: S301 - our own private file
                yield Met(unit, first, last, n_files)

    def content(self, units: Mapping[str, int]) -> tuple[list[Frame], list[Nifti]]:
        """Frames and NIfTI series of some units, of each of which the number of files is given."""
        frames: list[Frame] = []
        volumes: list[Nifti] = []
        for unit, n_files in units.items():
            rows = self._rows("SELECT content FROM record JOIN met USING (file) WHERE unit = ?", unit)
            if len(rows) != n_files:
                raise IndexUnusableError("the index has lost files since they were read; run again", is_damaged=True)
            for (content,) in rows:
                found = pickle.loads(content)  # noqa: S301 - our own private file
                if isinstance(found[0], Frame):
                    frames += found
                else:
                    volumes.append(found)
        return frames, volumes

    def _rows(self, query: str, *values: str) -> list[Any]:
        with _database_errors():
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[sqlite3.Cursor]:
        with _database_errors(), closing(self._database.cursor()) as cursor:
            cursor.execute(f"BEGIN {kind}")
            try:
                yield cursor
                cursor.execute("COMMIT")
            finally:
                if self._database.in_transaction:
                    cursor.execute("ROLLBACK")


def _stamp_or_none(path: str, folders: Folders) -> str | None:
    with suppress(OSError):
        return stamp_of(path, folders)
    return None


@contextmanager
def _database_errors() -> Iterator[None]:
    """Turn errors of SQLite into `IndexUnusableError`."""
    try:
        yield
    except sqlite3.Error as error:
        if is_full(error):
            raise IndexUnusableError("its disk, or that of temporary files, is full", is_full=True) from error
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        raise IndexUnusableError(str(error), is_damaged=code in _DAMAGE) from error


def remove_index(location: Path) -> None:
    """Remove an index; a run that is using it ends or goes on without."""
    for ending in _BESIDE:
        with suppress(OSError):
            location.with_name(location.name + ending).unlink()


def _opened(location: Path | None, mark: str) -> sqlite3.Connection:
    if location is not None:
        try:
            location.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(location, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise IndexUnusableError(error.strerror or type(error).__name__, is_full=is_full(error)) from None
    with _database_errors(), ExitStack() as on_error:
        # In the rollback mode that is the default, unlike in WAL, several machines may share a file.
        database = sqlite3.connect("" if location is None else location, isolation_level=None, timeout=WAIT)
        on_error.callback(database.close)
        _prepare(database, mark)
        on_error.pop_all()
    return database


def _prepare(database: sqlite3.Connection, mark: str) -> None:
    """Make the tables in a new file; refuse one of another source, key or version."""
    run = database.execute
    run("PRAGMA synchronous = NORMAL")
    run("PRAGMA cache_size = -8000")
    run("BEGIN IMMEDIATE")
    run("CREATE TABLE IF NOT EXISTS mark (value TEXT)")
    marks = run("SELECT value FROM mark").fetchall()
    if not marks:
        run("INSERT INTO mark VALUES (?)", (mark,))
        run(
            "CREATE TABLE file (id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB, stamp TEXT, day INTEGER, "
            "n_files INTEGER, n_records INTEGER, other BLOB, unread TEXT)"
        )
        run("CREATE TABLE unit (digest TEXT PRIMARY KEY, content BLOB) WITHOUT ROWID")
        run("CREATE TABLE record (file INTEGER, unit TEXT, clock REAL, content BLOB)")
        run("CREATE INDEX by_path ON file (path, stamp)")
        run("CREATE INDEX by_file ON record (file)")
        run("CREATE INDEX by_unit ON record (unit, file, clock)")
    elif marks != [(mark,)]:
        run("ROLLBACK")
        raise IndexUnusableError("it belongs to another source, key or version", is_damaged=True)
    run("CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, value BLOB)")
    run("CREATE TABLE IF NOT EXISTS kept (session TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
    run("COMMIT")
    run("CREATE TEMP TABLE met (file INTEGER PRIMARY KEY)")
