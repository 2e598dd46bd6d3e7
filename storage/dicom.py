"""DICOM headers: one `Frame` per slice, in SI units, with only allow-listed values kept for the store."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, cast

import pydicom
import pydicom.config
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial

from qmri_core.acquisition import SeriesHeader
from qmri_core.classification import SkipReason
from storage.elements import (
    BROKEN,
    first_item,
    first_number,
    first_value,
    first_words,
    get_integer,
    get_number,
    get_text,
    get_vector,
    get_words,
    private_item,
    private_number,
    private_words,
)

# Archives hold many small violations of the standard, and a validation warning would quote the value.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
_MR_IMAGES = frozenset({_MR_IMAGE, f"{_MR_IMAGE}.1", f"{_MR_IMAGE}.4"})
_SPECTROSCOPY = f"{_MR_IMAGE}.2"
_NATIVE = frozenset({"", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"})
_DIRECTORY = "1.2.840.10008.1.3.10"
_NO_IMAGE = tuple(f"1.2.840.10008.5.1.4.1.1.{node}" for node in ("66", "88", "11.", "104", "9.", "67", "481"))


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


_IMAGE_TYPES = _words_of(
    "ORIGINAL DERIVED PRIMARY SECONDARY OTHER M P R I MAGNITUDE PHASE REAL IMAGINARY MIXED NONE ND NORM DIS2D "
    "DIS3D FIL FM MFSPLIT MOSAIC VFRAME MPR MIP MINIP PROJECTION REFORMATTED SUBTRACTION SUBTRACT RESAMPLED "
    "UNI DIVISION LOCALIZER SCOUT DIFFUSION ADC FA TRACEW PERFUSION ASL TOF TIME_OF_FLIGHT SWI FLOW_ENCODED "
    "FMRI CSAPARALLEL T1 T2 T2_STAR PROTON_DENSITY FLUID_ATTENUATED STIR M_SE M_FFE M_IR P_SE P_FFE P_IR R_SE "
    "R_FFE R_IR I_SE I_FFE I_IR SE FFE IR"
) | {"PROJECTION IMAGE", "PHASE MAP", "T1 MAP", "T2 MAP", "CSA MPR", "SCREEN SAVE", "MEAN_DIFFUSION"}
_COMPONENTS = {"MAGNITUDE": "M", "PHASE": "PHASE", "REAL": "REAL", "IMAGINARY": "IMAGINARY"}
_PARTS = {"P_": "PHASE", "R_": "REAL", "I_": "IMAGINARY"}
_SEQUENCES = frozenset({"SE", "IR", "GR", "EP", "RM"})
_VARIANTS = frozenset({"SK", "MTC", "SS", "TRSS", "SP", "MP", "OSP", "NONE"})
_OPTIONS = _words_of(
    "PER RG CG PPG FC PFF PFP SP FS CT SAT1 SAT2 OTHER NONE IR_GEMS EDR_GEMS FAST_GEMS SEQ_GEMS TRF_GEMS "
    "SS_GEMS ACC_GEMS FILTERED_GEMS FSA_GEMS FSI_GEMS FSS_GEMS T2FLAIR_GEMS T1FLAIR_GEMS VASCTOF_GEMS MP_GEMS "
    "WE"
)

_MANUFACTURERS = (
    ("siemens", "Siemens"), ("philips", "Philips"), ("ge medical", "GE"), ("ge healthcare", "GE"), ("general el", "GE"),
    ("canon", "Canon"), ("toshiba", "Canon"), ("uih", "UIH"), ("united imaging", "UIH"), ("hitachi", "Hitachi"),
    ("fujifilm", "Hitachi"),
)  # fmt: skip
_MODELS = (
    ("Philips", r"achieva|ingenia|intera|gyroscan|panorama|elition|ambition"),
    ("Siemens", r"magnetom|trio|skyra|prisma|avanto|aera|verio|symphony|sonata|espree|allegra|vida|sola|lumina|terra"),
    ("GE", r"signa|discovery|optima|genesis"),
    ("UIH", r"^umr"),
    ("Canon", r"vantage|galan|orian"),
    ("Hitachi", r"echelon|oasis|airis"),
)
# Gadolinium agents; the header field is free text, so that a mere note in it must not count.
_AGENTS = re.compile(
    r"gad|gd-|omniscan|magnevist|dotarem|prohance|multihance|clariscan|elucirem|vueway|eovist|primovist"
)

_KEYWORDS = _words_of(
    "SpecificCharacterSet ImageType SOPClassUID SOPInstanceUID StudyDate SeriesDate AcquisitionDate Modality "
    "Manufacturer ManufacturerModelName StationName DeviceSerialNumber SoftwareVersions PatientName PatientID "
    "PatientBirthDate PatientSex PatientAge ContrastBolusAgent ContrastBolusVolume ContrastBolusTotalDose "
    "ScanningSequence SequenceVariant ScanOptions MRAcquisitionType AngioFlag SliceThickness RepetitionTime "
    "EchoTime InversionTime InversionTimes FlipAngle EchoTrainLength EchoNumbers MagneticFieldStrength "
    "EchoPulseSequence EchoPlanarPulseSequence InversionRecovery AcquisitionContrast ComplexImageComponent "
    "DiffusionBValue StudyInstanceUID SeriesInstanceUID SeriesNumber AcquisitionNumber InstanceNumber "
    "TemporalPositionIdentifier ImagePositionPatient ImageOrientationPatient NumberOfFrames BitsAllocated Rows Columns "
    "PixelSpacing SamplesPerPixel SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence"
)
_PHILIPS_1 = "Philips Imaging DD 001"
PHILIPS_NESTED = "Philips MR Imaging DD 005"
"""Creator of the block that nests a classic header in each frame of an enhanced Philips file."""
_SIEMENS_FRAME = "SIEMENS MR SDI 02"
_TAGS: list[Any] = [
    *(cast(int, tag_for_keyword(keyword)) for keyword in sorted(_KEYWORDS)),
    *range(0x20010010, 0x20010020),  # creators of private blocks
    *(0x2001001B + (block << 8) for block in range(0x10, 0x20)),  # Philips prepulse delay
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One file; its text form shows no identity."""

    path: str = field(repr=False)
    digest: str
    sop_instance: str = field(repr=False)
    series: str = field(repr=False)
    study: str = field(repr=False)
    patient: str = field(repr=False)
    device: str = field(repr=False)
    number: int
    instance_number: int
    transfer_syntax: str
    rows: int
    columns: int
    sex: str
    age: int | None
    date: int | None = field(repr=False)
    """Ordinal of the study's date."""
    problem: SkipReason | None


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
    echo: int | None = None
    volume: tuple[float, ...] = ()
    """Temporal position and acquisition number: tells repeated volumes apart."""
    traits: frozenset[str] = frozenset()
    """Of ``diffusion``, ``angiography``, ``contrast_agent``: facts for classification that are not kept."""


