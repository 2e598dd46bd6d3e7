"""Files of a source: walking folders, and reading plain, gzipped and archived files within stated bounds.

A file is named by its path; a member of an archive by the path of the archive, `SEPARATOR`, and the member's name, and
where that name occurs again in the archive by `SEPARATOR` and how often it has occurred before.
Members are only ever read into memory, so a name that climbs out of the archive has nowhere to go.
"""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

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


def walk(folder: str, closed: list[str]) -> Iterator[str]:
    """All regular files below ``folder`` in the order of their names; sidecars are left out.

    Links to folders are followed; a folder is entered once, however many links lead to it. What is neither file nor
    folder (a pipe, a socket, a device) is left alone: opening it may wait for ever.

    Parameters
    ----------
    folder
        Where to start.
    closed
        Takes the folders that cannot be listed; the others are walked.
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
        except OSError:  # no right to read, too long a path, a failing disk, or gone since it was listed
            closed.append(here)
            continue
        inner = []
        for entry in entries:
            if _is_folder(entry):
                inner.append(entry.path)
            elif _is_file(entry) and not entry.name.lower().endswith(_SIDECARS):
                yield entry.path
        pending += reversed(inner)


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
    path, member = _parts(location)
    if not Path(path).is_relative_to(root):  # root is a file itself
        return Path(path).name
    below = Path(path).relative_to(root).as_posix()
    return f"{below}/{member}" if member else below


def last_change(locations: Iterable[str]) -> float:
    """When the newest of some files was written, renamed or made, in seconds since 1970; now of one that is gone.

    The file system's own clock: unlike the time of modification, it is not that of the origin of a copy.
    """
    newest = 0.0
    for path in {_parts(location)[0] for location in locations}:
        try:
            newest = max(newest, os.stat(path).st_ctime)  # noqa: PTH116
        except OSError:
            return time.time()
    return newest


def folder_of(location: str) -> str:
    """Path of the folder that holds a file; an archive counts as a folder."""
    path, member = _parts(location)
    return (f"{path}/{member}" if member else path).rpartition("/")[0]


def _parts(location: str) -> tuple[str, str]:
    """Path of a file, or of an archive and the name of its member."""
    path, *member = location.split(SEPARATOR)
    return path, member[0] if member else ""


def archive_kind(path: str, start: bytes) -> str:
    """``zip``, ``tar``, ``closed`` (a format that is not read) or empty, by name and first bytes."""
    name = path.lower()
    if is_apple_double(path, start):
        return ""
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


def is_apple_double(name: str, start: bytes) -> bool:
    """Whether a file is the twin in which a Mac keeps what another file system does not: its name promises too much."""
    return name.rpartition("/")[2].startswith("._") and start[:4] == b"\x00\x05\x16\x07"


def allowance(path: str) -> Allowance:
    """What an archive may give by its size."""
    return Allowance(SLACK + MAX_RATIO * os.stat(path).st_size)  # noqa: PTH116


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive. It is opened, and read, before the next one is asked for."""

    name: str = field(repr=False)
    location: str = field(repr=False)
    """What tells it from all others: a name may occur twice in an archive."""
    open: Callable[[], IO[bytes]] = field(repr=False)


def members(path: str, kind: str, allowed: Allowance) -> Iterator[Member]:
    """Files in an archive, in its order.

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


def _members_of_zip(path: str) -> Iterator[Member]:
    with _opened_zip(path) as archive:
        infos = archive.infolist()
        _check_count(len(infos))
        location = _Locations(path)
        for info in infos:
            name = _name(info.filename)
            if not info.is_dir() and not name.lower().endswith(_SIDECARS):
                yield Member(name, location(name), partial(_open_member, archive, info))


def _members_of_tar(path: str, allowed: Allowance) -> Iterator[Member]:
    with library_errors(ARCHIVES):
        archive = tarfile.open(path, "r:*", ignore_zeros=False)  # noqa: SIM115 - closed below
    with archive:
        begin = 0
        location = _Locations(path)
        for number in count():
            _check_count(number)
            with library_errors(ARCHIVES):
                member = archive.next()
            if member is None:
                _check_end(archive)
                return
            end = member.offset_data + member.size  # what is skipped is decompressed too
            allowed.spend(end - begin)
            begin = end
            name = _name(member.name)
            if member.isfile() and not name.lower().endswith(_SIDECARS):
                yield Member(name, location(name), partial(_extract, archive, member))


def _name(name: str) -> str:
    return name.replace(SEPARATOR, "?")


class _Locations:
    """Locations of the members of one archive: a name that comes again gets its number."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._n_before: Counter[str] = Counter()

    def __call__(self, name: str) -> str:
        number = self._n_before[name]
        self._n_before[name] += 1
        return SEPARATOR.join((self._path, name, str(number))) if number else self._path + SEPARATOR + name


def _check_end(archive: tarfile.TarFile) -> None:
    """Refuse a tar that stops between two members, without the block that ends it: it is still being written."""
    with library_errors(ARCHIVES):
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise EOFError


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    with library_errors(ARCHIVES):
        opened = archive.extractfile(member)
    if opened is None:
        raise DamagedError("KeyError")
    return opened


