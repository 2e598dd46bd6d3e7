"""Pixels of a DICOM series: decoded, rescaled to comparable values, put together as one volume."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from qmri_core.series.geometry import Volume
from storage.source.damage import PYDICOM, DamagedError, library_errors
from storage.source.dicom.bits import check_sign, is_settled, padded, read_bits
from storage.source.dicom.decoding import Encoded, Stored, decode, decode_parsed
from storage.source.dicom.elements import first_item, get_number, get_text, get_vector
from storage.source.dicom.layout import layout_of
from storage.source.dicom.scale import groups_of, scale_of
from storage.source.files import Reader
from storage.source.series import ReadError, Scale, Series

_TAGS: list[Any] = [
    "TransferSyntaxUID", "SOPClassUID", "InstanceNumber", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "RealWorldValueMappingSequence",
    "ImagePositionPatient", "ImageOrientationPatient", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", "PixelPaddingValue", "PixelData", "FloatPixelData", "DoubleFloatPixelData",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
    *range(0x20050010, 0x20050020),  # creators of private blocks
    *(0x2005000E + (block << 8) for block in range(0x10, 0x20)),  # Philips scale slope
]  # fmt: skip
MAX_VOXELS = 2**29
"""Of one volume: 2 GiB in memory; a head at 0.4 mm has a quarter of it."""
_BATCH = 2**24
"""Bytes of slices that are decoded at once."""
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
        Naming the instance whose pixels are missing, damaged or of another size; or where signal lies below zero.
    """
    check_size(series)
    with Reader(series.paths) as reader:
        return _read(series, reader)


def _read(series: Series, reader: Reader) -> Volume:
    slices = _Slices(series)
    batch: list[_Piece] = []
    file = None
    for z, (number, frame) in enumerate(series.frames):
        if file is None or file.number != number:  # one at a time is enough: slices of a file are neighbours
            file = _File(series, number, reader)
        piece = file.piece(z, frame)
        if batch and (piece is None or not piece.continues(batch)):
            slices.add_known(batch)
            batch = []
        if piece is None:
            slices.add_parsed(z, file, frame)
        else:
            batch.append(piece)
    if batch:
        slices.add_known(batch)
    return slices.volume()


