"""A server by DIMSE: C-FIND lists, C-GET or C-MOVE gives one object of a series to judge it by, then what is used."""

from __future__ import annotations

import fnmatch
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from filelock import FileLock
from pydicom.dataset import Dataset
from pynetdicom.association import Association

from storage.source.damage import DamagedError
from storage.source.dicom.elements import get_text, get_value
from storage.source.dicom.header import date_of, words_of
from storage.source.origin import Server
from storage.source.server.archive import Header, Member, Study
from storage.source.server.association import (
    FAILED,
    GET,
    MOVE,
    NOT_WANTED,
    SUCCESS,
    Sink,
    associated,
    ends_as_away,
    identifier_of,
    is_moved,
    listed,
    listening,
    raise_for,
)
from storage.source.server.failures import ServerAwayError, ServerChangedError, ServerRefusedError
from storage.source.server.pace import keep_to
from storage.source.server.spool import spool_of
from storage.source.server.told import as_header, askable, header_of_file, header_told, headers_by_one, is_image

_TELLS = words_of(
    "StudyInstanceUID StudyDate StudyTime StudyDescription PatientID PatientName PatientBirthDate PatientSex "
    "NumberOfStudyRelatedSeries NumberOfStudyRelatedInstances"
)
_TELLS_OF_SERIES = words_of(
    "SeriesInstanceUID Modality BodyPartExamined NumberOfSeriesRelatedInstances SeriesNumber SeriesDate SeriesTime "
    "SeriesDescription ProtocolName Manufacturer ManufacturerModelName StationName"
)
_VOLATILE = frozenset({"SpecificCharacterSet", "RetrieveAETitle", "InstanceAvailability", "QueryRetrieveLevel"})
"""Of a study: how its list is written, and where and how soon it can be retrieved, which changes without it."""

T = TypeVar("T")


