"""Headers of a series over DIMSE: what a list of its objects tells, and the header of one of them that was retrieved.

Few servers tell timings in a list, and none tells sequences or private elements. One object is retrieved to say what
the others have in common with it; if what may differ between slices is not told, all of them must be retrieved.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRLittleEndian

from qmri_core.series.classification import Context, SkipReason, classify
from storage.source.damage import PYDICOM, DamagedError, library_errors
from storage.source.dicom.elements import get_value, tag_of
from storage.source.dicom.frames import MR_IMAGES, TAGS, frames_of_header
from storage.source.dicom.header import words_of
from storage.source.server.archive import Header

_COMMON = frozenset(
    tag_of(keyword)
    for keyword in words_of(
        "SpecificCharacterSet StudyDate SeriesDate SeriesTime Modality Manufacturer ManufacturerModelName StationName "
        "DeviceSerialNumber SoftwareVersions PatientName PatientID PatientBirthDate PatientSex PatientAge "
        "SeriesDescription ProtocolName StudyInstanceUID SeriesInstanceUID SeriesNumber FrameOfReferenceUID"
    )
)
"""What the standard says of patients, studies, series and devices: all objects of a series have it in common."""

_FRAMES = frozenset(map(tag_of, ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")))
_POSITION = tag_of("ImagePositionPatient")

RULED_OUT = frozenset({SkipReason.DIFFUSION, SkipReason.EPI, SkipReason.MOSAIC, SkipReason.LOCALIZER})
"""What one object suffices to say of its series: most of an archive's images, and nothing that the others need."""


@cache
def askable() -> tuple[tuple[int, str], ...]:
    """Elements that a list may tell of an object, with their kinds: neither sequences nor private ones."""
    found = []
    for tag in TAGS:
        if not _is_private(tag) and (kind := dictionary_VR(tag).partition(" ")[0]) not in {"SQ", "OV", "OB", "OW"}:
            found.append((int(tag), kind))
    return tuple(found)


def header_of_file(content: bytes) -> Dataset:
    """The elements that are read of a file.

    Raises
    ------
    DamagedError
        If it cannot be read.
    """
    with library_errors(PYDICOM):
        return pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=TAGS)


def header_told(*answers: Dataset) -> Header:
    """Header of an object of which only lists tell, of itself, its series and its study: enough to say what it is."""
    answer, found = answers[0], Dataset()
    for told in reversed(answers):
        found.update(_elements(told))
    if "Rows" not in found and "Image Storage" in UID(str(get_value(answer, "SOPClassUID") or "")).name:
        found.Rows = found.Columns = 1  # an image has a raster, whether the list tells of it or not
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return as_header(found)


def as_header(dataset: Dataset) -> Header:
    """A header with its digest, whatever the character set that it came in."""
    digest = hashlib.sha256()
    for tag in sorted(int(tag) for tag in dataset.keys()):  # noqa: SIM118 - of a data set they are not its items
        if tag in _TAGS and tag != tag_of("SpecificCharacterSet"):
            digest.update(f"{tag:08X} {_text(dataset, tag)}\n".encode(errors="surrogateescape"))
    return Header(dataset=dataset, digest=digest.hexdigest())


_TAGS = frozenset(int(tag) for tag in TAGS)


def is_image(answer: Dataset) -> bool:
    """Whether an object is an MR image, by what the list tells; one that is not told of may be."""
    sop_class = str(get_value(answer, "SOPClassUID") or "")
    return not sop_class or sop_class in MR_IMAGES


def headers_by_one(answers: Sequence[Dataset], first: Dataset) -> list[Header] | None:
    """Headers of all objects from what is told of them and the header of the first; None if that does not suffice."""
    if len(answers) == 1:
        return [as_header(first)]
    is_whole = tells_all(answers, first)
    if not is_whole and not is_ruled_out(first):
        return None
    shared = _converted(first)
    return [as_header(_merged(shared, first.file_meta, answer, is_whole=is_whole)) for answer in answers]


def tells_all(answers: Sequence[Dataset], first: Dataset) -> bool:
    """Whether a list tells all that may differ between the objects of a series, judged by the first of them.

    Private elements of interest are the same for all slices of a volume, so that they matter where positions repeat.
    """
    tags = [int(tag) for tag in first.keys() if tag in _TAGS]  # noqa: SIM118
    if _FRAMES & set(tags):
        return False
    for tag, _ in askable():
        if tag in first and tag not in _COMMON and _text(first, tag) and _text(first, tag) != _text(answers[0], tag):
            return False
    positions = [_text(answer, _POSITION) for answer in answers]
    return not any(map(_is_private, tags)) or ("" not in positions and len(set(positions)) == len(positions))


def is_ruled_out(first: Dataset) -> bool:
    """Whether a series is none that is taken, whatever its other objects are."""
    try:
        frames = frames_of_header(first, "", "")
    except DamagedError:
        return False
    if not frames:
        return False
    if frames[0].instance.problem is not None:
        return True
    context = Context(diffusion=any("diffusion" in frame.traits for frame in frames))
    whole = classify(frames[0].header, shape=(64, 64, 64), spacing=(1.0, 1.0, 1.0), context=context)
    return whole.reason in RULED_OUT


def _converted(first: Dataset) -> dict[BaseTag, DataElement | RawDataElement]:
    """Elements of a header, each with its own value, so that they can be those of other headers too."""
    found: dict[BaseTag, DataElement | RawDataElement] = {}
    for tag in first.keys():  # noqa: SIM118 - of a data set they are not its items
        found[tag] = first.get_item(tag)
        with suppress(*PYDICOM):
            found[tag] = first[tag]
    return found


def _merged(
    shared: Mapping[BaseTag, DataElement | RawDataElement], meta: FileMetaDataset, answer: Dataset, *, is_whole: bool
) -> Dataset:
    """The header of the first object with what is told of another; if that is all, without what is not told."""
    found, told = Dataset(dict(shared)), _elements(answer)
    found.file_meta = meta
    for tag, _ in askable():
        if tag in _COMMON:
            continue
        if tag in told:
            found[tag] = told[tag]
        elif is_whole and tag in found:
            del found[tag]
    return found


def _elements(answer: Dataset) -> Dataset:
    """What an answer tells; what is empty there is absent from the object, or the server does not say."""
    found = Dataset()
    for tag, _ in askable():
        if tag in answer and _text(answer, tag):
            with suppress(*PYDICOM):
                found[tag] = answer[tag]
    return found


def _text(dataset: Dataset, tag: int) -> str:
    """Value of an element for comparison: the same for equal values, however they are written; empty if absent."""
    try:
        value = dataset[tag].value if tag in dataset else None
    except PYDICOM:
        return "unreadable"
    if value is None or value == "" or value == b"" or (isinstance(value, Sequence) and not len(value)):
        return ""
    return str(value)


def _is_private(tag: int) -> bool:
    return bool((int(tag) >> 16) & 1)
