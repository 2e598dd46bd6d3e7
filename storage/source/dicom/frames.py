"""DICOM files: one `Frame` per slice, in SI units, with only allow-listed values kept for the store."""

from __future__ import annotations

import hashlib
import logging
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import IO, Any, NamedTuple, cast

import pydicom
import pydicom.config
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial

from qmri_core.series.acquisition import SeriesHeader
from qmri_core.series.classification import SkipReason
from storage.source.damage import PYDICOM, DamagedError, library_errors
from storage.source.dicom.elements import (
    first_item,
    first_number,
    get_code,
    get_integer,
    get_number,
    get_text,
    get_vector,
    get_words,
    items_of,
    private_item,
    private_words,
    required_value,
    transfer_syntax,
)
from storage.source.dicom.extent import (
    NATIVE,
    is_decodable,
    may_hold_pixels,
    missing_bytes,
    pixel_bytes,
    start_of_pixels,
)
from storage.source.dicom.header import (
    clock_of,
    complex_component,
    date_of,
    header_values,
    image_type_of,
    sex_of,
    software_of,
    stated_age_of,
    traits_of,
    traits_of_frame,
    traits_of_rescale,
    traits_of_scale,
    words_of,
)
from storage.source.dicom.layout import layout_of, note_of
from storage.source.dicom.moments import moment_of
from storage.source.dicom.opening import HEAD, check_deflated, looks_bare, opened
from storage.source.dicom.scale import PHILIPS_NESTED, constant_scale
from storage.source.files import Allowance, LimitError, folder_of
from storage.source.series import Scale

# Archives hold many small violations of the standard, and a validation warning would quote the value.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # what it logs of damaged files may hold their texts

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
_CONVERTED = f"{MR_IMAGE}.4"
"""Legacy Converted Enhanced MR: an archive put classic images together; what it had no place for lies unassigned."""
MR_IMAGES = frozenset({MR_IMAGE, f"{MR_IMAGE}.1", _CONVERTED})
_SPECTROSCOPY = frozenset({f"{MR_IMAGE}.2", "1.3.46.670589.11.0.0.12.1"})
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_DIRECTORY = "1.2.840.10008.1.3.10"
_NO_IMAGE = tuple(f"1.2.840.10008.5.1.4.1.1.{node}" for node in ("66", "88", "11.", "104", "9.", "67", "481"))
_CHUNK = 2**20

