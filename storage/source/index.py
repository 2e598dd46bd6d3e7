"""What discovery has read of a source, in a file of its own: a scan can be cut short, and memory stays small.

The index holds identities and paths, as the source does. It is a private file of the user, never part of a store.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from storage.pseudonyms import pseudonym
from storage.source.damage import DamagedError
from storage.source.dicom import Frame, scan_file, scan_stream
from storage.source.files import (
    SEPARATOR,
    Allowance,
    LimitError,
    allowance,
    archive_kind,
    bounded,
    members,
    read_some,
    relative,
)
from storage.source.nifti import is_nifti, scan_nifti
from storage.source.series import LinkageRow, Series

VERSION = 2
"""Raised when a scan of the same file gives something else."""

BATCH = 64
"""Files that one task scans."""

_MET = 1000  # files that are noted as seen in one transaction

Nifti = tuple[Series, LinkageRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one image file holds: the frames of a DICOM file, or a NIfTI series with its linkage."""

    session: str
    person: str
    date: int | None = field(repr=False)
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


def stamp_of(path: str) -> str:
    """What changes when a file is written."""
    state = os.stat(path)  # noqa: PTH116
    return f"{state.st_size} {state.st_mtime_ns}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanTask:
    """Some files to scan; its text form shows no path."""

    paths: tuple[str, ...] = field(repr=False)
    root: str = field(repr=False)
    key: bytes = field(repr=False)


def scan_files(task: ScanTask) -> list[Scan]:
    """Scan some files; runs on workers."""
    return [_scan(path, Path(task.root), task.key) for path in task.paths]


def not_scanned(path: str) -> Scan:
    """Stand-in for the scan of a file at which a worker died; it is tried again next time."""
    return Scan(path=path, stamp="", n_files=1, records=(), other={"unreadable": 1})


def _scan(path: str, root: Path, key: bytes) -> Scan:
    other: Counter[str] = Counter()
    records: list[Record] = []
    n_files, stamp = 1, ""
    try:
        stamp = stamp_of(path)
        if is_nifti(path):
            found = scan_nifti(path, relative(path, root), key=key)
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
                _add(scan_file(path), key, records, other)
    except NOT_READ as error:
        other[_reason(error)] += 1
    return Scan(path=path, stamp=stamp, n_files=n_files, records=tuple(records), other=dict(other))


NOT_READ = (DamagedError, OSError, MemoryError)
"""How a file says that it is not read: by its content, by the operating system or a bound on size, by its size."""


def _reason(error: Exception) -> str:
    return "too_large" if isinstance(error, LimitError) else "unreadable"


def _scan_archive(path: str, kind: str, key: bytes, records: list[Record], other: Counter[str]) -> int:
    number = 0
    try:
        allowed = allowance(path)
        for name, stream in members(path, kind, allowed):
            number += 1
            try:
                if is_nifti(name):
                    other["nifti_in_archive"] += 1
                elif name.lower().endswith((".zip", ".tar", ".tgz", ".tar.gz")):
                    other["archive_in_archive"] += 1
                else:
                    _add(_scan_member(stream, kind, path + SEPARATOR + name, allowed), key, records, other)
            except NOT_READ as error:
                other[_reason(error)] += 1
    except NOT_READ as error:
        other[_reason(error)] += 1
    return max(1, number)


def _scan_member(stream: IO[bytes], kind: str, location: str, allowed: Allowance) -> tuple[Frame, ...] | None:
    start = read_some(stream, 1024)
    if start[128:132] != b"DICM" and start[:2] not in {b"\x1f\x8b", b"\x02\x00", b"\x08\x00"}:
        return None
    content = bounded(stream, start, allowed if kind == "zip" else None)  # what a tar gives has been counted
    return scan_stream(content, location, allowed)


def _add(frames: tuple[Frame, ...] | None, key: bytes, records: list[Record], other: Counter[str]) -> None:
    if frames is None:
        other["not_image"] += 1
    elif frames:
        one = frames[0].instance
        if one.problem is not None and not one.study:  # a header that was cut short, say: it belongs to no session
            other[str(one.problem)] += 1
            return
        records.append(
            Record(
                session=session_of(one.patient, study_of(frames[0]), key),
                person=pseudonym(key, "person", person_of(frames[0])),
                date=one.date,
                content=pickle.dumps(frames, protocol=pickle.HIGHEST_PROTOCOL),
            )
        )


def _nifti_record(found: Nifti) -> Record:
    content = pickle.dumps(found, protocol=pickle.HIGHEST_PROTOCOL)
    return Record(session=found[0].session, person=found[0].person, date=None, content=content)


def person_of(frame: Frame) -> str:
    """What tells the person of a file from others."""
    return frame.instance.patient or study_of(frame)


def study_of(frame: Frame) -> str:
    """What tells the study of a file from others; without identifier, the day of the person's visit."""
    one = frame.instance
    by_day = f"{one.patient} {one.date}" if one.patient and one.date else ""
    return one.study or by_day or one.series or one.sop_instance or one.digest


def session_of(patient: str, study: str, key: bytes) -> str:
    """Pseudonym of a session."""
    return pseudonym(key, "session", patient, study)


