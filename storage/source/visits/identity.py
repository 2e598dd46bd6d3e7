"""Who and when, as the header of a file says it; what a visit is made of is decided by `storage.source.visits.rule`."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
from functools import lru_cache
from typing import NamedTuple

from storage.pseudonyms import pseudonym
from storage.source.dates import visit_date
from storage.source.dicom.frames import Frame
from storage.source.dicom.header import manufacturer_of, slug, words_of

DIGITS = 16
"""Hexadecimal digits of the keyed digests of identifiers in the index."""

_STAND_INS = words_of(
    "anon anonym anonymous anonymised anonymized deid deidentified removed redacted unknown none na null nil noid "
    "nopatientid notsupplied notavailable patient patientid subject test x xx xxx xxxx id name default empty private "
    "confidential hidden masked"
)
"""Patient identifiers, in letters alone, that tools write for all people alike."""

_DAY = 86_400.0

_NO_ORIGINAL = frozenset({"DERIVED", "SECONDARY", "MPR", "MIP", "MINIP", "PROJECTION", "REFORMATTED", "SUBTRACTION"})


class Unit(NamedTuple):
    """What files share that agree in all that says who they are of, and when and where they were made.

    ``session`` and ``person`` are the pseudonyms by the identifiers alone. ``label``, ``study``, ``serial`` and
    ``frame`` are keyed digests of the patient's and the study's identifier, the scanner's serial number and the frame
    of reference, empty if there is none. ``standing`` of the label is ``number``, ``name`` where it comes from the
    name, ``stand-in`` where it is one that tools write for all alike, or empty. ``date`` is the study's, ``day`` that
    of the acquisition, as ordinals, None if not known; ``doubt`` says why the date is not. ``birth`` and ``age`` are
    as stated. ``is_image`` tells original images of a scanner from what was made of them, which may bear the marks of
    another device and day.
    """

    digest: str
    session: str
    person: str
    label: str
    standing: str
    study: str
    date: int | None
    day: int | None
    doubt: str
    maker: str
    model: str
    serial: str
    field: float | None
    frame: str
    sex: str
    birth: int | None
    age: int | None
    is_image: bool


class Met(NamedTuple):
    """A unit that a scan has met, the seconds since midnight of its first and last image if known, and its files."""

    unit: Unit
    first: float | None
    last: float | None
    n_files: int = 1


def study_of(frame: Frame) -> str:
    """What tells the study of a file from others; without identifier, the day of the person's visit."""
    one = frame.instance
    by_day = f"{one.patient} {one.date}" if one.patient and one.date else ""
    return one.study or by_day or one.series or one.sop_instance or one.digest


def session_of(patient: str, study: str, key: bytes) -> str:
    """Pseudonym of a session."""
    return pseudonym(key, "session", patient, study)


def clock_of(frame: Frame) -> float | None:
    """Seconds since midnight at the acquisition; None if not known."""
    return (frame.moment % _DAY or None) if frame.moment else None


def _day_of(frame: Frame) -> int | None:
    """Ordinal of the day of the acquisition, as stated."""
    return int(frame.moment // _DAY) if frame.moment and frame.moment >= _DAY else frame.instance.acquired


def unit_of(frame: Frame, key: bytes) -> Unit:
    """Unit of the file that a frame is of."""
    one = frame.instance
    words = frame.header.image_type
    return _unit(
        key, one.patient, one.is_numbered, study_of(frame), one.date, _day_of(frame), one.device, one.serial,
        frame.header.magnetic_field_strength, one.frame_of_reference, one.sex, one.birth, one.stated_age,
        one.problem is None and _NO_ORIGINAL.isdisjoint(words), datetime.date.today().toordinal(),
    )  # fmt: skip


def unit_of_labels(session: str, person: str) -> Unit:
    """Unit of files whose session and person are told by names, as in BIDS."""
    values = Unit(
        digest="", session=session, person=person, label="", standing="", study=session, date=None, day=None, doubt="",
        maker="", model="", serial="", field=None, frame="", sex="", birth=None, age=None, is_image=True,
    )  # fmt: skip
    return _with_digest(values)


@lru_cache(maxsize=1024)
def _unit(
    key: bytes, patient: str, is_numbered: bool, study: str, date: int | None, acquired: int | None, device: str,
    serial: str, field: float | None, frame: str, sex: str, birth: int | None, age: int | None, is_image: bool,
    today: int,
) -> Unit:  # fmt: skip
    """Files of one series share all of this, so that it is made once for them."""
    manufacturer, model = device.split("\\")[:2]
    known, doubt = visit_date(date, birth, today)
    day = visit_date(acquired, birth, today)[0]
    values = Unit(
        digest="",
        session=session_of(patient, study, key),
        person=pseudonym(key, "person", patient or study),
        label=_keyed(key, "label", patient),
        standing="stand-in" if stands_in(patient) else "number" if is_numbered else "name" if patient else "",
        study=_keyed(key, "study", study),
        date=known,
        day=known if day is None else day,
        doubt=doubt,
        maker=manufacturer_of(manufacturer, model) or slug(manufacturer),
        model=slug(model),
        serial=_keyed(key, "serial", serial),
        field=field,
        frame=_keyed(key, "frame", frame),
        sex=sex,
        birth=birth,
        age=age,
        is_image=is_image,
    )
    return _with_digest(values)


def _with_digest(values: Unit) -> Unit:
    return values._replace(digest=hashlib.sha256(repr(values).encode()).hexdigest()[: 2 * DIGITS])


def _keyed(key: bytes, kind: str, text: str) -> str:
    message = f"{kind}\0{text}".encode("utf-8", "surrogateescape")
    return hmac.new(key, message, hashlib.sha256).hexdigest()[:DIGITS] if text else ""


def stands_in(patient: str) -> bool:
    """Whether a patient identifier is one that tools write for all people alike."""
    if not patient:
        return False
    letters = re.sub(r"[^a-z]", "", patient.lower())
    digits = re.sub(r"[^0-9]", "", patient)
    return letters in _STAND_INS and not digits.strip("0") if letters else not digits.strip("0")
