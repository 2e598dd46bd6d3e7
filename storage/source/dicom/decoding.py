"""Stored values of slices: by pydicom's decoders, many slices of one kind in a call where they are not compressed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array

from storage.source.damage import DECODERS, DamagedError, library_errors
from storage.source.dicom.elements import get_number, transfer_syntax
from storage.source.dicom.extent import NATIVE
from storage.source.dicom.layout import Layout

_PLUGINS = {
    "1.2.840.10008.1.2.4.90": "pillow", "1.2.840.10008.1.2.4.91": "pillow",  # JPEG 2000
    "1.2.840.10008.1.2.4.80": "pyjpegls", "1.2.840.10008.1.2.4.81": "pyjpegls",  # JPEG-LS
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG baseline
    "1.2.840.10008.1.2.5": "pydicom",  # run lengths
}  # fmt: skip
"""Decoders that raise an error on damaged streams, where pydicom's first choices, gdcm and pylibjpeg, end the process:
by a crash, or by a panic that is no `Exception`."""


_PLAIN = NATIVE | {"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"}
"""Transfer syntaxes in which the header alone says which bits of a value count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One slice as a file of known layout holds it."""

    layout: Layout
    value: memoryview
    """The value of the element of the pixels, of all frames of the file."""
    frame: int

    @property
    def n_bytes(self) -> int:
        """Bytes of the slice, if it is not compressed."""
        return len(self.value) // self.layout.n_frames

    def goes_with(self, other: Encoded) -> bool:
        """Whether one call decodes both."""
        mine, others = self.layout, other.layout
        return mine.is_native and mine[_KIND] == others[_KIND]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Stored values of slices; of integers of which the header alone says which bits count, all bits."""

    values: NDArray[Any]
    """Of shape (slices, rows, columns), or of one slice."""
    bits: int = 0
    """Bits that the header states; 0 where the decoder has settled which count."""
    high: int = -1
    """Number of the highest of them."""


_KIND = slice(Layout._fields.index("syntax"), None)


def decode(slices: Sequence[Encoded], rows: int, columns: int) -> Stored:
    """Stored values, of shape (slices, rows, columns), of slices that go together; those compressed go alone.

    Raises
    ------
    DamagedError
        If they cannot be decoded, or are no such slices.
    """
    first = slices[0]
    layout = first.layout
    options: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME1" if layout.is_inverted else "MONOCHROME2",
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_stored,
        "pixel_representation": int(layout.is_signed),
        "pixel_keyword": "PixelData",
        "decoding_plugin": _PLUGINS.get(layout.syntax, ""),
    }
    if layout.is_native:
        parts = [one.value[one.frame * one.n_bytes : (one.frame + 1) * one.n_bytes] for one in slices]
        source, options["number_of_frames"] = b"".join(parts), len(slices)
    else:
        source, options["number_of_frames"] = bytes(first.value), layout.n_frames
        if layout.n_frames != 1:
            options["index"] = first.frame
    is_plain = layout.syntax in _PLAIN
    if is_plain:
        options["correct_unused_bits"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with library_errors(DECODERS):
            stored, _ = get_decoder(layout.syntax).as_array(source, **options)
    if stored.size != len(slices) * rows * columns:
        raise DamagedError("ValueError")
    stored = stored.reshape(len(slices), rows, columns)
    return (
        Stored(values=stored, bits=layout.bits_stored, high=layout.bits_stored - 1)
        if is_plain
        else Stored(values=stored)
    )


def decode_parsed(dataset: Dataset, frame: int) -> Stored:
    """Stored values of one frame of a file that was parsed; `DamagedError` if they cannot be decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        syntax = transfer_syntax(dataset)
        is_plain = syntax in _PLAIN
        options: dict[str, Any] = {"decoding_plugin": _PLUGINS.get(syntax, ""), "correct_unused_bits": not is_plain}
        if int(get_number(dataset, "NumberOfFrames") or 1) != 1:
            options["index"] = frame
        with library_errors(DECODERS):
            stored: NDArray[Any] = pixel_array(dataset, **options)
    stored = stored.reshape(stored.shape[-2:]) if stored.ndim == 3 and stored.shape[0] == 1 else np.asarray(stored)
    if not is_plain or stored.ndim != 2:
        return Stored(values=stored)
    bits, high = (get_number(dataset, name) for name in ("BitsStored", "HighBit"))
    return Stored(values=stored, bits=int(bits or 0), high=int((bits or 0) - 1 if high is None else high))
