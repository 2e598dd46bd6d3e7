"""Files of a source: walking folders, and reading plain, gzipped and archived files within stated bounds.

A file is named by its path; a member of an archive by the path of the archive, `SEPARATOR`, and the member's name.
Members are only ever read into memory, so a name that climbs out of the archive has nowhere to go.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from storage.source.damage import ARCHIVES, DamagedError, library_errors

SEPARATOR = "\0"
"""Between the path of an archive and the name of a member; no path can hold it."""

MAX_FILE = 2**30
"""Bytes of one file after decompression; the largest enhanced brain series seen is a quarter of it."""

MAX_RATIO = 300
"""Bytes out of an archive per byte of it, above `SLACK`; real MR images give 2 to 20."""

SLACK = 256 * 2**20
"""Bytes that any archive may give."""

MAX_MEMBERS = 1_000_000
"""Members of one archive."""

_TAR_NAMES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_CLOSED_NAMES = (".7z", ".rar", ".iso")
_SIDECARS = (".json", ".tsv", ".bval", ".bvec", ".yaml", ".yml", ".md", ".txt")
_CHUNK = 2**20


class LimitError(OSError):
    """A file or archive is larger than the bounds of this module."""


@dataclass(slots=True)
class Allowance:
    """Bytes that an archive may still give, counted as they are given, on all levels of compression."""

    left: int

    def spend(self, size: int) -> None:
        """Count ``size`` bytes more.

        Raises
        ------
        LimitError
            If they are more than are left.
        """
        self.left -= size
        if self.left < 0:
            raise LimitError(f"more than {MAX_RATIO} bytes for each byte of the archive")


class FolderError(OSError):
    """A folder may not be read."""


def walk(folder: str) -> Iterator[str]:
    """All regular files below ``folder`` in the order of their names; sidecars are left out.

    Links to folders are followed; a folder is entered once, however many links lead to it.

    Raises
    ------
    FolderError
        If a folder may not be read; its text names none.
    """
    entered: set[tuple[int, int]] = set()
    pending = [folder]
    while pending:
        here = pending.pop()
        try:
            state = os.stat(here)  # noqa: PTH116
            if (state.st_dev, state.st_ino) in entered:
                continue
            entered.add((state.st_dev, state.st_ino))
            with os.scandir(here) as found:
                entries = sorted(found, key=lambda entry: entry.name)
            inner = []
            for entry in entries:
                if _is_folder(entry):
                    inner.append(entry.path)
                elif _is_file(entry) and not entry.name.lower().endswith(_SIDECARS):
                    yield entry.path
            pending += reversed(inner)
        except (PermissionError, FileNotFoundError) as error:
            raise FolderError(error.errno, error.strerror) from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether to look at an entry: a regular file, or a link that leads to nothing, which is told as unreadable."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))  # noqa: PTH110
    except OSError:
        return True


def relative(location: str, root: Path) -> str:
    """Path of a file below ``root``; an archive counts as a folder."""
    path, _, member = location.partition(SEPARATOR)
    if not Path(path).is_relative_to(root):  # root is a file itself
        return Path(path).name
    below = Path(path).relative_to(root).as_posix()
    return f"{below}/{member}" if member else below


def archive_kind(path: str, start: bytes) -> str:
    """``zip``, ``tar``, ``closed`` (a format that is not read) or empty, by name and first bytes."""
    name = path.lower()
    if start[:4] == b"PK\x03\x04" or (start[:2] == b"PK" and name.endswith(".zip")):
        return "zip"
    if name.endswith(_TAR_NAMES) or start[257:262] == b"ustar":
        return "tar"
    if start[:2] == b"\x1f\x8b" and not name.endswith((".nii.gz", ".dcm.gz")):
        try:
            with gzip.open(path) as file:
                return "tar" if file.read(512)[257:262] == b"ustar" else ""
        except ARCHIVES:
            return ""
    return "closed" if name.endswith(_CLOSED_NAMES) else ""


def allowance(path: str) -> Allowance:
    """What an archive may give by its size."""
    return Allowance(SLACK + MAX_RATIO * os.stat(path).st_size)  # noqa: PTH116


def members(path: str, kind: str, allowed: Allowance) -> Iterator[tuple[str, IO[bytes]]]:
    """Names and opened streams of the files in an archive, in its order; each stream must be read before the next.

    ``allowed`` counts what is decompressed on the way: all of a tar. Of a zip only what is read is decompressed, and
    counted by `bounded`.

    Raises
    ------
    LimitError
        If the archive gives more than the bounds of this module allow.
    DamagedError
        If it cannot be read any further.
    """
    return _members_of_zip(path) if kind == "zip" else _members_of_tar(path, allowed)


def _members_of_zip(path: str) -> Iterator[tuple[str, IO[bytes]]]:
    with library_errors(ARCHIVES):
        archive = zipfile.ZipFile(path)
    with archive:
        infos = archive.infolist()
        _check_count(len(infos))
        for info in infos:
            if info.is_dir() or info.filename.lower().endswith(_SIDECARS):
                continue
            with library_errors(ARCHIVES):
                opened = archive.open(info)
            with opened as stream:
                yield info.filename, stream


def _members_of_tar(path: str, allowed: Allowance) -> Iterator[tuple[str, IO[bytes]]]:
    with library_errors(ARCHIVES):
        archive = tarfile.open(path, "r:*", ignore_zeros=False)  # noqa: SIM115 - closed below
    with archive:
        begin = 0
        for number in count():
            _check_count(number)
            with library_errors(ARCHIVES):
                member = archive.next()
            if member is None:
                return
            end = member.offset_data + member.size  # what is skipped is decompressed too
            allowed.spend(end - begin)
            begin = end
            if not member.isfile() or member.name.lower().endswith(_SIDECARS):
                continue
            with library_errors(ARCHIVES):
                opened = archive.extractfile(member)
            if opened is not None:
                yield member.name, opened


def _check_count(number: int) -> None:
    if number > MAX_MEMBERS:
        raise LimitError(f"more than {MAX_MEMBERS} members in one archive")


def bounded(stream: IO[bytes], start: bytes = b"", allowed: Allowance | None = None) -> io.BytesIO:
    """The rest of a stream in memory, after ``start`` that was read from it.

    ``allowed`` counts it where an archive is being decompressed.

    Raises
    ------
    LimitError
        Beyond `MAX_FILE`, or what is allowed.
    DamagedError
        If it cannot be decompressed.
    """
    result = io.BytesIO()
    result.write(start)
    while part := read_some(stream, _CHUNK):
        result.write(part)
        if allowed is not None:
            allowed.spend(len(part))
        if result.tell() > MAX_FILE:
            raise LimitError(f"more than {MAX_FILE} bytes after decompression")
    result.seek(0)
    return result


def read_some(stream: IO[bytes], size: int) -> bytes:
    """At most ``size`` bytes of a stream that a library decompresses; `DamagedError` if it cannot."""
    with library_errors(ARCHIVES):
        return stream.read(size)


class Reader:
    """Reads files by their names, also members of archives; an archive of several wanted members is passed once."""

    def __init__(self, locations: tuple[str, ...]) -> None:
        self._locations = locations
        self._kept: dict[str, bytes] = {}
        self._zips: dict[str, zipfile.ZipFile] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for archive in self._zips.values():
            archive.close()
        self._kept.clear()

    def read(self, location: str) -> bytes:
        """Bytes of one file, decompressed.

        Raises
        ------
        DamagedError
            If an archive cannot be read any more, or lacks the member.
        """
        path, _, member = location.partition(SEPARATOR)
        if not member:
            with open(path, "rb") as raw:  # noqa: PTH123
                start = raw.read(2)
                raw.seek(0)
                return _inflated(raw, start)
        if path not in self._zips and location not in self._kept:
            self._open(path)
        if path in self._zips:
            with library_errors(ARCHIVES):
                opened = self._zips[path].open(member)
            with opened as stream:
                return _plain(bounded(stream).getvalue())
        if location not in self._kept:
            raise DamagedError("KeyError")
        return _plain(self._kept.pop(location))

    def _open(self, path: str) -> None:
        if zipfile.is_zipfile(path):
            with library_errors(ARCHIVES):
                self._zips[path] = zipfile.ZipFile(path)
            return
        wanted = {name for name in self._locations if name.startswith(path + SEPARATOR)}
        total = 0
        for member, stream in members(path, "tar", allowance(path)):
            location = path + SEPARATOR + member
            if location in wanted:
                self._kept[location] = bounded(stream).getvalue()
                total += len(self._kept[location])
                if total > MAX_FILE:
                    raise LimitError(f"a series of more than {MAX_FILE} bytes in one archive")


def _inflated(raw: Any, start: bytes) -> bytes:  # noqa: ANN401
    if start == b"\x1f\x8b":
        with gzip.GzipFile(fileobj=raw) as stream:
            return bounded(stream).getvalue()  # type: ignore[arg-type]
    return bytes(raw.read())


def _plain(data: bytes) -> bytes:
    return _inflated(io.BytesIO(data), data[:2])
