"""What somebody has to decide before a source is ingested: one line per problem, the gravest first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from qmri_core.series.classification import SkipReason
from qmri_core.series.remarks import MEANINGS as REMARKS
from qmri_core.series.remarks import RemarkKind
from storage.source.unread import UNREAD_SESSION, UNREADABLE_FOLDER
from storage.store.schema import MEANINGS, Reason, Status

SMALL_GROUP = 5
"""Sessions; the calibration of a group with fewer rests on few people."""

FILE_REASONS: Mapping[str, str] = {
    "archive_format": "A compressed file that is no zip or tar. Unpack it.",
    "archive_in_archive": "An archive within an archive. Unpack it.",
    "nifti_in_archive": "A NIfTI file within an archive. Unpack it.",
    "too_large": "A file or archive beyond the bounds on size.",
    "unreadable": "A file that may not be read, or that its disk, its compression or its damage does not let be read.",
    "derivative": "A file in derivatives of a BIDS dataset, or in a derivative dataset: processed images are not taken "
    "beside raw ones. Give that folder as the source to take them.",
    "sourcedata": "A file in sourcedata of a BIDS dataset, whose images are taken. Give that folder as the source to "
    "take it instead.",
    "bids_ignored": "A file that .bidsignore names.",
    "repository": "A file that git or DataLad keep for themselves.",
    "own_map": "A map that `qmri export-dicom` has written. Nothing to do.",
    "other_body_part": "An object of a server, of a series that names another body part than was asked for.",
    "unread_session": "By BIDS names there is a session, of which no image can be read: links lead to nothing, or "
    "files are damaged. Fetch them (datalad get), or copy them again.",
    "unreadable_folder": "A folder that cannot be listed: nobody knows what it holds. Give this user read access.",
}
"""Why files are not read as images, beside ``not_image`` and ``not_mr``; runs count them."""

SPOILT_SERIES = (SkipReason.INCOMPLETE, SkipReason.NO_PARAMETERS, SkipReason.UNDECODABLE)
"""Reasons of series of a contrast that might be used if somebody mended them; all others are as they should be."""


_NO_FILES: Mapping[str, Literal["session", "folder"]] = {UNREADABLE_FOLDER: "folder", UNREAD_SESSION: "session"}
"""What is counted beside files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """So many sessions, series, groups or files have this; ``text`` says what it is and what to do."""

    of: Literal["session", "series", "group", "file", "folder", "entry"]
    name: str
    count: int
    text: str

    def line(self) -> str:
        """Describe the problem for people."""
        unit = self.of if self.count == 1 or self.of == "series" else {"entry": "entries"}.get(self.of, f"{self.of}s")
        return f"{self.count} {unit} {self.name}: {self.text}"


def problems(
    *,
    sessions: Mapping[tuple[str, str], int],
    series: Mapping[str, int],
    remarks: Mapping[str, int],
    groups: Mapping[str, int],
    files: Mapping[str, int],
    n_unmatched: int,
) -> Iterator[Problem]:
    """All problems of a source: what loses sessions, what may make them wrong, what weakens them.

    Parameters
    ----------
    sessions
        How many sessions would end with which status and reason.
    series, remarks, files
        How many series were left out for which reason, of how many sessions each kind of remark is made, and how many
        files were not read for which reason.
    groups
        Sessions of each group.
    n_unmatched
        Entries of the assume file that matched nothing.
    """
    for status in (Status.SKIPPED, Status.PARTIAL):
        for reason in Reason:
            if count := sessions.get((str(status), str(reason)), 0):
                yield Problem(of="session", name=f"{status}, {reason}", count=count, text=_plain(MEANINGS[reason]))
    if n_unmatched:
        text = "Entries of the assume file matched no series. Mend their globs."
        yield Problem(of="entry", name="unmatched", count=n_unmatched, text=text)
    for kind in RemarkKind:
        if count := remarks.get(kind, 0):
            yield Problem(of="session", name=str(kind), count=count, text=_sentences(*REMARKS[kind]))
    for spoilt in SPOILT_SERIES:
        if count := series.get(spoilt, 0):
            yield Problem(of="series", name=str(spoilt), count=count, text=_plain(MEANINGS[Reason(str(spoilt))]))
    for name, meaning in FILE_REASONS.items():
        if count := files.get(name, 0):
            yield Problem(of=_NO_FILES.get(name, "file"), name=name, count=count, text=meaning)
    if count := sum(size < SMALL_GROUP for size in groups.values()):
        text = f"Fewer than {SMALL_GROUP} sessions: its calibration rests on few people. Add sessions, or leave it out."
        yield Problem(of="group", name="small", count=count, text=text)


def _plain(text: str) -> str:
    """Without the marks of code, which a terminal does not show."""
    return text.replace("``", "")


def _sentences(*texts: str) -> str:
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in texts)
