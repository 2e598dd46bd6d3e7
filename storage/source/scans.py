"""What one scan of a file, or of an archive's members, finds; each file by itself, in any process."""

from __future__ import annotations

import os
import pickle
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from storage.source.bids.nifti import is_nifti, scan_nifti, session_by_name
from storage.source.bids.sidecars import Folders, stamp_of_sidecars
from storage.source.damage import DamagedError
from storage.source.dicom.frames import Frame, scan_file, scan_stream
from storage.source.files import (
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
from storage.source.series import LinkageRow, Series
from storage.source.unread import UNREADABLE_FOLDER
from storage.source.visits.identity import Unit, clock_of, unit_of, unit_of_labels

BATCH = 64
"""Files that one task scans."""


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