_Plane = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
"""Position, orientation and pixel spacing of a slice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """A slice of whose header all is known that decoding needs."""

    z: int
    file: _File
    encoded: Encoded
    scale: Scale
    plane: _Plane

    def continues(self, batch: Sequence[_Piece]) -> bool:
        """Whether it is to be decoded with those of a batch."""
        return self.encoded.goes_with(batch[0].encoded) and (len(batch) + 1) * self.encoded.n_bytes <= _BATCH


class _File:
    """One file of a series, in memory."""

    def __init__(self, series: Series, number: int, reader: Reader) -> None:
        self._series, self.number = series, number
        try:
            self._data = reader.read(series.paths[number])
        except (DamagedError, OSError, MemoryError) as error:
            raise self._complaint(error) from None
        known = series.known
        self._layout = layout_of(known.notes[number]) if known is not None and known.notes[number] else None
        self._value = None if self._layout is None else self._layout.pixels(self._data)

    def piece(self, z: int, frame: int) -> _Piece | None:
        """A slice, if its header is known; None if the file is to be parsed for it."""
        known = self._series.known
        if known is None or self._layout is None or self._value is None or len(known.scales) != self._series.shape[2]:
            return None
        scale, position = known.scales[z], known.positions[z]
        if scale is None or position is None or frame >= self._layout.n_frames:
            return None
        encoded = Encoded(layout=self._layout, value=self._value, frame=frame)
        plane = position, known.orientation, known.pixel_spacing
        return _Piece(z=z, file=self, encoded=encoded, scale=scale, plane=plane)

    @cached_property
    def dataset(self) -> Dataset:
        """What pydicom reads."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with library_errors(PYDICOM):
                    return pydicom.dcmread(io.BytesIO(self._data), force=True, specific_tags=_TAGS)
        except (DamagedError, OSError, MemoryError) as error:
            raise self._complaint(error) from None

    def _complaint(self, error: Exception) -> ReadError:
        kind = error.kind if isinstance(error, DamagedError) else type(error).__name__
        return ReadError(
            f"session {self._series.session}, series {self._series.number}: file {self.number + 1} of "
            f"{len(self._series.paths)} cannot be read ({kind}); copy it again from its origin"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slice:
    """One slice with what makes signals of its stored values."""

    z: int
    stored: Stored
    scale: Scale
    is_inverted: bool
    padding: float | None = None


class _Slices:
    """A volume that is being read."""

    def __init__(self, series: Series) -> None:
        columns, rows, n_slices = series.shape
        self._series = series
        self._array = np.empty((n_slices, rows, columns), dtype=np.float32)
        self._planes: list[_Plane] = []
        self._inverted: dict[int, _Inverted] = {}
        self._waiting: list[_Slice] = []  # until all are there that say which bits count
        self._is_philips = series.header.manufacturer == "Philips"

    def add_known(self, batch: Sequence[_Piece]) -> None:
        """Add slices whose headers are known; if they cannot be decoded, their files are parsed to say why."""
        try:
            stored = decode([piece.encoded for piece in batch], *self._array.shape[1:])
        except DamagedError:
            for piece in batch:
                self.add_parsed(piece.z, piece.file, piece.encoded.frame)
            return
        settled = is_settled(stored.values, stored.bits, stored.high)
        for piece, values in zip(batch, stored.values, strict=True):
            self._planes.append(piece.plane)
            is_inverted = piece.encoded.layout.is_inverted
            one = _Slice(z=piece.z, stored=replace(stored, values=values), scale=piece.scale, is_inverted=is_inverted)
            self._add(one, settled=settled)

    def add_parsed(self, z: int, file: _File, frame: int) -> None:
        """Add a slice by what its header says."""
        dataset, shape = file.dataset, self._array.shape[1:]
        instance = int(get_number(dataset, "InstanceNumber") or 0)
        try:
            stored = decode_parsed(dataset, frame)
        except DamagedError as error:
            raise ReadError(_complaint(self._series, instance, f"cannot be decoded ({error.kind})")) from None
        if stored.values.shape != shape:
            raise ReadError(_complaint(self._series, instance, f"has {stored.values.shape} pixels, not {shape}"))
        scale = scale_of(dataset, frame, philips=self._is_philips)
        is_inverted = get_text(dataset, "PhotometricInterpretation") == "MONOCHROME1"
        padding = get_number(dataset, "PixelPaddingValue")
        one = _Slice(z=z, stored=stored, scale=scale, is_inverted=is_inverted, padding=padding)
        self._add(one, settled=is_settled(stored.values, stored.bits, stored.high))
        position, orientation, spacing = _plane(dataset, frame)
        if position is None or orientation is None or spacing is None:
            raise ReadError(_complaint(self._series, instance, "lost its position between discovery and reading"))
        self._planes.append((position, orientation, spacing))

    def _add(self, one: _Slice, *, settled: bool) -> None:
        if settled:
            self._add_values(one, one.stored.values, padded(one.stored.values, one.padding))
        else:
            self._waiting.append(one)

    def _add_waiting(self) -> None:
        """Add the slices of which all together say which bits count; their padding says nothing of that."""
        kinds: dict[tuple[str, int, int, int], list[_Slice]] = {}
        for one in self._waiting:
            values = one.stored.values
            kinds.setdefault((values.dtype.kind, values.itemsize, one.stored.bits, one.stored.high), []).append(one)
        self._waiting = []
        for (_, _, bits, high), members in kinds.items():
            padding = [padded(one.stored.values, one.padding) for one in members]
            raw = [np.where(nothing, 0, one.stored.values) for nothing, one in zip(padding, members, strict=True)]
            for one, nothing, values in zip(members, padding, read_bits(np.stack(raw), bits, high), strict=True):
                self._add_values(one, values, nothing if nothing.any() else padded(values, one.padding))

    def _add_values(self, one: _Slice, stored: NDArray[Any], padding: NDArray[np.bool_]) -> None:
        z = one.z
        slope, intercept, private = one.scale
        divisor = slope * private if self._is_philips and private and slope else None
        if slope == 1 and intercept == 0 and divisor is None and stored.itemsize <= 4:
            self._array[z] = stored
        else:
            values = stored * slope
            values += intercept
            if divisor is not None:
                values /= divisor
            self._array[z] = values
        if padding.any():
            self._array[z][padding] = 0
            stored = stored[~padding]
        if one.is_inverted:
            linear = (slope, intercept) if divisor is None else (1 / (private or 1), intercept / divisor)
            self._inverted[z] = _Inverted(slope=linear[0], intercept=linear[1], top=float(stored.max()))

    def volume(self) -> Volume:
        """The volume, once all slices are there."""
        self._add_waiting()
        positions = [position for position, _, _ in self._planes]
        _, orientation, pixel_spacing = self._planes[0]
        affine = _affine(self._series, self._array, positions, orientation, pixel_spacing)
        array = _upright(self._array, [one for _, one in sorted(self._inverted.items())])
        check_sign(array, f"session {self._series.session}, series {self._series.number}")
        return Volume(array=array, affine=affine)


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


def _plane(
    dataset: Dataset, frame: int
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None, tuple[float, ...] | None]:
    shared, own = groups_of(dataset, frame)

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