@contextmanager
def _opened_zip(path: str) -> Iterator[zipfile.ZipFile]:
    with ExitStack() as stack:
        with library_errors(ARCHIVES):
            try:
                archive = zipfile.ZipFile(path)
            except UnicodeDecodeError:  # names that are said to be UTF-8 and are not
                archive = zipfile.ZipFile(stack.enter_context(_WithoutUtf8(path)))
        yield stack.enter_context(archive)


class _WithoutUtf8(io.FileIO):
    """A zip whose directory says of no name that it is UTF-8: then any bytes are a name."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = bytearray(super().read(-1 if size is None else size) or b"")
        start = 0
        while data[start : start + 4] == b"PK\x01\x02":
            data[start + 9] &= ~0x08  # bit 11 of the flags
            lengths = struct.unpack_from("<3H", data, start + 28) if len(data) >= start + 34 else (0, 0, 0)
            start += 46 + sum(lengths)
        return bytes(data)


_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Magic number, and lengths of name and extra field, in front of a member of a zip."""


def _open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    """Open a member by its place alone: its name may occur twice, or be written otherwise in front of it."""
    with library_errors((*ARCHIVES, struct.error)):
        raw = archive.fp
        if raw is None or info.flag_bits & 1:
            raise DamagedError("RuntimeError")  # encrypted
        raw.seek(info.header_offset)
        magic, n_name, n_extra = _LOCAL_HEADER.unpack(raw.read(_LOCAL_HEADER.size))
        if magic != b"PK\x03\x04":
            raise DamagedError("BadZipFile")
        raw.seek(n_name + n_extra, os.SEEK_CUR)
        return cast(IO[bytes], zipfile.ZipExtFile(cast(Any, raw), "r", info))


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


def is_shorter(file: IO[bytes], expected: int) -> bool:
    """Whether a file, or what is compressed in it, has fewer bytes than expected.

    A gzip file ends with the size of what is in it, modulo 4 GiB. Only where that is another one, since the file was
    cut, holds more, or consists of several parts, it is decompressed.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(2) != b"\x1f\x8b":
        return size < expected
    file.seek(max(0, size - 4))
    if int.from_bytes(file.read(4), "little") == expected % 2**32:
        return False
    file.seek(0)
    n_bytes = 0
    try:
        with gzip.GzipFile(fileobj=file) as stream:
            while n_bytes < expected and (part := read_some(cast(IO[bytes], stream), min(_CHUNK, expected - n_bytes))):
                n_bytes += len(part)
    except DamagedError:
        return True
    return n_bytes < expected


class Reader:
    """Reads files by their names, also members of archives; an archive of several wanted members is passed once."""

    def __init__(self, locations: tuple[str, ...]) -> None:
        self._locations = locations
        self._kept: dict[str, bytes] = {}
        self._zips: dict[str, zipfile.ZipFile] = {}
        self._infos: dict[str, zipfile.ZipInfo] = {}
        self._open_files = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._open_files.close()
        self._kept.clear()

    def read(self, location: str) -> bytes:
        """Bytes of one file, decompressed.

        Raises
        ------
        DamagedError
            If an archive cannot be read any more, or lacks the member.
        """
        path, member = _parts(location)
        if not member:
            with open(path, "rb") as raw:  # noqa: PTH123
                start = raw.read(2)
                raw.seek(0)
                return _inflated(raw, start)
        if path not in self._zips and location not in self._kept:
            self._open(path)
        if location in self._infos:
            with _open_member(self._zips[path], self._infos[location]) as stream:
                return _plain(bounded(stream).getvalue())
        if location not in self._kept:
            raise DamagedError("KeyError")
        return _plain(self._kept.pop(location))

    def _open(self, path: str) -> None:
        wanted = {name for name in self._locations if name.startswith(path + SEPARATOR)}
        if zipfile.is_zipfile(path):
            archive = self._zips[path] = self._open_files.enter_context(_opened_zip(path))
            numbered = _Locations(path)
            for info in archive.infolist():
                location = numbered(_name(info.filename))
                if location in wanted:
                    self._infos[location] = info
            return
        total = 0
        for member in members(path, "tar", allowance(path)):
            if member.location in wanted:
                wanted.remove(member.location)
                self._kept[member.location] = bounded(member.open()).getvalue()
                total += len(self._kept[member.location])
                if total > MAX_FILE:
                    raise LimitError(f"a series of more than {MAX_FILE} bytes in one archive")
                if not wanted:
                    return  # what follows, and may be damaged, is of others


def _inflated(raw: Any, start: bytes) -> bytes:  # noqa: ANN401
    if start == b"\x1f\x8b":
        with gzip.GzipFile(fileobj=raw) as stream:
            return bounded(stream).getvalue()  # type: ignore[arg-type]
    return bytes(raw.read())


def _plain(data: bytes) -> bytes:
    return _inflated(io.BytesIO(data), data[:2])
