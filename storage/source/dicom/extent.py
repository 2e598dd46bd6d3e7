"""How far the pixels of a DICOM file reach, and whether the file reaches as far."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import IO, Literal

import pydicom
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder

from storage.source.damage import PYDICOM, DamagedError, library_errors
from storage.source.dicom.elements import get_number, transfer_syntax

NATIVE = frozenset({"", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"})
"""Transfer syntaxes that leave pixels as they are; empty where a file names none."""

PIXELS = {"little": b"\xe0\x7f\x10\x00", "big": b"\x7f\xe0\x00\x10"}
"""Tag of the element of the pixels, by the order of bytes."""
BIG_ENDIAN = "1.2.840.10008.1.2.2"
IMPLICIT = frozenset({"", "1.2.840.10008.1.2"})
"""Transfer syntaxes whose elements do not name their kind of value."""
_UNKNOWN_LENGTH = 0xFFFFFFFF
_DEFLATED = "1.2.840.10008.1.2.1.99"
_FRAGMENT = b"\xfe\xff\x00\xe0"
_END_OF_FRAGMENTS = b"\xfe\xff\xdd\xe0"


@lru_cache(maxsize=256)
def is_decodable(syntax: str) -> bool:
    """Whether a decoder that is installed reads pixels of a transfer syntax: no video, nothing that lies elsewhere."""
    if syntax in NATIVE:
        return True
    try:
        return bool(get_decoder(syntax).is_available)
    except NotImplementedError:  # how pydicom says that it knows none
        return False


def pixel_bytes(header: Dataset) -> int:
    """Bytes of the pixels, if they are not compressed."""
    bits = 1.0
    for name, default in (("Rows", 0), ("Columns", 0), ("BitsAllocated", 16), ("NumberOfFrames", 1)):
        bits *= get_number(header, name) or default
    if not math.isfinite(bits):
        raise DamagedError("OverflowError")
    return int(bits / 8)


def may_hold_pixels(header: Dataset, size: int) -> bool:
    """Whether a file is long enough for its pixels, if they are not compressed."""
    return transfer_syntax(header) not in NATIVE or size >= pixel_bytes(header)


def start_of_pixels(raw: IO[bytes], *, force: bool) -> int:
    """Where pixels begin in a file, however few there are: then it was cut short, and reading it must fail."""
    raw.seek(0)
    with library_errors(PYDICOM):
        pydicom.dcmread(raw, stop_before_pixels=True, specific_tags=["Rows"], force=force)
    return raw.tell()


def missing_bytes(raw: IO[bytes], header: Dataset, size: int, *, force: bool) -> int:
    """Bytes of the pixels that a file lacks, by what the element of the pixels, or each of its fragments, says."""
    syntax = transfer_syntax(header)
    if syntax == _DEFLATED:  # the lengths lie within what is deflated
        return 0
    if syntax not in NATIVE:
        return _missing_fragments(raw, size, force=force)
    order: Literal["big", "little"] = "big" if syntax == BIG_ENDIAN else "little"
    expected = size - pixel_bytes(header)
    for start in (expected - 12, expected - 8):  # nearly always the pixels end the file
        if start > 0 and _length_at(raw, start, order, is_long=start == expected - 12) == size - expected:
            return 0
    start = start_of_pixels(raw, force=force)
    length = _length_at(raw, start, order, is_long=syntax not in IMPLICIT)
    begin = start + (8 if syntax in IMPLICIT else 12)
    return 0 if length is None else max(0, begin + length - size)


def _missing_fragments(raw: IO[bytes], size: int, *, force: bool) -> int:
    """Bytes that lack of the last fragment of compressed pixels, and of the mark behind it that decoding needs.

    Whole fragments may lack too: nothing says how many there are.
    """
    raw.seek(max(0, size - 8))
    if raw.read(4) == _END_OF_FRAGMENTS:  # nearly always it ends the file
        return 0
    place = start_of_pixels(raw, force=force) + 12
    while True:
        raw.seek(place)
        fragment = raw.read(8)
        if len(fragment) < 8 and fragment[:4] != _END_OF_FRAGMENTS:
            return place + 8 - size
        if fragment[:4] != _FRAGMENT:
            return 0  # the mark, or what is no fragment: reading it will tell
        place += 8 + int.from_bytes(fragment[4:], "little")


def _length_at(raw: IO[bytes], start: int, order: Literal["big", "little"], *, is_long: bool) -> int | None:
    """Length of the element of the pixels that starts there; None if none does, or it does not say."""
    raw.seek(start)
    element = raw.read(12)
    if element[:4] != PIXELS[order] or len(element) < 12:
        return None
    length = int.from_bytes(element[8:12] if is_long else element[4:8], order)
    return None if length == _UNKNOWN_LENGTH else length