class Index:
    """Scans of one source, on disk.

    Parameters
    ----------
    location
        File to keep, made for its owner alone; None for a file that ends with the index.
    source
        The folder or file that was scanned; an index of another source, or made with another key, is emptied.
    key
        Key of the pseudonyms.
    """

    def __init__(self, location: Path | None, source: Path, key: bytes) -> None:
        if location is not None:
            location.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(location, os.O_CREAT | os.O_RDWR, 0o600))
        self._database = sqlite3.connect("" if location is None else location, isolation_level=None)
        try:
            self._prepare(source, key)
        except sqlite3.DatabaseError:
            self._database.close()
            if location is None:
                raise
            location.unlink()  # a damaged index is only a cache
            self._database = sqlite3.connect(location, isolation_level=None)
            location.chmod(0o600)
            self._prepare(source, key)

    def _prepare(self, source: Path, key: bytes) -> None:
        run = self._database.execute
        run("PRAGMA journal_mode = WAL").fetchall()
        run("PRAGMA synchronous = OFF")
        run("PRAGMA cache_size = -20000")
        mark = hashlib.sha256(b"\0".join((key, os.fsencode(source.absolute()), str(VERSION).encode()))).hexdigest()
        run("CREATE TABLE IF NOT EXISTS mark (value TEXT)")
        if run("SELECT value FROM mark").fetchall() != [(mark,)]:
            for table in ("mark", "file", "record"):
                run(f"DROP TABLE IF EXISTS {table}")
            run("CREATE TABLE mark (value TEXT)")
            run("INSERT INTO mark VALUES (?)", (mark,))
        run(
            "CREATE TABLE IF NOT EXISTS file (path BLOB PRIMARY KEY, stamp TEXT, n_files INTEGER, other BLOB, "
            "seen INTEGER) WITHOUT ROWID"
        )
        run("CREATE TABLE IF NOT EXISTS record (path BLOB, session TEXT, person TEXT, date INTEGER, content BLOB)")
        run("CREATE INDEX IF NOT EXISTS by_session ON record (session)")
        run("CREATE INDEX IF NOT EXISTS by_person ON record (person, date)")
        run("CREATE INDEX IF NOT EXISTS by_path ON record (path)")
        run("UPDATE file SET seen = 0")

    def close(self) -> None:
        """Close the file; one without a location is gone then."""
        self._database.close()

    def unknown(self, paths: Iterable[str]) -> Iterator[str]:
        """Those of ``paths`` that must be scanned; the others are noted as seen."""
        met: list[tuple[bytes]] = []
        for path in paths:
            name = os.fsencode(path)
            known = self._database.execute("SELECT stamp FROM file WHERE path = ?", (name,)).fetchone()
            with suppress(OSError):
                if known is not None and known[0] == stamp_of(path):
                    met.append((name,))
                    if len(met) >= _MET:
                        self._note(met)
                    continue
            yield path
        self._note(met)

    def _note(self, met: list[tuple[bytes]]) -> None:
        self._database.execute("BEGIN")
        self._database.executemany("UPDATE file SET seen = 1 WHERE path = ?", met)
        self._database.execute("COMMIT")
        met.clear()

    def add(self, scans: Iterable[Scan]) -> None:
        """Keep scans, in one transaction."""
        run = self._database.execute
        run("BEGIN")
        for scan in scans:
            name = os.fsencode(scan.path)
            run("DELETE FROM record WHERE path = ?", (name,))
            run("INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, 1)",
                (name, scan.stamp, scan.n_files, pickle.dumps(scan.other)))  # fmt: skip
            self._database.executemany(
                "INSERT INTO record VALUES (?, ?, ?, ?, ?)",
                [(name, one.session, one.person, one.date, one.content) for one in scan.records],
            )
        run("COMMIT")

    def forget_unseen(self) -> None:
        """Drop the files that this scan has not met any more."""
        self._database.execute("DELETE FROM record WHERE path IN (SELECT path FROM file WHERE seen = 0)")
        self._database.execute("DELETE FROM file WHERE seen = 0")

    @property
    def n_files(self) -> int:
        """Files of the source, members of archives included."""
        return int(self._database.execute("SELECT COALESCE(SUM(n_files), 0) FROM file").fetchone()[0])

    @property
    def other(self) -> dict[str, int]:
        """Files that are no image that is read, by reason."""
        total: Counter[str] = Counter()
        for (content,) in self._database.execute("SELECT other FROM file"):
            total.update(pickle.loads(content))  # noqa: S301 - our own private file
        return dict(total)

    @property
    def sessions(self) -> list[str]:
        """Pseudonyms of the sessions, sorted."""
        return [row[0] for row in self._database.execute("SELECT DISTINCT session FROM record ORDER BY session")]

    def first_day(self, person: str) -> int | None:
        """Ordinal of the person's first date."""
        row = self._database.execute("SELECT MIN(date) FROM record WHERE person = ?", (person,)).fetchone()
        return None if row[0] is None else int(row[0])

    def content(self, session: str) -> tuple[list[Frame], list[Nifti]]:
        """Frames and NIfTI series of one session."""
        frames: list[Frame] = []
        volumes: list[Nifti] = []
        for (content,) in self._database.execute("SELECT content FROM record WHERE session = ?", (session,)):
            found = pickle.loads(content)  # noqa: S301 - our own private file
            if isinstance(found[0], Frame):
                frames += found
            else:
                volumes.append(found)
        return frames, volumes