def scan_file(path: str) -> tuple[Frame, ...] | None:
    """Read the header of one file.

    Returns None if the file is no DICOM, nothing for a DICOMDIR, else one frame per slice; objects that are no MR image
    give one frame whose instance names the problem. A damaged DICOM header counts as an object without image.
    """
    try:
        with open(path, "rb") as raw:  # noqa: PTH123  # measured: Path.open costs 5 % of a scan
            start = raw.read(2)
            raw.seek(0)
            stream: Any = gzip.GzipFile(fileobj=raw) if start == b"\x1f\x8b" else raw
            force = _looks_bare(stream)
            if force is None:
                return None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                header = read_partial(stream, _past_classic, force=force, specific_tags=_TAGS)
                if force and "Rows" not in header and "SOPClassUID" not in header:
                    return None
                if stream is raw and get_text(header, "SOPClassUID") == _MR_IMAGE:
                    has_pixels = _may_hold_pixels(header, path) or _holds_some_pixels(stream, force=force)
                else:  # functional groups come late, and compressed files cannot be measured
                    stream.seek(0)
                    header = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=_TAGS, force=force)
                    has_pixels = bool(stream.read(1))
                raw.seek(0)
                return _frames(header, path, has_pixels, raw)
    except BROKEN:
        return None


def _past_classic(tag: int, _vr: str | None, _length: int) -> bool:
    """Stop behind the last element that a classic file is asked for; what follows is long and private."""
    return tag > 0x2001FFFF


