"""Whose maps the objects say they are: a pseudonym's, or, on request, the person's of the images they were made from.

Pseudonymous objects hold nothing of a header. Identified ones take from an image of the session what ties objects to a
person, a study and the patient's coordinates, and nothing else.
"""

from __future__ import annotations

import copy
import hashlib
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from pydicom.dataset import Dataset

from storage.exports.selection import Record

_COPIED = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge",
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName",
    "StudyDescription", "FrameOfReferenceUID", "PositionReferenceIndicator",
)  # fmt: skip
_NEEDED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator",
)  # fmt: skip
"""Elements that the standard wants to be there, if empty."""
UTF8 = "ISO_IR 192"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceImage:
    """One object that the maps were made from."""

    study: str = field(repr=False)
    series: str = field(repr=False)
    instance: str = field(repr=False)
    sop_class: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Patient, study and frame of reference of the objects, and the images behind the maps, which a pseudonym lacks."""

    header: Dataset = field(repr=False)
    sources: tuple[SourceImage, ...] = field(default=(), repr=False)

    def begun(self) -> Dataset:
        """A new object with the elements that all objects of the session share."""
        return copy.deepcopy(self.header)


def uid_of(*parts: object) -> str:
    """Identifier that the parts alone determine: a UUID of their SHA-256 digest, as ``2.25.`` and a number."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def pseudonymous_study(record: Record) -> str:
    """Study of a session under its pseudonym."""
    return uid_of("study", record["session"])


def pseudonymous(record: Record) -> Subject:
    """A session under its pseudonyms: no date, sex and age as the store has them."""
    header = Dataset()
    person = str(record["person"] or record["session"])
    header.PatientName, header.PatientID, header.PatientSex = f"{person}^", person, str(record["sex"])
    if math.isfinite(age := float(record["age"])):
        header.PatientAge = f"{round(age):03d}Y"
    header.StudyInstanceUID = pseudonymous_study(record)
    header.FrameOfReferenceUID = uid_of("frame of reference", record["session"])
    header.PatientIdentityRemoved = "YES"
    header.DeidentificationMethod = "made from a store of keyed pseudonyms without dates"
    header.LongitudinalTemporalInformationModified = "REMOVED"
    return Subject(header=_complete(header))


def identified(image: Dataset, sources: tuple[SourceImage, ...]) -> Subject:
    """The person, study and frame of reference of an image of the session."""
    header = Dataset()
    for keyword in _COPIED:
        if keyword in image and (value := image[keyword].value) is not None:
            setattr(header, keyword, str(value))  # as text, not in the bytes of the image's character set
    if not header.get("FrameOfReferenceUID"):
        header.FrameOfReferenceUID = uid_of("frame of reference", image.SeriesInstanceUID)
    return Subject(header=_complete(header), sources=sources)


def _complete(header: Dataset) -> Dataset:
    for keyword in _NEEDED:
        if keyword not in header:
            setattr(header, keyword, "")
    header.SpecificCharacterSet = UTF8
    return header


class NoSubjectError(ValueError):
    """It is not known whose a session's maps are; the text is the reason, in words that many sessions share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subjects:
    """Whose the maps of each session are; each may raise `NoSubjectError`.

    Parameters
    ----------
    study
        Identifier of the session's study; asked for each session at each run.
    subject
        All of it; asked only where something is to be written.
    place
        Name of the session's folder, which names nobody.
    is_identified
        Whether the objects say who people are.
    """

    study: Callable[[Record], str]
    subject: Callable[[Record], Subject]
    place: Callable[[Record], str]
    is_identified: bool


def pseudonyms() -> Subjects:
    """The pseudonyms of the store."""
    return Subjects(study=pseudonymous_study, subject=pseudonymous, place=_place, is_identified=False)


def _place(record: Record) -> str:
    return f"{record['person'] or record['session']}/{record['session']}"