OWN = "qmri-cohort"
"""Manufacturer of the objects that this program writes: its maps are never taken for images, nor do they make a session
another one than it was without them."""
_KEYWORDS = words_of(
    "SpecificCharacterSet ImageType SOPClassUID SOPInstanceUID FrameOfReferenceUID StudyDate SeriesDate "
    "AcquisitionDate ContentDate AcquisitionDateTime SeriesTime AcquisitionTime ContentTime InstanceCreationDate "
    "Modality ConversionType "
    "Manufacturer ManufacturerModelName StationName DeviceSerialNumber SoftwareVersions PatientName PatientID "
    "PatientBirthDate PatientSex PatientAge ContrastBolusAgent ContrastBolusVolume ContrastBolusTotalDose "
    "ContrastBolusIngredient "
    "SeriesDescription ProtocolName SequenceName PulseSequenceName TriggerTime "
    "ScanningSequence SequenceVariant ScanOptions MRAcquisitionType AngioFlag SliceThickness RepetitionTime "
    "EchoTime InversionTime InversionTimes FlipAngle EchoTrainLength EchoNumbers MagneticFieldStrength B1rms "
    "ImagingFrequency EchoPulseSequence EchoPlanarPulseSequence InversionRecovery AcquisitionContrast "
    "ComplexImageComponent DiffusionBValue StudyInstanceUID SeriesInstanceUID SeriesNumber AcquisitionNumber "
    "InstanceNumber TemporalPositionIdentifier ImagePositionPatient ImageOrientationPatient NumberOfFrames "
    "BitsAllocated Rows Columns PixelSpacing SamplesPerPixel SpacingBetweenSlices ImagesInAcquisition "
    "LossyImageCompression SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence "
    "PhotometricInterpretation BitsStored HighBit PixelPaddingValue PixelRepresentation RescaleSlope RescaleIntercept "
    "RealWorldValueMappingSequence ExtendedOffsetTable"
)
_PHILIPS_SCALE = 0x2005100E
"""The scale slope, in the first block of group 2005, where all files seen have it."""
_SIEMENS_FRAME = "SIEMENS MR SDI 02"
TAGS: list[Any] = [
    int(tag)  # pydicom looks each element up among them, and its own tags take several times as long to compare
    for tag in (
        *(cast(int, tag_for_keyword(keyword)) for keyword in sorted(_KEYWORDS)),
        *(0x00190010, 0x0019100C, 0x00430010, 0x0043102F, 0x00431039, 0x00650010, 0x00651009),  # b-values of vendors
        *range(0x20010010, 0x20010020),  # creators of private blocks
        *(0x20010003 + (block << 8) for block in range(0x10, 0x14)),  # Philips b-value
        *(0x20010013 + (block << 8) for block in range(0x10, 0x14)),  # EPI factor
        *(0x20010020 + (block << 8) for block in range(0x10, 0x14)),  # scanning technique
        *(0x2001001B + (block << 8) for block in range(0x10, 0x20)),  # prepulse delay
        *range(0x20050010, 0x20050020),
        _PHILIPS_SCALE,
    )
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One file; its text form shows no identity."""

    path: str = field(repr=False)
    digest: str
    """Of all bytes; ``pixels`` is of those of the pixels alone, which survive rewritten headers."""
    pixels: str
    sop_instance: str = field(repr=False)
    series: str = field(repr=False)
    study: str = field(repr=False)
    patient: str = field(repr=False)
    is_numbered: bool
    """Whether ``patient`` is a patient identifier, not a name."""
    device: str = field(repr=False)
    serial: str = field(repr=False)
    frame_of_reference: str = field(repr=False)
    number: int
    instance_number: int
    transfer_syntax: str
    rows: int
    columns: int
    sex: str
    birth: int | None = field(repr=False)
    stated_age: int | None
    date: int | None = field(repr=False)
    """Ordinal of the study's date, as ``birth`` and ``acquired`` are ordinals of the stated dates."""
    acquired: int | None = field(repr=False)
    problem: SkipReason | None
    n_missing: int = 0
    """Bytes that the file is shorter than its pixels say: it was cut short, or is still being written."""
    is_of_cut_archive: bool = False
    """Whether the file lies in an archive that cannot be read to its end."""
    layout: bytes = field(default=b"", repr=False)
    """Where its pixels lie and how they are stored, see `storage.source.dicom.layout`; empty if it is to be parsed."""
    changed: float = field(default=0.0, repr=False)
    """When a server was seen to have changed its study; 0 of a file."""

    @property
    def is_own(self) -> bool:
        """Whether this program wrote it."""
        return self.device.startswith(f"{OWN}\\")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One slice of one file."""

    instance: Instance
    index: int
    position: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    pixel_spacing: tuple[float, ...] | None = None
    thickness: float | None = None
    header: SeriesHeader = field(default_factory=SeriesHeader)
    software: str = field(default="", repr=False)
    volume: tuple[float, ...] = ()
    """Counters and clocks that tell repeated volumes apart: temporal position, acquisition, echo, trigger, times, and
    a number of the folder."""
    traits: frozenset[str] = frozenset()
    """Names of the flags of `qmri_core.series.classification.Context`: facts for classification that are not kept."""
    moment: float | None = field(default=None, repr=False)
    """Seconds at which it was acquired, see `storage.source.dicom.moments`; only differences leave the reader."""
    created: int | None = field(default=None, repr=False)
    """Ordinal of the day on which the object was made."""
    step: float | None = None
    """Millimetres between slices, as the header says."""
    n_declared: int | None = None
    """Images of the acquisition, as the header says."""
    scale: Scale | None = field(default=None, repr=False)
    """How stored values become others; None if the file is to be parsed for it."""


class UnreadableError(OSError):
    """A file may not be read, or its disk fails."""


def scan_file(path: str) -> tuple[Frame, ...] | None:
    """Read the header of one file, which may be gzipped; see `scan_stream`.

    Raises
    ------
    UnreadableError
        If the operating system does not give the file.
    """
    try:
        with open(path, "rb") as raw:  # noqa: PTH123  # measured: Path.open costs 5 % of a scan
            return scan_stream(raw, path)
    except LimitError:
        raise
    except OSError as error:
        raise UnreadableError(error.errno, error.strerror) from None


def scan_stream(raw: IO[bytes], location: str, allowed: Allowance | None = None) -> tuple[Frame, ...] | None:
    """Read the header of one file from a stream that can seek.

    Returns None if it is no DICOM or its header is damaged, nothing for a DICOMDIR, else one frame per slice; objects
    that are no MR image give one frame whose instance names the problem. ``allowed`` counts what is decompressed of a
    member of an archive.

    Raises
    ------
    LimitError
        If it is larger than `storage.source.files.MAX_FILE` after decompression, or than what is allowed.
    """
    try:
        content = opened(raw, allowed)
        if content is None:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _scan(content, location, allowed)
    except DamagedError:
        return None


def _scan(raw: IO[bytes], location: str, allowed: Allowance | None) -> tuple[Frame, ...] | None:
    start = raw.read(HEAD)
    raw.seek(0)
    force = bool(looks_bare(start))
    if _DEFLATED in start:
        check_deflated(raw, allowed)
    with library_errors(PYDICOM):
        header: Dataset = read_partial(cast(Any, raw), _past_classic, force=force, specific_tags=TAGS)
    read_to = raw.tell()
    if force and "Rows" not in header and "SOPClassUID" not in header:
        return None
    size = raw.seek(0, 2)
    if get_text(header, "SOPClassUID") == MR_IMAGE:
        has_pixels = may_hold_pixels(header, size) or start_of_pixels(raw, force=force) < size
    else:  # functional groups come late
        raw.seek(0)
        with library_errors(PYDICOM):
            header = pydicom.dcmread(raw, stop_before_pixels=True, specific_tags=TAGS, force=force)
        has_pixels = (read_to := raw.tell()) < size
    return _frames(header, location, has_pixels, _Raw(raw, size, read_to, force))


class _Raw(NamedTuple):
    """A file whose header has been read."""

    stream: IO[bytes]
    size: int
    read_to: int
    """Where reading of the header ended."""
    force: bool
    """Whether it starts without preamble."""


def _past_classic(tag: int, _vr: str | None, _length: int) -> bool:
    """Stop behind the last element that a classic file is asked for; what follows is long and private."""
    return int.__gt__(tag, _PHILIPS_SCALE)  # pydicom's own comparison is called for each element, and is slow


class _Noted(NamedTuple):
    """What is noted of the bytes of a file; see `Instance`."""

    digest: str = ""
    pixels: str = ""
    layout: bytes = b""


def _noted(raw: _Raw, header: Dataset) -> _Noted:
    """Digests of all bytes and of those of the pixels, and where these lie."""
    length = pixel_bytes(header)
    native = transfer_syntax(header) in NATIVE and 0 < length < raw.size
    begin = raw.size - length if native else start_of_pixels(raw.stream, force=raw.force)
    raw.stream.seek(0)
    parts = [hashlib.sha256(), hashlib.sha256()]
    for digest, rest in zip(parts, (min(begin, raw.size), max(0, raw.size - begin)), strict=True):
        while rest > 0 and (data := raw.stream.read(min(rest, _CHUNK))):
            digest.update(data)
            rest -= len(data)
    head = parts[0].digest()
    note = note_of(header, raw.stream, read_to=raw.read_to, begin=begin, size=raw.size, head=head)
    return _Noted(hashlib.sha256(head + parts[1].digest()).hexdigest(), parts[1].hexdigest()[:32], note)


def frames_of_header(header: Dataset, location: str, digest: str) -> tuple[Frame, ...]:
    """Frames of an object of which a server tells the header alone; one with a raster is taken to have pixels.

    Raises
    ------
    DamagedError
        If the header cannot be read.
    """
    return _frames(header, location, True, digest)


def _frames(header: Dataset, location: str, has_pixels: bool, raw: _Raw | str) -> tuple[Frame, ...]:
    """Frames of a file, or of a header with its digest alone."""
    sop_class = get_text(header, "SOPClassUID")
    if sop_class == _DIRECTORY:
        return ()
    problem = _object_problem(header, sop_class, has_pixels)
    # Only what may be ingested is read whole.
    noted = _Noted() if problem else _noted(raw, header) if isinstance(raw, _Raw) else _Noted(digest=raw)
    instance = _instance(header, location, noted, problem)
    if (
        problem is None
        and isinstance(raw, _Raw)
        and not noted.layout
        and (n_missing := missing_bytes(raw.stream, header, raw.size, force=raw.force))
    ):
        instance = replace(instance, n_missing=n_missing)
    if problem is not None:
        return (Frame(instance=instance, index=0),)
    software = software_of(header)
    groups = items_of(required_value(header, "PerFrameFunctionalGroupsSequence"))
    if groups:
        if instance.layout and layout_of(instance.layout).n_frames != len(groups):
            instance = replace(instance, layout=b"")
        shared = items_of(required_value(header, "SharedFunctionalGroupsSequence"))
        return tuple(_enhanced_frames(header, shared[0] if shared else Dataset(), groups, instance, software))
    n_frames = int(get_number(header, "NumberOfFrames") or 1)
    position = get_vector(header, "ImagePositionPatient", 3) if n_frames == 1 else None
    return (
        Frame(
            instance=instance,
            index=0,
            position=position,
            orientation=get_vector(header, "ImageOrientationPatient", 6),
            pixel_spacing=get_vector(header, "PixelSpacing", 2),
            thickness=get_number(header, "SliceThickness"),
            header=header_values((header,), _image_type(header), header),
            software=software,
            volume=(
                get_number(header, "TemporalPositionIdentifier") or 0.0,
                *_counters(header, location, get_integer(header, "EchoNumbers")),
            ),
            traits=traits_of(header) | traits_of_scale(header) | traits_of_rescale(header),
            moment=moment_of((header,)),
            created=date_of(header, "InstanceCreationDate"),
            step=get_number(header, "SpacingBetweenSlices"),
            n_declared=get_integer(header, "ImagesInAcquisition"),
            scale=constant_scale(header, None, None) if instance.layout and n_frames == 1 else None,
        ),
    )


def _image_type(header: Dataset) -> tuple[str, ...]:
    return image_type_of(get_words(header, "ImageType"), complex_component(header))


def _counters(header: Dataset, location: str, echo: int | None) -> tuple[float, ...]:
    return (
        get_number(header, "AcquisitionNumber") or 0.0,
        float(echo or 0),
        get_number(header, "TriggerTime") or 0.0,
        clock_of(header, "SeriesTime"),
        clock_of(header, "AcquisitionTime"),
        float(zlib.crc32(folder_of(location).encode(errors="surrogateescape"))),
    )


def _enhanced_frames(
    header: Dataset, shared: Dataset, groups: Iterable[Dataset], instance: Instance, software: str
) -> Iterator[Frame]:
    headers: dict[tuple[Any, ...], SeriesHeader] = {}
    common = traits_of(header) | ({"converted"} if get_text(header, "SOPClassUID") == _CONVERTED else set())
    created = date_of(header, "InstanceCreationDate")
    for index, group in enumerate(groups):
        items: dict[str, Dataset | None] = {}
        for name in _GROUPS:
            items[name] = first_item(group, name) or first_item(shared, name)
        nested = private_item(group, 0x2005, PHILIPS_NESTED, 0x0F)
        content, plane = items["FrameContentSequence"], items["PlanePositionSequence"]
        measures, kind = items["PixelMeasuresSequence"], items["MRImageFrameTypeSequence"]
        sources = tuple(item for item in (*items.values(), nested, header) if item is not None)
        siemens = private_item(group, 0x0021, _SIEMENS_FRAME, 0xFE)
        words = get_words(kind, "FrameType") or get_words(header, "ImageType")
        extra = private_words(siemens, 0x0021, _SIEMENS_FRAME, 0x75)
        component = get_text(kind, "ComplexImageComponent") or get_text(header, "ComplexImageComponent")
        contrast = get_text(kind, "AcquisitionContrast") or get_text(header, "AcquisitionContrast")
        image_type = image_type_of((*words, *extra, contrast), component)
        key = (image_type, *(first_number(sources, name) for name in _TIMING))
        if key not in headers:
            headers[key] = header_values(sources, image_type, header)
        yield Frame(
            instance=instance,
            index=index,
            position=get_vector(plane, "ImagePositionPatient", 3),
            orientation=get_vector(items["PlaneOrientationSequence"], "ImageOrientationPatient", 6),
            pixel_spacing=get_vector(measures, "PixelSpacing", 2),
            thickness=get_number(measures, "SliceThickness"),
            header=headers[key],
            software=software,
            volume=(
                get_number(content, "TemporalPositionIndex") or get_number(header, "TemporalPositionIdentifier") or 0.0,
                *_counters(header, instance.path, get_integer(nested, "EchoNumbers")),
            ),
            traits=common | traits_of_frame(sources) | traits_of_scale(header, nested),
            moment=moment_of(sources),
            created=created,
            step=first_number(sources, "SpacingBetweenSlices"),
            scale=constant_scale(header, shared, group) if instance.layout else None,
        )


_GROUPS = (
    "MRTimingAndRelatedParametersSequence",
    "MREchoSequence",
    "MRModifierSequence",
    "MRDiffusionSequence",
    "FrameContentSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "MRImageFrameTypeSequence",
    "UnassignedSharedConvertedAttributesSequence",
    "UnassignedPerFrameConvertedAttributesSequence",
)
_TIMING = ("RepetitionTime", "EffectiveEchoTime", "EchoTime", "InversionTime", "InversionTimes", "FlipAngle")


def _object_problem(header: Dataset, sop_class: str, has_pixels: bool) -> SkipReason | None:
    if get_text(header, "Manufacturer") == OWN:
        return SkipReason.DERIVED
    if sop_class in _SPECTROSCOPY or "SPECTROSCOPY" in get_words(header, "ImageType"):
        return SkipReason.MR_SPECTROSCOPY
    is_mr = sop_class in MR_IMAGES or (not sop_class and get_text(header, "Modality") in {"MR", ""})
    if is_mr and _has_raster(header) and not is_decodable(transfer_syntax(header)):
        return SkipReason.UNDECODABLE
    if sop_class.startswith(_NO_IMAGE) or not has_pixels or not _has_raster(header):
        return SkipReason.NOT_IMAGE
    if is_mr:
        return SkipReason.NOT_IMAGE if _is_coloured(header) else None
    return SkipReason.NOT_MR


def _is_coloured(header: Dataset) -> bool:
    shown = get_code(header, "PhotometricInterpretation")  # as it stands: what notes the layout asks for it too
    return (get_number(header, "SamplesPerPixel") or 1) > 1 or not (not shown or shown.startswith("MONOCHROME"))


def _has_raster(header: Dataset) -> bool:
    return bool(required_value(header, "Rows") and required_value(header, "Columns"))


def _instance(header: Dataset, location: str, noted: _Noted, problem: SkipReason | None) -> Instance:
    manufacturer, model = get_text(header, "Manufacturer"), get_text(header, "ManufacturerModelName")
    serial = get_text(header, "DeviceSerialNumber")
    dates = ("StudyDate", "SeriesDate", "AcquisitionDate")
    number = get_text(header, "PatientID")
    patient = number or get_text(header, "PatientName") + get_text(header, "PatientBirthDate")
    return Instance(
        path=location,
        digest=noted.digest,
        pixels=noted.pixels,
        sop_instance=get_code(header, "SOPInstanceUID"),
        series=get_code(header, "SeriesInstanceUID"),
        study=get_text(header, "StudyInstanceUID"),
        patient=patient,
        is_numbered=bool(number),
        device="\\".join((manufacturer, model, serial or get_text(header, "StationName"))),
        serial=serial,
        frame_of_reference=get_code(header, "FrameOfReferenceUID"),
        number=get_integer(header, "SeriesNumber") or 0,
        instance_number=get_integer(header, "InstanceNumber") or 0,
        transfer_syntax=transfer_syntax(header),
        rows=get_integer(header, "Rows") or 0,
        columns=get_integer(header, "Columns") or 0,
        sex=sex_of(header),
        birth=date_of(header, "PatientBirthDate"),
        stated_age=stated_age_of(header),
        date=next(filter(None, (date_of(header, name) for name in dates)), None),
        acquired=next(filter(None, (date_of(header, name) for name in reversed(dates))), None),
        problem=problem,
        layout=noted.layout,
    )
