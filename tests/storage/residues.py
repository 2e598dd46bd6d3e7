"""What a store's objects hold, looked at from outside: every byte, and everything that is compressed within."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from numcodecs import Zstd

_ZSTD = b"\x28\xb5\x2f\xfd"


def texts(location: Path) -> Iterator[bytes]:
    """Content of every object, plain, and of every Zstandard frame in it, and in those again."""
    for path in sorted(location.rglob("*")):
        if path.is_file():
            yield path.name.encode()
            yield from _decoded(path.read_bytes())


def _decoded(data: bytes) -> Iterator[bytes]:
    yield data
    start = data.find(_ZSTD)
    while start >= 0:
        inner = _frame(data[start:])
        if inner is not None:
            yield from _decoded(inner)
        start = data.find(_ZSTD, start + 1)


def _frame(data: bytes) -> bytes | None:
    """Content of the frame that ``data`` begins with, whatever follows it."""
    end = _end_of_frame(data)
    if end is None:
        return None
    try:
        return bytes(Zstd().decode(data[:end]))
    except RuntimeError:
        return None


def _end_of_frame(data: bytes) -> int | None:
    """Length of a Zstandard frame (RFC 8878, 3.1.1): header, blocks, checksum."""
    if len(data) < 9:
        return None
    descriptor = data[4]
    single = descriptor >> 5 & 1
    position = 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3]
    position += (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    while position + 3 <= len(data):
        header = int.from_bytes(data[position : position + 3], "little")
        size = 1 if header >> 1 & 3 == 1 else header >> 3
        position += 3 + size
        if header & 1:
            end = position + (4 if descriptor >> 2 & 1 else 0)
            return end if end <= len(data) else None
    return None


def holds(location: Path, *wanted: bytes) -> int:
    """How many objects, or parts of objects, hold one of the texts."""
    return sum(any(text in content for text in wanted) for content in texts(location))