def _may_hold_pixels(header: Dataset, path: str) -> bool:
    """Whether a file is long enough for its pixels, if they are not compressed."""
    syntax = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", "")
    if str(syntax) not in _NATIVE:
        return True
    size = (
        (get_number(header, "Rows") or 0)
        * (get_number(header, "Columns") or 0)
        * (get_number(header, "BitsAllocated") or 16)
    )
    return os.stat(path).st_size >= size / 8  # noqa: PTH116


def _holds_some_pixels(stream: IO[bytes], *, force: bool) -> bool:
    """Whether pixels begin in a file, however few there are: then it was cut short, and reading it must fail."""
    stream.seek(0)
    pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=["Rows"], force=force)
    return bool(stream.read(1))


def _looks_bare(stream: IO[bytes]) -> bool | None:
    """Whether the file starts without preamble; None if it is no DICOM."""
    start = stream.read(132)
    stream.seek(0)
    if start[128:132] == b"DICM":
        return False
    bare = start[:2] in {b"\x02\x00", b"\x08\x00"} and start[3:4] == b"\x00" and len(start) == 132
    return True if bare else None


def _frames(header: Dataset, path: str, has_pixels: bool, raw: IO[bytes]) -> tuple[Frame, ...]:
    sop_class = get_text(header, "SOPClassUID")
    if sop_class == _DIRECTORY:
        return ()
    problem = _object_problem(header, sop_class, has_pixels)
    # Only what may be ingested is read whole.
    digest = "" if problem else hashlib.file_digest(cast(Any, raw), "sha256").hexdigest()
    instance = _instance(header, path, digest, problem)
    if problem is not None:
        return (Frame(instance=instance, index=0),)
    software = "\\".join(get_words(header, "SoftwareVersions"))
    groups = header.get("PerFrameFunctionalGroupsSequence")
    if groups:
        shared = header.get("SharedFunctionalGroupsSequence")
        first = shared[0] if shared else Dataset()
        return tuple(_enhanced_frames(header, first, groups, instance, software))
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
            header=_header((header,), _image_type(get_words(header, "ImageType"), ""), header),
            software=software,
            echo=get_integer(header, "EchoNumbers"),
            volume=(
                get_number(header, "TemporalPositionIdentifier") or 0.0,
                get_number(header, "AcquisitionNumber") or 0.0,
            ),
            traits=_traits((header,)),
        ),
    )


def _enhanced_frames(
    header: Dataset, shared: Dataset, groups: Iterable[Dataset], instance: Instance, software: str
) -> Iterator[Frame]:
    headers: dict[tuple[Any, ...], SeriesHeader] = {}
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
        image_type = _image_type((*words, *extra, contrast), component)
        key = (image_type, *(first_value(sources, name) for name in _TIMING))
        if key not in headers:
            headers[key] = _header(sources, image_type, header)
        yield Frame(
            instance=instance,
            index=index,
            position=get_vector(plane, "ImagePositionPatient", 3),
            orientation=get_vector(items["PlaneOrientationSequence"], "ImageOrientationPatient", 6),
            pixel_spacing=get_vector(measures, "PixelSpacing", 2),
            thickness=get_number(measures, "SliceThickness"),
            header=headers[key],
            software=software,
            echo=get_integer(nested, "EchoNumbers"),
            volume=(
                get_number(content, "TemporalPositionIndex") or 0.0,
                get_number(header, "TemporalPositionIdentifier") or 0.0,
                get_number(header, "AcquisitionNumber") or 0.0,
            ),
            traits=_traits(sources),
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
)
_TIMING = ("RepetitionTime", "EffectiveEchoTime", "EchoTime", "InversionTime", "InversionTimes", "FlipAngle")


