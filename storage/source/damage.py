"""Damaged files: what libraries raise on them becomes one named error, at the library's call and nowhere else.

Inside `library_errors` stand calls of libraries alone. Our own code stays outside, so that a mistake in it ends a run
instead of passing for a damaged file.
"""

from __future__ import annotations

import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from pydicom.errors import BytesLengthException, InvalidDicomError

Kinds = tuple[type[Exception], ...]

PYDICOM: Kinds = (
    InvalidDicomError, BytesLengthException, OSError, EOFError, ValueError, TypeError, LookupError, AttributeError,
    NotImplementedError, ArithmeticError, RecursionError, struct.error, zlib.error,
)  # fmt: skip
"""What pydicom raises on damaged files, its decoders apart; found by mutating real files."""

DECODERS: Kinds = (*PYDICOM, MemoryError, RuntimeError)
"""What decoding of pixels raises beside: a declared size that no memory holds, a syntax that no decoder knows."""

ARCHIVES: Kinds = (
    OSError, EOFError, ValueError, RuntimeError, NotImplementedError, LookupError, zlib.error, lzma.LZMAError,
    zipfile.BadZipFile, tarfile.TarError,
)  # fmt: skip
"""What gzip, zip and tar raise on damaged archives; members that are encrypted raise RuntimeError."""

NIBABEL: Kinds = (
    OSError, EOFError, ValueError, TypeError, LookupError, ImageFileError, HeaderDataError, zlib.error, OverflowError,
)  # fmt: skip
"""What nibabel raises on damaged files."""

CONVERSIONS: Kinds = (TypeError, ValueError, OverflowError, LookupError)
"""What ``float`` raises on what is no number, and a value of pydicom that has no first one."""


class DamagedError(ValueError):
    """A library cannot read what a file holds.

    ``kind`` names the library's error, whose own text may hold what the file says.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@contextmanager
def library_errors(kinds: Kinds) -> Iterator[None]:
    """Turn errors of a library into `DamagedError`; for calls of the library and nothing else.

    Raises
    ------
    DamagedError
        In place of an error that is one of ``kinds``.
    """
    try:
        yield
    except DamagedError:
        raise
    except kinds as error:
        raise DamagedError(type(error).__name__) from None
