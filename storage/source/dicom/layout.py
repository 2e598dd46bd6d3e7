"""Where and how a file keeps its pixels, noted while its header is read, so that decoding need not parse it again.

Nothing is taken on trust: a note holds a digest of all bytes in front of the pixels, and counts for a file only while
that digest and the file's length are the same. A file of which anything here is unusual gets no note and is parsed.
"""

from __future__ import annotations

import hashlib
import re
import struct
from typing import IO, Literal, NamedTuple

from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset

from storage.source.dicom.elements import get_integer, get_number, tag_of, transfer_syntax
from storage.source.dicom.extent import BIG_ENDIAN, IMPLICIT, NATIVE, PIXELS
from storage.source.dicom.scale import PHILIPS_SCALE

SYNTAXES = (
    *(f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2", ".5")),
    *(f"1.2.840.10008.1.2.4.{end}" for end in (50, 51, 57, 70, 80, 81, 90, 91)),
)
"""Transfer syntaxes of files that may get a note: native, run lengths, and the JPEG family. Deflated ones get none."""

_PACKED = struct.Struct("<8sQQIBBB??")
_DIGEST = 8
_END = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
_ENCAPSULATED = tuple(b"\xe0\x7f\x10\x00" + kind + b"\x00\x00\xff\xff\xff\xff" for kind in (b"OB", b"OW"))
_MONOCHROME = (b"MONOCHROME2", b"MONOCHROME1")
_LONGEST_REST = 2**22
_USED = re.compile(
    rb"\x28\x00(?:[\x02\x04\x06\x08\x10\x11\x30]\x00|[\x00-\x03\x20]\x01|[\x52\x53]\x10)|\x20\x00[\x32\x37]\x00"
    rb"|\x05\x20(?:\x0e\x10|[\x10-\x1f]\x00)|\x40\x00\x96\x90|\x00\x52[\x29\x30]\x92|\xe0\x7f[\x01\x08\x09]\x00"
)
"""Elements that decoding asks for, as little-endian files write them."""


class Layout(NamedTuple):
    """Where the pixels of one file lie, and how they are stored."""

    head: bytes
    """Start of the SHA-256 of all bytes in front of ``begin``."""
    begin: int
    """Byte at which the pixels begin, or the element that holds compressed ones."""
    size: int
    """Bytes of the file."""
    n_frames: int
    syntax: str
    bits_allocated: int
    bits_stored: int
    is_signed: bool
    is_inverted: bool
    """Whether they are MONOCHROME1."""

    @property
    def is_native(self) -> bool:
        """Whether pixels lie as they are."""
        return self.syntax in NATIVE

    def pixels(self, data: bytes) -> memoryview | None:
        """The value of the pixels in the bytes of the file; None if it is not the file that was noted."""
        view = memoryview(data)
        if len(data) != self.size or hashlib.sha256(view[: self.begin]).digest()[:_DIGEST] != self.head:
            return None
        if self.is_native:
            return view[self.begin :]
        return view[self.begin + 12 : -len(_END)] if view[-len(_END) :] == _END else None


def layout_of(note: bytes) -> Layout:
    """The layout that `note_of` packed."""
    head, begin, size, n_frames, syntax, *rest = _PACKED.unpack(note)
    return Layout(head, begin, size, n_frames, SYNTAXES[syntax], *rest)


def note_of(header: Dataset, raw: IO[bytes], *, read_to: int, begin: int, size: int, head: bytes) -> bytes:
    """Pack where the pixels of a file lie and how they are stored; empty for a file that is to be parsed.

    Parameters
    ----------
    header
        What was read of it.
    raw
        The file.
    read_to
        Where reading of the header ended.
    begin, size, head
        See `Layout`; ``head`` is the whole digest.
    """
    syntax = transfer_syntax(header)
    if syntax not in SYNTAXES:
        return b""
    frames = 1 if "NumberOfFrames" not in header else get_integer(header, "NumberOfFrames") or 0
    rows, columns, samples, allocated, stored, signed = (_short(header, name) for name in _SHORTS)
    inverted = _code(header, "PhotometricInterpretation")
    if not rows or not columns or allocated not in {8, 16, 32} or samples != 1 or signed not in {0, 1}:
        return b""
    if stored is None or not 0 < stored <= allocated or not 0 < frames < 2**31:
        return b""
    if ("HighBit" in header and _short(header, "HighBit") != stored - 1) or get_number(header, "PixelPaddingValue"):
        return b""
    if inverted not in _MONOCHROME or "ExtendedOffsetTable" in header or _is_moved(header):
        return b""
    length = rows * columns * allocated // 8 * frames
    if not _lie_there(raw, syntax, begin, size, length) or not _is_all(raw, syntax, read_to, begin):
        return b""
    code = SYNTAXES.index(syntax)
    return _PACKED.pack(
        head[:_DIGEST], begin, size, frames, code, allocated, stored, signed == 1, inverted == _MONOCHROME[1]
    )


_SHORTS = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation")


def _short(header: Dataset, keyword: str) -> int | None:
    """A 16-bit number as it stands in the file; None if there is none, or it is anything else."""
    item = _item(header, tag_of(keyword))
    if isinstance(item, RawDataElement):
        if item.VR not in {None, "US"} or item.value is None or len(item.value) != 2:
            return None
        return int.from_bytes(item.value, "little" if item.is_little_endian else "big")
    return item.value if item is not None and item.VR == "US" and type(item.value) is int else None


def _code(header: Dataset, keyword: str) -> bytes:
    """A coded word as it stands in the file, without padding; empty if there is none."""
    item = _item(header, tag_of(keyword))
    if not isinstance(item, RawDataElement) or item.VR not in {None, "CS"}:
        return b""
    return (item.value or b"").rstrip(b" ")


def _item(header: Dataset, tag: int) -> DataElement | RawDataElement | None:
    return header.get_item(tag)


def _is_moved(header: Dataset) -> bool:
    """Whether Philips' scale slope lies in another block than the one that is read."""
    creators = [tag for tag in map(int, header.keys()) if 0x20050010 < tag < 0x20050100]
    return any(PHILIPS_SCALE in str(getattr(_item(header, tag), "value", "")) for tag in creators)


def _lie_there(raw: IO[bytes], syntax: str, begin: int, size: int, length: int) -> bool:
    """Whether the element of the pixels says that it holds them, and ends with the file."""
    if syntax not in NATIVE:
        raw.seek(begin)
        starts = raw.read(12) in _ENCAPSULATED
        raw.seek(max(begin, size - len(_END)))
        return starts and raw.read(len(_END)) == _END
    if begin < 140 or size - begin != length:
        return False
    order: Literal["big", "little"] = "big" if syntax == BIG_ENDIAN else "little"
    raw.seek(begin - 12)
    element = raw.read(12)
    if element[8:] != length.to_bytes(4, order):
        return False
    if syntax in IMPLICIT:
        return element[4:8] == PIXELS[order]
    return element[:4] == PIXELS[order] and element[4:8] in {b"OW\0\0", b"OB\0\0"}


def _is_all(raw: IO[bytes], syntax: str, read_to: int, begin: int) -> bool:
    """Whether what was not read of a header holds nothing that decoding asks for."""
    if begin - read_to <= 12:
        return True
    if syntax == BIG_ENDIAN or begin - read_to > _LONGEST_REST:
        return False
    raw.seek(read_to)
    return _USED.search(raw.read(begin - read_to)) is None