def _object_problem(header: Dataset, sop_class: str, has_pixels: bool) -> SkipReason | None:
    if sop_class == _SPECTROSCOPY:
        return SkipReason.MR_SPECTROSCOPY
    if sop_class.startswith(_NO_IMAGE) or not has_pixels or not (header.get("Rows") and header.get("Columns")):
        return SkipReason.NOT_IMAGE
    if sop_class in _MR_IMAGES or (not sop_class and get_text(header, "Modality") in {"MR", ""}):
        return SkipReason.NOT_IMAGE if (get_number(header, "SamplesPerPixel") or 1) > 1 else None
    return SkipReason.NOT_MR


def _instance(header: Dataset, path: str, digest: str, problem: SkipReason | None) -> Instance:
    manufacturer, model = get_text(header, "Manufacturer"), get_text(header, "ManufacturerModelName")
    device = get_text(header, "DeviceSerialNumber") or get_text(header, "StationName")
    date = next(filter(None, (_date(header, name) for name in ("StudyDate", "SeriesDate", "AcquisitionDate"))), None)
    patient = get_text(header, "PatientID") or get_text(header, "PatientName") + get_text(header, "PatientBirthDate")
    syntax = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", "")
    return Instance(
        path=path,
        digest=digest,
        sop_instance=get_text(header, "SOPInstanceUID"),
        series=get_text(header, "SeriesInstanceUID"),
        study=get_text(header, "StudyInstanceUID"),
        patient=patient,
        device="\\".join((manufacturer, model, device)),
        number=get_integer(header, "SeriesNumber") or 0,
        instance_number=get_integer(header, "InstanceNumber") or 0,
        transfer_syntax=str(syntax),
        rows=get_integer(header, "Rows") or 0,
        columns=get_integer(header, "Columns") or 0,
        sex=sex if (sex := get_text(header, "PatientSex").upper()) in {"M", "F", "O"} else "",
        age=_age(header, date),
        date=date,
        problem=problem,
    )


def _header(sources: tuple[Dataset, ...], image_type: tuple[str, ...], top: Dataset) -> SeriesHeader:
    """Allow-listed values in SI units, the first source that has one counting."""
    codes = _coded(first_words(sources, "ScanningSequence"), _SEQUENCES) or _pulse_codes(sources)
    if first_value(sources, "EchoPlanarPulseSequence") == "YES" and "EP" not in codes:
        codes = (*codes, "EP")
    if first_value(sources, "InversionRecovery") == "YES" and "IR" not in codes:
        codes = (*codes, "IR")
    manufacturer = manufacturer_of(get_text(top, "Manufacturer"), get_text(top, "ManufacturerModelName"))
    inversion = _seconds(first_number(sources, "InversionTimes") or first_number(sources, "InversionTime"))
    if inversion is None and manufacturer == "Philips":
        inversion = _seconds(private_number(top, 0x2001, _PHILIPS_1, 0x1B))  # prepulse delay
    angle = first_number(sources, "FlipAngle")
    lengths = [first_number(sources, name) for name in ("EchoTrainLength", "RFEchoTrainLength")]
    length = max((int(value) for value in lengths if value), default=None)
    kind = get_text(top, "MRAcquisitionType").upper() or str(first_value(sources, "MRAcquisitionType") or "")
    return SeriesHeader(
        manufacturer=manufacturer,
        model=slug(get_text(top, "ManufacturerModelName")),
        magnetic_field_strength=field_strength(get_number(top, "MagneticFieldStrength")),
        mr_acquisition_type=kind if kind in {"2D", "3D"} else "",
        scanning_sequence=codes,
        sequence_variant=_coded(first_words(sources, "SequenceVariant"), _VARIANTS),
        scan_options=_coded(first_words(sources, "ScanOptions"), _OPTIONS),
        image_type=image_type,
        repetition_time=_seconds(first_number(sources, "RepetitionTime")),
        echo_time=_seconds(first_number(sources, "EffectiveEchoTime") or first_number(sources, "EchoTime")),
        inversion_time=inversion,
        flip_angle=math.radians(angle) if angle is not None and 0 < angle <= 180 else None,
        echo_train_length=length if length is not None and length > 0 else None,
    )


