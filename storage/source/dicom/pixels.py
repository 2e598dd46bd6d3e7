"""Pixels of a DICOM series: decoded, rescaled to comparable values, put together as one volume."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array

from qmri_core.series.geometry import Volume
from storage.source.damage import DECODERS, PYDICOM, DamagedError, library_errors
from storage.source.dicom.elements import (
    first_item,
    get_number,
    get_text,
    get_value,
    get_vector,
    items_of,
    private_item,
    private_number,
    transfer_syntax,
)
from storage.source.dicom.frames import PHILIPS_NESTED
from storage.source.dicom.header import PHILIPS_SCALE
from storage.source.files import Reader
from storage.source.series import ReadError, Series

_TAGS: list[Any] = [
    "TransferSyntaxUID", "SOPClassUID", "InstanceNumber", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "RealWorldValueMappingSequence",
    "ImagePositionPatient", "ImageOrientationPatient", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
    *range(0x20050010, 0x20050020),  # creators of private blocks
    *(0x2005000E + (block << 8) for block in range(0x10, 0x20)),  # Philips scale slope
]  # fmt: skip
MAX_VOXELS = 2**29
"""Of one volume: 2 GiB in memory; a head at 0.4 mm has a quarter of it."""
_DECODERS = {
    "1.2.840.10008.1.2.4.90": "pillow", "1.2.840.10008.1.2.4.91": "pillow",  # JPEG 2000
    "1.2.840.10008.1.2.4.80": "pyjpegls", "1.2.840.10008.1.2.4.81": "pyjpegls",  # JPEG-LS
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG baseline
}  # fmt: skip
"""Decoders that raise an error on damaged streams, where pydicom's first choice, gdcm, ends the process."""
_SAME_TOP = 0.02
"""Of the largest stored value: slices whose own ones differ by less were inverted together."""
_AFFINE_TOLERANCE = 0.01  # mm at the far corner, between the headers read by discovery and by the library


def read_dicom(series: Series) -> Volume:
    """Decode a series whose slices discovery has put in order.

    Values are those of the modality transform; for Philips, divided further by slope and private scale slope, so that
    series of one session are comparable: (stored * RS + RI) / (RS * SS).

    Raises
    ------
    ReadError
        Naming the instance whose pixels are missing, damaged or of another size.
    """
    check_size(series)
    with Reader(series.paths) as reader:
        return _read(series, reader)


def _read(series: Series, reader: Reader) -> Volume:
    files: dict[int, Dataset] = {}
    columns, rows, n_slices = series.shape
    array = np.empty((n_slices, rows, columns), dtype=np.float32)
    positions: list[tuple[float, ...]] = []
    orientation: tuple[float, ...] = ()
    pixel_spacing: tuple[float, ...] = ()
    inverted: list[_Inverted] = []
    for z, (file, frame) in enumerate(series.frames):
        if file not in files:
            files = {file: _open(series, reader, file)}  # one file at a time is enough: slices of a file are neighbours
        dataset = files[file]
        instance = int(get_number(dataset, "InstanceNumber") or 0)
        array[z], linear = _pixels(series, dataset, frame, instance, (rows, columns))
        if get_text(dataset, "PhotometricInterpretation") == "MONOCHROME1":
            inverted.append(linear)
        position, orientation_here, spacing_here = _plane(dataset, frame)
        if position is None or orientation_here is None or spacing_here is None:
            raise ReadError(_complaint(series, instance, "lost its position between discovery and reading"))
        positions.append(position)
        if z == 0:
            orientation, pixel_spacing = orientation_here, spacing_here
    affine = _affine(series, array, positions, orientation, pixel_spacing)
    return Volume(array=_upright(array, inverted), affine=affine)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inverted:
    """A slice whose values are ``slope`` times what is stored, which is at most ``top``, plus ``intercept``."""

    slope: float
    intercept: float
    top: float


def _upright(array: NDArray[np.float32], slices: Sequence[_Inverted]) -> NDArray[np.float32]:
    """A volume of MONOCHROME1 as signal, which is zero in air.

    Exports that invert an image store its largest value, or that of its bits, minus the value. The least signal of a
    magnitude image is zero, hence the largest value that is stored stands for it in both; where slices were inverted
    one by one, the largest of each. Where the border of the image is darker than the rest, values are signal already,
    and only their display was inverted.
    """
    if len(slices) != len(array):
        return array
    border = np.concatenate([array[:, [0, -1]].ravel(), array[:, :, [0, -1]].ravel()])
    if float(np.median(border)) <= float(array.mean()):
        return array
    tops = np.asarray([one.top for one in slices])
    if tops.min() > (1 - _SAME_TOP) * tops.max():
        tops[:] = tops.max()
    slopes, intercepts = (np.asarray([getattr(one, name) for one in slices]) for name in ("slope", "intercept"))
    zero = (slopes * tops + 2 * intercepts)[:, None, None]  # slope * (top - stored) + intercept
    return np.asarray(zero - array, dtype=np.float32)


def _open(series: Series, reader: Reader, file: int) -> Dataset:
    try:
        data = reader.read(series.paths[file])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with library_errors(PYDICOM):
                return pydicom.dcmread(io.BytesIO(data), force=True, specific_tags=_TAGS)
    except (DamagedError, OSError, MemoryError) as error:
        kind = error.kind if isinstance(error, DamagedError) else type(error).__name__
        raise ReadError(
            f"session {series.session}, series {series.number}: file {file + 1} of {len(series.paths)} cannot be read "
            f"({kind}); copy it again from its origin"
        ) from None


