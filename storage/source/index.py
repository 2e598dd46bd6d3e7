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
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

from storage.source.bids.nifti import is_nifti, scan_nifti, session_by_name
from storage.source.bids.sidecars import Folders, stamp_of_sidecars
from storage.source.damage import DamagedError
from storage.source.dicom.frames import Frame, scan_file, scan_stream
from storage.source.files import (
    UNREADABLE_FOLDER,
    Allowance,
    LimitError,
    allowance,
    archive_kind,
    bounded,
    is_apple_double,
    members,
    read_some,
    relative,
)
from storage.source.full_disk import is_full
from storage.source.origin import Source, mark_of
from storage.source.series import LinkageRow, Series
from storage.source.visits.identity import Met, Unit, clock_of, unit_of, unit_of_labels

VERSION = 11
"""Raised when a scan of the same file gives something else."""

BATCH = 64
"""Files that one task scans."""

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

Nifti = tuple[Series, LinkageRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one image file holds: the frames of a DICOM file, or a NIfTI series with its linkage."""

    unit: Unit = field(repr=False)
    clock: float | None
    """Seconds since midnight at the acquisition, if known."""
    content: bytes = field(repr=False)
    """Pickled frames, or a pickled NIfTI series."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What one file of the source holds, an archive being one file; ``other`` counts what is no image, by reason."""

    path: str = field(repr=False)
    stamp: str
    n_files: int
    records: tuple[Record, ...]
    other: dict[str, int]
    unread: str = ""
    """Session of an image that cannot be read, but has a BIDS name."""


def stamp_of(path: str, folders: Folders) -> str:
    """What changes when a file is written, or a sidecar of it."""
    state = os.stat(path)  # noqa: PTH116
    sidecars = stamp_of_sidecars(path, folders) if is_nifti(path) else ""
    return f"{state.st_size} {state.st_mtime_ns} {sidecars}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanTask:
    """Some files to scan; its text form shows no path."""

    paths: tuple[str, ...] = field(repr=False)
    root: str = field(repr=False)
    key: bytes = field(repr=False)


def scan_files(task: ScanTask) -> list[Scan]:
    """Scan some files; runs on workers."""
    folders = Folders()
    return [_scan(path, Path(task.root), task.key, folders) for path in task.paths]


def not_scanned(path: str) -> Scan:
    """Stand-in for the scan of a file at which a worker died; it is tried again next time."""
    return Scan(path=path, stamp="", n_files=1, records=(), other={"unreadable": 1})


def closed_folder(path: str) -> Scan:
    """Stand-in for a folder that cannot be listed; it is tried again next time."""
    return Scan(path=path, stamp="", n_files=0, records=(), other={UNREADABLE_FOLDER: 1})


def _scan(path: str, root: Path, key: bytes, folders: Folders) -> Scan:
    other: Counter[str] = Counter()
    records: list[Record] = []
    n_files, stamp = 1, ""
    try:
        stamp = stamp_of(path, folders)
        if is_nifti(path) and not _is_twin(path):
            found = scan_nifti(path, relative(path, root), key=key, folders=folders)
            if found is None:
                other["not_image"] += 1
            else:
                records.append(_nifti_record(found))
        else:
            with open(path, "rb") as file:  # noqa: PTH123
                kind = archive_kind(path, file.read(512))
            if kind in {"zip", "tar"}:
                n_files = _scan_archive(path, kind, key, records, other)
            elif kind:
                other["archive_format"] += 1
            else:
                add_frames(scan_file(path), key, records, other)
    except NOT_READ as error:
        other[_reason(error)] += 1
        stamp = "" if _may_pass(error) else stamp
    unread = session_by_name(relative(path, root), key=key) if is_nifti(path) and not records else ""
    return Scan(path=path, stamp=stamp, n_files=n_files, records=tuple(records), other=dict(other), unread=unread)


def _is_twin(path: str) -> bool:
    """Whether a file is what a Mac keeps beside the file whose name it has."""
    if not path.rpartition("/")[2].startswith("._"):
        return False
    with open(path, "rb") as file:  # noqa: PTH123
        return is_apple_double(path, file.read(4))


NOT_READ = (DamagedError, OSError, MemoryError)
"""How a file says that it is not read: by its content, by the operating system or a bound on size, by its size."""


def _may_pass(error: Exception) -> bool:
    """Whether a file that was not read may be readable next time although it has not changed: rights, disk, memory."""
    return isinstance(error, (OSError, MemoryError)) and not isinstance(error, LimitError)


def _reason(error: Exception) -> str:
    return "too_large" if isinstance(error, LimitError) else "unreadable"


def _scan_archive(path: str, kind: str, key: bytes, records: list[Record], other: Counter[str]) -> int:
    number = 0
    try:
        allowed = allowance(path)
        for member in members(path, kind, allowed):
            number += 1
            try:
                with member.open() as stream:
                    start = read_some(stream, 1024)
                    if is_apple_double(member.name, start):
                        other["not_image"] += 1
                    elif is_nifti(member.name):
                        other["nifti_in_archive"] += 1
                    elif member.name.lower().endswith((".zip", ".tar", ".tgz", ".tar.gz")):
                        other["archive_in_archive"] += 1
                    else:
                        frames = _scan_member(stream, start, kind, member.location, allowed)
                        add_frames(frames, key, records, other)
            except NOT_READ as error:
                other[_reason(error)] += 1
    except NOT_READ as error:
        other[_reason(error)] += 1
        records[:] = map(_of_cut_archive, records)
    return max(1, number)


def _of_cut_archive(record: Record) -> Record:
    frames = pickle.loads(record.content)  # noqa: S301 - pickled a moment ago
    instance = replace(frames[0].instance, is_of_cut_archive=True)
    marked = tuple(replace(frame, instance=instance) for frame in frames)
    return replace(record, content=pickle.dumps(marked, protocol=pickle.HIGHEST_PROTOCOL))


def _scan_member(
    stream: IO[bytes], start: bytes, kind: str, location: str, allowed: Allowance
) -> tuple[Frame, ...] | None:
    if start[128:132] != b"DICM" and start[:2] not in {b"\x1f\x8b", b"\x02\x00", b"\x08\x00"}:
        return None
    content = bounded(stream, start, allowed if kind == "zip" else None)  # what a tar gives has been counted
    return scan_stream(content, location, allowed)


def add_frames(frames: tuple[Frame, ...] | None, key: bytes, records: list[Record], other: Counter[str]) -> None:
    """Add what a file holds to the records of a scan, or count it as what it is; None is no image."""
    if frames is None:
        other["not_image"] += 1
    elif frames:
        one = frames[0].instance
        if one.is_own:
            other["own_map"] += 1
            return
        if one.problem is not None and not one.study:  # a header that was cut short, say: it belongs to no session
            other[str(one.problem)] += 1
            return
        records.append(
            Record(
                unit=unit_of(frames[0], key),
                clock=clock_of(frames[0]),
                content=pickle.dumps(frames, protocol=pickle.HIGHEST_PROTOCOL),
            )
        )


def _nifti_record(found: Nifti) -> Record:
    content = pickle.dumps(found, protocol=pickle.HIGHEST_PROTOCOL)
    return Record(unit=unit_of_labels(found[0].session, found[0].person), clock=None, content=content)


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