def _pulse_codes(sources: tuple[Dataset, ...]) -> tuple[str, ...]:
    pulse = first_value(sources, "EchoPulseSequence")
    return {"SPIN": ("SE",), "GRADIENT": ("GR",), "BOTH": ("SE", "GR")}.get(str(pulse), ())


def _image_type(words: tuple[str, ...], component: str) -> tuple[str, ...]:
    """Known codes only, with the complex part spelled out."""
    result = [word for word in words if word in _IMAGE_TYPES and word != "NONE"]
    if component in _COMPONENTS:
        result = [word for word in result if word not in {"P", "R", "I"}]
        result.append(_COMPONENTS[component])
    result += [_PARTS[word[:2]] for word in words if word[:2] in _PARTS]
    result += ["PHASE" for word in words if word == "PHASE MAP"]
    result += ["PROJECTION" for word in words if word == "PROJECTION IMAGE"]
    return tuple(dict.fromkeys(result))


def _traits(sources: tuple[Dataset, ...]) -> frozenset[str]:
    found = set()
    if (first_number(sources, "DiffusionBValue") or 0) > 0:
        found.add("diffusion")
    if first_value(sources, "AngioFlag") == "Y":
        found.add("angiography")
    given = (first_number(sources, "ContrastBolusVolume") or 0) + (first_number(sources, "ContrastBolusTotalDose") or 0)
    if given > 0 or _AGENTS.search(str(first_value(sources, "ContrastBolusAgent") or "").lower()):
        found.add("contrast_agent")
    return frozenset(found)


def manufacturer_of(name: str, model: str) -> str:
    """Coded manufacturer, from the model where the name is missing or unknown; empty if neither is known."""
    lower = name.lower()
    if lower in {"ge", "gems"}:
        return "GE"
    for part, manufacturer in _MANUFACTURERS:
        if part in lower:
            return manufacturer
    return next((maker for maker, pattern in _MODELS if re.search(pattern, model.lower())), "")


def slug(text: str) -> str:
    """Lower-case letters, digits and single hyphens, at most 32."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:32].strip("-")


def field_strength(value: float | None) -> float | None:
    """Tesla; old files give gauss or millitesla."""
    if value is None or value <= 0:
        return None
    for scale in (1.0, 1e-3, 1e-4):
        if value * scale <= 12.0:
            return value * scale
    return None


def _age(header: Dataset, date: int | None) -> int | None:
    match = re.fullmatch(r"(\d{1,3})([YMWD])", get_text(header, "PatientAge").upper())
    if match:
        years = int(match[1]) if match[2] == "Y" else int(match[1]) // {"M": 12, "W": 52, "D": 365}[match[2]]
    else:
        birth = _date(header, "PatientBirthDate")
        if birth is None or date is None or date < birth:
            return None
        years = int((date - birth) / 365.2425)
    return min(years, 90)


def _date(header: Dataset, keyword: str) -> int | None:
    text = get_text(header, keyword)
    try:
        return datetime.date(int(text[:4]), int(text[4:6]), int(text[6:8])).toordinal()
    except ValueError:
        return None


def _seconds(milliseconds: float | None) -> float | None:
    return milliseconds / 1000 if milliseconds is not None and milliseconds > 0 else None


def _coded(words: tuple[str, ...], known: frozenset[str]) -> tuple[str, ...]:
    return tuple(word for word in words if word in known and word != "NONE")
