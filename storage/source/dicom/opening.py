"""Files that may be DICOM: those that are, with compressed ones inflated within bounds."""

from __future__ import annotations

import zlib
from typing import IO, cast

from storage.source.damage import ARCHIVES, library_errors
from storage.source.files import MAX_FILE, Allowance, LimitError, bounded

HEAD = 1024
"""Bytes that hold the file meta information of any file seen."""
_CHUNK = 2**20


def opened(raw: IO[bytes], allowed: Allowance | None) -> IO[bytes] | None:
    """The decompressed content of a file that starts as DICOM does, else None."""
    start = raw.read(HEAD)
    if start[:2] == b"\x1f\x8b":
        raw.seek(0)
        return _inflated(raw, allowed)
    raw.seek(0)
    return None if looks_bare(start) is None else raw


def _inflated(raw: IO[bytes], allowed: Allowance | None) -> IO[bytes] | None:
    """The content of a gzipped file in memory, if its start is that of a DICOM file."""
    import gzip

    with gzip.GzipFile(fileobj=raw) as stream:
        with library_errors(ARCHIVES):
            start = stream.read(HEAD)
        return None if looks_bare(start) is None else bounded(cast(IO[bytes], stream), start, allowed)


def check_deflated(raw: IO[bytes], allowed: Allowance | None) -> None:
    """Refuse a deflated data set that would not fit; pydicom inflates it as a whole."""
    raw.seek(140)  # the length of the file meta information is in its first element, behind the preamble
    raw.seek(144 + int.from_bytes(raw.read(4), "little"))
    engine, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while not engine.eof and (part := raw.read(_CHUNK)):
        while part and not engine.eof:  # a byte of padding follows, which stays unconsumed for ever
            with library_errors((zlib.error,)):
                size = len(engine.decompress(part, _CHUNK))
            part, total = engine.unconsumed_tail, total + size
            if allowed is not None:
                allowed.spend(size)
            if total > MAX_FILE // 4:
                raise LimitError(f"more than {MAX_FILE // 4} bytes in a deflated file")
    raw.seek(0)


def looks_bare(start: bytes) -> bool | None:
    """Whether the file starts without preamble; None if it is no DICOM."""
    if start[128:132] == b"DICM":
        return False
    bare = start[:2] in {b"\x02\x00", b"\x08\x00"} and start[3:4] == b"\x00" and len(start) >= 132
    return True if bare else None