def _pixels(
    series: Series, dataset: Dataset, frame: int, instance: int, shape: tuple[int, int]
) -> tuple[NDArray[np.float32], _Inverted]:
    """Values of one frame, and how they follow from the stored ones."""
    try:
        stored = _decoded(dataset, frame)
    except DamagedError as error:
        raise ReadError(_complaint(series, instance, f"cannot be decoded ({error.kind})")) from None
    stored = stored.reshape(stored.shape[-2:]) if stored.ndim == 3 and stored.shape[0] == 1 else stored
    if stored.shape != shape:
        raise ReadError(_complaint(series, instance, f"has {stored.shape} pixels, not {shape}"))
    philips = series.header.manufacturer == "Philips"
    slope, intercept, scale = _rescale(dataset, frame, philips=philips)
    top = float(stored.max())
    if philips and scale and slope:
        linear = _Inverted(slope=1 / scale, intercept=intercept / (slope * scale), top=top)
        return np.asarray((stored * slope + intercept) / (slope * scale), dtype=np.float32), linear
    linear = _Inverted(slope=slope, intercept=intercept, top=top)
    return np.asarray(stored * slope + intercept, dtype=np.float32), linear


def _decoded(dataset: Dataset, frame: int) -> NDArray[Any]:
    """Stored values of one frame; `DamagedError` if they cannot be decoded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options: dict[str, Any] = {"decoding_plugin": _DECODERS.get(transfer_syntax(dataset), "")}
        if int(get_number(dataset, "NumberOfFrames") or 1) != 1:
            options["index"] = frame
        with library_errors(DECODERS):
            return pixel_array(dataset, **options)


def check_size(series: Series) -> None:
    """Refuse a volume that no memory would hold, before a byte of it is read.

    Raises
    ------
    ReadError
        Beyond `MAX_VOXELS`.
    """
    if math.prod(series.shape) > MAX_VOXELS:
        raise ReadError(
            f"session {series.session}, series {series.number}: its header declares a volume of {series.shape} voxels; "
            f"at most {MAX_VOXELS} are read"
        )


def _groups(dataset: Dataset, frame: int) -> tuple[Dataset, Dataset]:
    shared = first_item(dataset, "SharedFunctionalGroupsSequence") or Dataset()
    per_frame = items_of(get_value(dataset, "PerFrameFunctionalGroupsSequence"))
    return shared, per_frame[frame] if per_frame else Dataset()


def _rescale(dataset: Dataset, frame: int, *, philips: bool) -> tuple[float, float, float | None]:
    """Slope, intercept and, where a Philips file has it, scale slope of one frame."""
    shared, own = _groups(dataset, frame)
    source = first_item(own, "PixelValueTransformationSequence") or first_item(
        shared, "PixelValueTransformationSequence"
    )
    source = source or dataset
    slope, intercept = get_number(source, "RescaleSlope"), get_number(source, "RescaleIntercept")
    if slope is None and philips:  # some exports keep only the real-world mapping, with the same numbers
        mapping = first_item(own, "RealWorldValueMappingSequence") or first_item(
            dataset, "RealWorldValueMappingSequence"
        )
        if mapping is not None:
            slope, intercept = (
                get_number(mapping, "RealWorldValueSlope"),
                get_number(mapping, "RealWorldValueIntercept"),
            )
    scale = private_number(dataset, 0x2005, PHILIPS_SCALE, 0x0E)
    nested = private_item(own, 0x2005, PHILIPS_NESTED, 0x0F)
    if nested is not None:
        scale = private_number(nested, 0x2005, PHILIPS_SCALE, 0x0E) or scale
    return (1.0 if slope is None else slope), (intercept or 0.0), scale


def _plane(
    dataset: Dataset, frame: int
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None, tuple[float, ...] | None]:
    shared, own = _groups(dataset, frame)

    def find(sequence: str, keyword: str, size: int) -> tuple[float, ...] | None:
        return get_vector(first_item(own, sequence) or first_item(shared, sequence) or dataset, keyword, size)

    return (
        find("PlanePositionSequence", "ImagePositionPatient", 3),
        find("PlaneOrientationSequence", "ImageOrientationPatient", 6),
        find("PixelMeasuresSequence", "PixelSpacing", 2),
    )


def _affine(
    series: Series,
    array: NDArray[np.float32],
    positions: list[tuple[float, ...]],
    orientation: tuple[float, ...],
    pixel_spacing: tuple[float, ...],
) -> NDArray[np.float64]:
    """RAS affine from highdicom's volume; it must agree with the one that discovery derived."""
    import highdicom  # memory of its own, which reading headers does not need
    from highdicom.spatial import get_volume_positions

    spacing, order = get_volume_positions(positions, orientation, rtol=0.05, perpendicular_tol=2e-3)
    if spacing is None or order is None:
        raise ReadError(_complaint(series, 0, "and its neighbours make no evenly spaced volume"))
    volume = highdicom.Volume.from_attributes(
        array=array,
        image_position=positions[0],
        image_orientation=orientation,
        pixel_spacing=pixel_spacing,
        spacing_between_slices=series.spacing[2],
        coordinate_system="PATIENT",
    )
    lps = volume.affine  # of the index order slice, row, column
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps[:, [2, 1, 0, 3]]
    expected = np.asarray(series.affine)
    corner = np.asarray([*(np.asarray(series.shape) - 1), 1.0])
    if np.abs((affine - expected) @ corner).max() > max(_AFFINE_TOLERANCE, 5e-3 * series.spacing[2] * series.shape[2]):
        raise ReadError(_complaint(series, 0, "lies elsewhere than discovery found; the files changed meanwhile"))
    return expected


def _complaint(series: Series, instance: int, what: str) -> str:
    return f"session {series.session}, series {series.number}, instance {instance} {what}; export the series again"