class DimseArchive:
    """A server by DIMSE, with one association at a time; see `storage.source.server.archive.Archive`."""

    def __init__(self, server: Server) -> None:
        self._server, self._lock = server, spool_of(server.limits) / "move.lock"
        self._rate = server.limits.rate_of_one
        self._stack = ExitStack()
        self._open: Association | None = None
        self._sink: Sink = _refuse
        self._listed: dict[str, Dataset] = {}
        self._study: Dataset | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._close()

    def studies(self, filters: Mapping[str, str]) -> Iterator[Study]:
        """Studies that match: one request, since DIMSE has no pages."""
        for answer in self._find("STUDY", dict.fromkeys(_TELLS, "") | {"ModalitiesInStudy": ""} | dict(filters)):
            modalities = _words(answer, "ModalitiesInStudy")
            wanted = filters.get("ModalitiesInStudy", "")
            is_other = bool(modalities) and bool(wanted) and not fnmatch.filter(modalities, wanted)
            if get_text(answer, "StudyInstanceUID") and not is_other:  # servers may leave a filter out of account
                yield _study(answer)

    def members(self, study: str) -> Sequence[Member]:
        """Series of a study."""
        asked = {"StudyInstanceUID": study} | dict.fromkeys(_TELLS_OF_SERIES, "")
        answers = self._find("SERIES", asked)
        self._listed = {get_text(answer, "SeriesInstanceUID"): answer for answer in answers}
        self._study = None
        return [
            Member(
                uid=get_text(answer, "SeriesInstanceUID"),
                modality=get_text(answer, "Modality").upper(),
                body_part=get_text(answer, "BodyPartExamined").upper(),
                n_instances=_number(answer, "NumberOfSeriesRelatedInstances"),
            )
            for answer in answers
        ]

    def headers(self, study: str, series: str, *, one: bool = False) -> Sequence[Header]:
        """Headers of all objects of a series, or of one of them.

        Objects that are no MR image have what the list tells of them; images are judged by one that is retrieved, and
        all are, for their headers, where the list does not tell in what they differ.
        """
        answers = self._find("IMAGE", {"StudyInstanceUID": study, "SeriesInstanceUID": series}, askable())
        answers = [answer for answer in answers if get_text(answer, "SOPInstanceUID")]
        if one:
            return [self._told(study, series, answer) for answer in answers[:1]]
        images = [answer for answer in answers if is_image(answer)]
        others = [self._told(study, series, answer) for answer in answers if not is_image(answer)]
        if not images:
            return others
        sample = get_text(images[0], "SOPInstanceUID")
        first = self._files(study, series, (sample,), header_of_file, only=sample)[sample]
        judged = None if first is None else headers_by_one(images, first)
        if judged is None:
            names = [get_text(answer, "SOPInstanceUID") for answer in images]
            files = self._files(study, series, names, header_of_file)
            judged = [
                Header(dataset=None, digest=name) if file is None else as_header(file) for name, file in files.items()
            ]
        return [*judged, *others]

    def _told(self, study: str, series: str, answer: Dataset) -> Header:
        """Header of an object by what is told of it, of its series and of its study, which is asked for once."""
        if self._study is None or get_text(self._study, "StudyInstanceUID") != study:
            (self._study, *_) = (
                *self._find("STUDY", dict.fromkeys(_TELLS, "") | {"StudyInstanceUID": study}),
                Dataset(),
            )
        return header_told(answer, self._listed.get(series, Dataset()), self._study)

    def retrieve(self, study: str, series: str, wanted: Mapping[str, Path]) -> None:
        """Write the objects of a series that are wanted, by their identifiers, into files."""
        self._again(lambda: self._take(study, series, {uid: _writer(path) for uid, path in wanted.items()}))

    def _files(
        self, study: str, series: str, names: Sequence[str], read: Callable[[bytes], T], *, only: str = ""
    ) -> dict[str, T | None]:
        """What is read of objects, None of those that are damaged; nothing lies on the disk."""
        found: dict[str, T | None] = {}

        def reading(name: str) -> Callable[[bytes], None]:
            def keep(content: bytes) -> None:
                found[name] = None
                with suppress(DamagedError):
                    found[name] = read(content)

            return keep

        self._again(lambda: self._take(study, series, {name: reading(name) for name in names}, only=only))
        return {name: found[name] for name in names}

    def _take(self, study: str, series: str, wanted: Mapping[str, Callable[[bytes], None]], *, only: str = "") -> None:
        """Have a series sent, or one object of it, and each object that is wanted taken by what is given for it."""
        left, began, n_bytes, faults = dict(wanted), time.monotonic(), 0, list[OSError]()

        def sink(uid: str, content: bytes) -> int:
            nonlocal n_bytes
            if uid in left and not faults:
                try:
                    left[uid](content)
                except OSError as error:  # a full disk, say: raised below, since pynetdicom would mute it here
                    faults.append(error)
                else:
                    del left[uid]
            n_bytes += len(content)
            keep_to(self._rate, n_bytes, since=began)
            return FAILED if faults else SUCCESS if uid in wanted else NOT_WANTED if is_moved(self._server) else SUCCESS

        asked = {"StudyInstanceUID": study, "SeriesInstanceUID": series} | ({"SOPInstanceUID": only} if only else {})
        status = self._sent("IMAGE" if only else "SERIES", asked, sink)
        if faults:
            raise faults[0]
        raise_for(status)
        if left:
            raise ServerChangedError(f"the server gave {len(wanted) - len(left)} of {len(wanted)} images of a series")

    def _sent(self, level: str, asked: Mapping[str, str], sink: Sink) -> int | None:
        """Have objects sent to ``sink``; the final status."""
        association, identifier = self._association(), identifier_of(level, asked)
        if not is_moved(self._server):
            self._sink = sink
            try:
                return _final(lambda: association.send_c_get(identifier, GET))
            finally:
                self._sink = _refuse
        limits = self._server.limits
        with FileLock(self._lock, is_singleton=False), listening(limits, sink):  # one port: one process at a time
            return _final(lambda: association.send_c_move(identifier, limits.title, MOVE))

    def _find(self, level: str, asked: Mapping[str, str], kinds: Sequence[tuple[int, str]] = ()) -> list[Dataset]:
        """What the server tells of studies, series or objects."""

        def find() -> list[Dataset]:
            identifier = identifier_of(level, asked)
            for tag, kind in kinds:
                if tag not in identifier:
                    identifier.add_new(tag, kind, None)
            return listed(self._association(), identifier)

        began = time.monotonic()
        try:
            return self._again(find)
        except ServerAwayError:
            if self._open is None or time.monotonic() - began > self._server.limits.timeout:
                raise
            text = (
                "the server ends associations at a request to list; does it know QMRI_PACS_TITLE, and allow it C-FIND?"
            )
            raise ServerRefusedError(text) from None

    def _again(self, ask: Callable[[], T]) -> T:
        """Ask once more if an association breaks off, or was idle and has gone: servers end those at their will."""
        try:
            return ask()
        except ServerAwayError:
            if self._open is None:
                raise
        self._close()
        return ask()

    def _association(self) -> Association:
        if self._open is None or not self._open.is_established:
            self._close()
            self._open = self._stack.enter_context(associated(self._server, lambda uid, file: self._sink(uid, file)))
        return self._open

    def _close(self) -> None:
        self._open = None
        self._stack.close()


def _refuse(_uid: str, _file: bytes) -> int:
    return NOT_WANTED


def _writer(path: Path) -> Callable[[bytes], None]:
    def write(content: bytes) -> None:
        path.write_bytes(content)

    return write


def _final(send: Callable[[], Iterator[tuple[Dataset, Dataset | None]]]) -> int | None:
    """Send a request, and wait for its end; the final status."""
    status: int | None = None
    with ends_as_away():
        for answer, _ in send():
            status = answer.get("Status")
    return status


def _study(answer: Dataset) -> Study:
    told = sorted((element.keyword, str(element.value)) for element in answer if element.keyword not in _VOLATILE)
    return Study(
        uid=get_text(answer, "StudyInstanceUID"),
        stamp=hashlib.sha256(repr(told).encode(errors="surrogateescape")).hexdigest(),
        date=date_of(answer, "StudyDate"),
        n_instances=_number(answer, "NumberOfStudyRelatedInstances"),
    )


def _number(answer: Dataset, keyword: str) -> int | None:
    text = get_text(answer, keyword)
    return int(text) if text.isdecimal() else None


def _words(answer: Dataset, keyword: str) -> list[str]:
    value: Any = get_value(answer, keyword)
    return [str(value)] if isinstance(value, str) else [str(word) for word in value or ()]
