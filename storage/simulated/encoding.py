"""One DICOM file to be written, in any of the transfer syntaxes that archives use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import gdcm
import numpy as np
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from qmri_core.series.acquisition import Contrast
from qmri_core.simulation.acquired import Role

SYNTAXES: Mapping[str, UID] = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg": JPEGLosslessSV1,
    "jpeg-ls": JPEGLSLossless,
    "jpeg-2000": JPEG2000Lossless,
}
"""Lossless transfer syntaxes by short names."""


@dataclass(slots=True, kw_only=True)
class DicomFile:
    """A file below a study's folder: a dataset, or bytes that are none.

    ``role`` and ``contrast`` say which series it belongs to; both ``None`` for what belongs to none.
    """

    folder: str
    name: str
    content: FileDataset | bytes
    role: Role | None = None
    contrast: Contrast | None = None

    @property
    def dataset(self) -> FileDataset:
        """The dataset; it may be changed."""
        if isinstance(self.content, bytes):
            raise TypeError(f"{self.name} holds bytes, not a dataset")
        return self.content

    def encoded(self) -> bytes:
        """Bytes of the file."""
        if isinstance(self.content, bytes):
            return self.content
        buffer = BytesIO()
        self.content.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()


def transcode(dataset: FileDataset, syntax: str) -> FileDataset:
    """Give a dataset of native 16-bit pixels one of `SYNTAXES`, in place; returns it.

    Raises
    ------
    ValueError
        If the name is not known or the pixels cannot be compressed.
    """
    if syntax not in SYNTAXES:
        raise ValueError(f"transfer syntax {syntax!r} is none of {', '.join(SYNTAXES)}")
    target = SYNTAXES[syntax]
    if target == dataset.file_meta.TransferSyntaxUID:
        return dataset
    dataset.file_meta.TransferSyntaxUID = target
    if not target.is_compressed:
        dataset.set_original_encoding(is_implicit_vr=target.is_implicit_VR, is_little_endian=True)
        return dataset
    size = 2 * int(dataset.Rows) * int(dataset.Columns)
    pixels = dataset.PixelData
    frames = [_compressed(dataset, pixels[k : k + size], target) for k in range(0, len(pixels) // size * size, size)]
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


def _compressed(dataset: FileDataset, frame: bytes, target: UID) -> bytes:
    """One frame by GDCM, as pydicom does for run-length encoding only."""
    writer: Any = gdcm.ImageWriter()  # the image lives as long as its writer
    image = writer.GetImage()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((int(dataset.Columns), int(dataset.Rows), 1))
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.ImplicitVRLittleEndian))
    bits = int(dataset.BitsStored)
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, bits, bits - 1, int(dataset.PixelRepresentation)))
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetByteStringValue(frame)
    image.SetDataElement(element)
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(target))))
    change.SetInput(image)
    if not change.Change():
        raise ValueError(f"a frame of {dataset.Rows} x {dataset.Columns} pixels cannot be stored as {target.name}")
    fragments = change.GetOutput().GetDataElement().GetSequenceOfFragments()
    parts = [
        fragments.GetFragment(k).GetByteValue().GetBuffer().encode("utf-8", "surrogateescape")
        for k in range(fragments.GetNumberOfFragments())
    ]
    return b"".join(parts)


def garbage(size: int, seed: int) -> bytes:
    """Random bytes."""
    return np.random.default_rng(seed).bytes(size)
