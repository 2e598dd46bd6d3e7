"""Whose maps are, by the linkage table and the source together: for objects that lie on the images.

Each says whose a session is, and they must agree. A source that is no longer what was ingested names nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from flows.ingest.session_plan import plan_session
from flows.progress import Progress, quiet
from qmri_core.series.acquisition import CONTRASTS
from qmri_core.series.decided import decided_of
from storage.exports.dicom.subject import NoSubjectError, SourceImage, Subject, Subjects, identified, uid_of
from storage.exports.linkage import LinkageError, read_linkage
from storage.source.assume_file import Override, Stated
from storage.source.discovery import Scanned, scan_source
from storage.source.headers import read_headers
from storage.source.origin import Source
from storage.source.series import Series
from storage.store.cohort import Cohort

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_COLUMNS = ("session", "patient_id", "study_instance_uid")


@contextmanager
def people_of(
    cohort: Cohort,
    linkage: Path,
    source: Source,
    *,
    key: bytes,
    assume: Path | None = None,
    index: Path | None = None,
    progress: Progress = quiet,
) -> Iterator[Subjects]:
    """The people, studies and frames of reference of the images that a cohort's maps were made from.

    Parameters
    ----------
    linkage
        What ``qmri ingest --linkage`` has written.
    source, assume
        What was ingested, and what was stated of it.
    key, index
        As `storage.source.discovery.scan_source` has them.

    Raises
    ------
    LinkageError
        If the table lacks a column, or names no session of the store.
    SourceError, AssumptionError
        If the source or the assume file cannot be used.
    """
    rows = {row["session"]: row for row in read_linkage(linkage, _COLUMNS)}
    if not set(rows) & set(cohort.slots):
        raise LinkageError(
            f"{linkage.name} names no session of this store; give the table that `qmri ingest --linkage` wrote for it"
        )
    stated = Stated.by(assume)
    with scan_source(
        source,
        key=key,
        assume=stated.assumptions,
        progress=lambda done, total: progress(done, total, "read headers"),
        index=index,
    ) as scanned:
        people = _People(cohort, scanned, rows, stated.overrides)
        yield Subjects(study=people.study, subject=people.subject, place=people.place, is_identified=True)


class _People:
    def __init__(
        self, cohort: Cohort, scanned: Scanned, rows: Mapping[str, Mapping[str, str]], overrides: Sequence[Override]
    ) -> None:
        self._cohort, self._scanned, self._rows, self._overrides = cohort, scanned, rows, overrides
        self._sessions = frozenset(scanned.sessions)

    def study(self, record: Mapping[str, Any]) -> str:
        """Study of a session, by the linkage table."""
        row = self._rows.get(str(record["session"]))
        if row is None:
            raise NoSubjectError("not in the linkage table")
        if not _UID.fullmatch(row["study_instance_uid"]):
            raise NoSubjectError("its images are no DICOM of a study")
        return row["study_instance_uid"]

    def place(self, record: Mapping[str, Any]) -> str:
        """Folder of a session: neither its pseudonym nor what names the person."""
        return f"study-{uid_of('folder', self.study(record), record['session'])[-12:]}"

    def subject(self, record: Mapping[str, Any]) -> Subject:
        """Whose a session is, by the images that were used of it."""
        taken = self._taken(record)
        headers = {contrast: read_headers(series) for contrast, series in taken.items()}
        reference = headers[str(record["reference_contrast"])][0]
        if str(reference.get("StudyInstanceUID", "")) != self.study(record):
            raise NoSubjectError("its images are of several studies")
        return identified(reference, tuple(_reference(one) for files in headers.values() for one in files))

    def _taken(self, record: Mapping[str, Any]) -> dict[str, Series]:
        """The series that were used of a session, by contrast."""
        session = str(record["session"])
        if session not in self._sessions:
            raise NoSubjectError("not in the source")
        members, own = self._scanned.session(session)
        row = self._rows[session]
        if (own.patient_id, own.study_instance_uid) != (row["patient_id"], row["study_instance_uid"]):
            raise NoSubjectError("linkage table and source do not agree whose it is")
        plan = plan_session(members, self._overrides, group=str(record["group"]))
        if plan.input_digest != record["input_digest"]:
            raise NoSubjectError("its source is not what was ingested (with --assume?)")
        listed = decided_of(str(self._cohort.rows_of([session])[session]["series"]))
        taken = {
            decision: series
            for (_, decision, _), series in zip(listed, plan.series, strict=True)
            if decision in set(CONTRASTS)
        }
        if any(series.kind != "dicom" for series in taken.values()):
            raise NoSubjectError("its images are no DICOM of a study")
        return taken


def _reference(header: Dataset) -> SourceImage:
    return SourceImage(
        study=str(header.StudyInstanceUID),
        series=str(header.SeriesInstanceUID),
        instance=str(header.SOPInstanceUID),
        sop_class=str(header.SOPClassUID),
    )
