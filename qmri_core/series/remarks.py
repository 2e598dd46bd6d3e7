"""Remarks: what is not as it should be in a session that is used all the same, for whoever decides what to do.

A session without images has a reason instead. A remark is a kind and a sentence; the sentence holds numbers, codes and
series numbers, never a text of a header.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class RemarkKind(StrEnum):
    """What a remark is about, in the order in which somebody has to decide."""

    PERSON_UNSURE = "person_unsure"
    VISIT_PARTED = "visit_parted"
    VISIT_JOINED = "visit_joined"
    PATIENT_NUMBERS = "patient_numbers"
    VISIT_UNSURE = "visit_unsure"
    DATE_UNKNOWN = "date_unknown"
    AGE_UNKNOWN = "age_unknown"
    NOT_ADULT = "not_adult"
    AGENT = "agent"
    CUT_SHORT = "cut_short"
    CUT_ARCHIVE = "cut_archive"
    MISSING = "missing"
    PROCESSED = "processed"
    LOSSY = "lossy"
    UNREAD = "unread"
    SIDECAR = "sidecar"
    MISNAMED = "misnamed"
    PLACED = "placed"
    SCALE_ODD = "scale_odd"
    SIGNALS_UNLIKELY = "signals_unlikely"
    OUTSIDE_MODEL = "outside_model"
    WIDENED = "widened"
    SCALE_UNKNOWN = "scale_unknown"
    UNUSABLE_REPEAT = "unusable_repeat"
    BETTER_REPEAT = "better_repeat"
    REPEATED = "repeated"
    TABLES = "tables"
    ODD_TIME = "odd_time"
    COMBINED = "combined"
    STRAY = "stray"
    ROUNDED = "rounded"


MEANINGS: Mapping[RemarkKind, tuple[str, str]] = {
    RemarkKind.PERSON_UNSURE: (
        "one patient identifier stands for several people; each visit counts as a person",
        "give every person an identifier in the source, or do not use what depends on persons",
    ),
    RemarkKind.VISIT_PARTED: (
        "one study identifier stands for several visits; each is a session, or left out where it makes none",
        "look whether the parts are visits; if not, correct date, scanner or frame of reference in the source",
    ),
    RemarkKind.VISIT_JOINED: (
        "several study identifiers stand for one visit; their files are one session",
        "look whether the files are of one visit; give them other dates or patient identifiers if not",
    ),
    RemarkKind.PATIENT_NUMBERS: (
        "files of one study bear several patient identifiers, or some bear none; they are one session",
        "look whose images they are; correct the identifiers in the source",
    ),
    RemarkKind.VISIT_UNSURE: (
        "several incomplete studies of one patient, day and scanner are left apart",
        "give the studies one identifier in the source if they are one visit",
    ),
    RemarkKind.DATE_UNKNOWN: (
        "the date is one that an examination cannot have; the day is not known",
        "nothing, unless days between visits are needed: then correct the dates in the source",
    ),
    RemarkKind.AGE_UNKNOWN: (
        "the age or the sex contradicts itself, or nobody is so old; it is not known",
        "look whether its images are of one person; correct age and sex in the source",
    ),
    RemarkKind.NOT_ADULT: (
        "the person is younger than those of whom the reference values of the maps are",
        "do not compare its maps with those of adults; leave the session out if only adults are meant",
    ),
    RemarkKind.AGENT: (
        "a contrast agent may have been given before a series that is taken",
        "look whether vessels are bright; leave the series out of the source if so, since its T1 is not the tissue's",
    ),
    RemarkKind.CUT_SHORT: (
        "files of a series that is taken are shorter than their headers say; the session will fail",
        "wait until the transfer is complete, or send the series again",
    ),
    RemarkKind.CUT_ARCHIVE: (
        "a series lies in an archive that is cut short, and images may be missing",
        "wait until the archive is complete, or make it again",
    ),
    RemarkKind.MISSING: (
        "a series has fewer images than its header counts, or covers far less than those of its group",
        "see whether the transfer was complete, and send the series again",
    ),
    RemarkKind.PROCESSED: (
        "images were changed after the scanner had made them: made days later, resampled, or captured again",
        "get the scanner's own images if there are any",
    ),
    RemarkKind.LOSSY: (
        "images were compressed with loss",
        "get the originals if there are any; maps of compressed images are less precise",
    ),
    RemarkKind.UNREAD: (
        "images of a BIDS tree lead to nothing or are damaged, and the session is made without them",
        "fetch what was not fetched (datalad get), or copy the images again",
    ),
    RemarkKind.SIDECAR: (
        "the sidecar of an image cannot be read, or says what cannot be; no time is taken from it",
        "correct the JSON file: times are in seconds; or state the times with --assume",
    ),
    RemarkKind.MISNAMED: (
        "the numbers of an image say that it is not what its BIDS name says; the numbers count",
        "look at the image and rename it; where the name is right, state the contrast with --assume",
    ),
    RemarkKind.PLACED: (
        "the two transforms of a NIfTI image, sform and qform, contradict each other, or lead to a template alone",
        "look whether the image has its own size and lies as the others of its session; convert it again if not",
    ),
    RemarkKind.SCALE_ODD: (
        "a series is on another scale than its group, told by its own signals; the session counts for nothing there",
        "look for a factor that was lost or another export, and ingest the original; else take its maps with care",
    ),
    RemarkKind.SIGNALS_UNLIKELY: (
        "the signals of its tissues are nobody's in any scale; it counts for nothing, and has the scales of its group",
        "look at its alignment and its tissues (qmri report); do not use its maps before",
    ),
    RemarkKind.OUTSIDE_MODEL: (
        "its maps contradict what was put in, of a child or a large lesion, of whom the model is not known to hold",
        "look at the maps (qmri report), and decide with `qmri qc`",
    ),
    RemarkKind.WIDENED: (
        "its maps contradicted their stated deviations, which were widened until they cover",
        "nothing, if maps count by their deviations; else look at them",
    ),
    RemarkKind.SCALE_UNKNOWN: (
        "a Philips series lacks the private scale factor (2005,100E) that makes series comparable",
        "export it again with private elements; where a session's scale proves to be another, it is marked",
    ),
    RemarkKind.UNUSABLE_REPEAT: (
        "a series could not be read, aligned or segmented, and a repeat of it was taken",
        "export the series again if it was cut or damaged; nothing if it was repeated because it failed",
    ),
    RemarkKind.BETTER_REPEAT: (
        "of equal series not the one that headers prefer was taken, but one that looks better",
        "look at both; move the worse one out of the source if the wrong one was taken",
    ),
    RemarkKind.TABLES: (
        "what the tables of a BIDS tree say of age, sex or day contradicts itself, is missing or cannot be read",
        "correct participants.tsv, sessions.tsv, scans.tsv or what describes them, if ages and days are needed",
    ),
    RemarkKind.REPEATED: (
        "several series of one contrast lie in the session, and one was taken",
        "look whether the right one was taken; move the others out of the source if not",
    ),
    RemarkKind.ODD_TIME: (
        "inversion times are written that cannot be, such as 1.8e308; they count as unknown",
        "state the inversion time with --assume if it is known, so that a FLAIR is one",
    ),
    RemarkKind.COMBINED: (
        "an image that combines several echoes was taken, by the numbers of its header",
        "nothing, for the T1w of an MPRAGE; else state what it is with --assume",
    ),
    RemarkKind.STRAY: (
        "single images of another orientation, size or timing lie among those of a series; they are left out",
        "nothing, if they are reference lines or screenshots",
    ),
    RemarkKind.ROUNDED: (
        "positions of slices are rounded so far that steps between them look uneven; the mean step is used",
        "nothing; get the originals if places matter to a tenth of a millimetre",
    ),
}
"""Of each kind what it says, and what to do about it."""


READ_OTHERWISE = frozenset(
    {RemarkKind.PLACED, RemarkKind.ROUNDED, RemarkKind.STRAY, RemarkKind.DATE_UNKNOWN, RemarkKind.AGE_UNKNOWN}
)
"""Kinds by which a series is read otherwise than its files say at first sight, and than release 0.1 read it: they are
part of what a session's images, its day and its age rest on."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Remark:
    """One thing to know of a session; ``text`` says it of this session, and names series by their numbers."""

    kind: RemarkKind
    text: str


def ordered(remarks: Iterable[Remark]) -> tuple[Remark, ...]:
    """Each remark once, in the order of the kinds."""
    place = {kind: index for index, kind in enumerate(RemarkKind)}
    return tuple(sorted(set(remarks), key=lambda remark: (place[remark.kind], remark.text)))


def remarks_text(remarks: Iterable[Remark]) -> str:
    """Remarks as compact JSON, kind and sentence of each; empty if there are none."""
    rows = [[str(remark.kind), remark.text] for remark in remarks]
    return json.dumps(rows, separators=(",", ":")) if rows else ""


def remarks_of(text: str) -> tuple[Remark, ...]:
    """The remarks that `remarks_text` made a text of."""
    return tuple(Remark(kind=RemarkKind(kind), text=words) for kind, words in json.loads(text or "[]"))


def kinds_of(texts: Iterable[str]) -> dict[str, int]:
    """Of how many sessions each kind of remark was made, from what `remarks_text` gave of each."""
    counts = Counter(kind for text in texts if text for kind in {kind for kind, _ in json.loads(text)})
    return dict(sorted(counts.items()))
