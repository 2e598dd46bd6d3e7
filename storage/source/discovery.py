"""Discovery: what a tree of DICOM or NIfTI files holds, from headers alone."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

from qmri_core.series.classification import Context, SkipReason
from qmri_core.series.geometry import Volume
from qmri_core.series.remarks import Remark, RemarkKind
from storage.pseudonyms import pseudonym
from storage.source.assume_file import Assumption, AssumptionError, fill, load_assumptions, matching
from storage.source.bids.nifti import read_nifti
from storage.source.bids.people import People
from storage.source.bids.tree import LeftOut
from storage.source.dates import known_age, sound_date
from storage.source.dicom.frames import Frame
from storage.source.dicom.pixels import read_dicom
from storage.source.files import SEPARATOR, relative, walk
from storage.source.full_disk import temporary_files
from storage.source.index import Index, IndexUnusableError, remove_index
from storage.source.kept import Grounds
from storage.source.origin import (
    Server,
    Source,
    SourceError,
    SourceNotFoundError,
    is_there,
    root_of,
)
from storage.source.scans import BATCH, Scan, ScanTask, closed_folder, scan_files
from storage.source.series import (
    Known,
    LinkageRow,
    ReadError,
    Scale,
    Series,
    decide,
    decide_session,
)
from storage.source.server.scan import scan_server
from storage.source.server.spool import retrieved
from storage.source.siblings import Overview, context_in, context_of, with_siblings
from storage.source.stacks import Stack, alike_parts, join, stack, stacks, without_strays
from storage.source.unread import UNREAD_SESSION, UNREADABLE_FOLDER
from storage.source.visits.identity import session_of, study_of
from storage.source.visits.parting import Held
from storage.source.visits.rule import Visits, Who, covers_head, middle_of

__all__ = [
    "Assumption", "AssumptionError", "Discovery", "LinkageRow", "ReadError", "Scanned", "Series", "SourceError",
    "SourceNotFoundError", "decide", "decide_session", "discover", "load_assumptions", "read_volume", "scan_source",
]  # fmt: skip

_log = logging.getLogger(__name__)

Runner = Callable[[Iterable[ScanTask]], Iterable[list[Scan]]]
"""How scans are run: here, one after the other, or spread over workers; the order of the results is free."""


def in_turn(tasks: Iterable[ScanTask]) -> Iterable[list[Scan]]:
    """Run scans in this process."""
    return map(scan_files, tasks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """Everything found in a source.

    ``n_files`` counts all files, members of archives included; ``unreadable`` counts those that are no image that is
    read, by reason. ``unmatched`` holds the positions of assume entries that matched no series: a wrong glob, usually.
    The linkage is for the linkage table only.
    """

    series: tuple[Series, ...]
    n_files: int
    unreadable: Mapping[str, int]
    unmatched: tuple[int, ...] = ()
    linkage: tuple[LinkageRow, ...] = field(default=(), repr=False)


class Scanned:
    """A source whose headers have been read; its series are made session by session, so that memory stays small.

    ``n_files`` and ``unreadable`` are those of `Discovery`; ``unmatched`` holds when all sessions have been read.
    """

    def __init__(self, index: Index, source: Source, key: bytes, assume: Sequence[Assumption]) -> None:
        self._index, self._key, self._assume = index, key, tuple(assume)
        self._root = root_of(source)
        self._server = source if isinstance(source, Server) else None
        self._used: set[int] = set()
        self.n_files = index.n_files
        self.unreadable = index.other
        self._unread = index.unread
        self._visits = Visits(index.units(), key=key, holding=self._holding)
        self.sessions = self._visits.sessions
        self._people = People(key, self.sessions)
        self._grounds = Grounds(
            index=index,
            visits=self._visits,
            people=self._people,
            unread=self._unread,
            assume=self._assume,
            root=self._root,
        )
        if absent := len(set(self._unread) - set(self.sessions)):
            self.unreadable[UNREAD_SESSION] = absent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._visits.close()
        self._index.close()

    @property
    def unmatched(self) -> tuple[int, ...]:
        """Positions of assume entries that no series of a session read so far matched."""
        return tuple(index for index in range(len(self._assume)) if index not in self._used)

    def session(self, session: str) -> tuple[tuple[Series, ...], LinkageRow]:
        """The series of one session, and its row of the linkage table."""
        who = self._visits.who(session)
        series, rows = self._series(self._visits.units(session), who)
        if foreign := self._visits.units(session, foreign=True):
            text = "of another scanner or day than the session, under its study identifier"
            for one in self._series(foreign, who)[0]:
                series.append(replace(one, problem=one.problem or SkipReason.OTHER_VISIT, explanation=text))
        series = self._people.told(series)
        if n_unread := self._unread.get(session, 0):
            text = f"{n_unread} images of a contrast by their names cannot be read"
            remark = Remark(kind=RemarkKind.UNREAD, text=text)
            series[0] = replace(series[0], remarks=(*series[0].remarks, remark))
        first, *others = sorted(series, key=_place)
        named = (row for row in rows if session_of(row.patient_id, row.study_instance_uid, self._key) == session)
        return (replace(first, remarks=(*first.remarks, *who.remarks)), *others), next(named, rows[0])

    def kept(self, session: str, by: bytes) -> bytes | None:
        """What an earlier run kept of a session with `keep`; None if its series, or ``by``, may differ from then."""
        found = self._grounds.kept(session, by)
        if found is None:
            return None
        self._used |= found[1]
        return found[0]

    def keep(self, session: str, series: Sequence[Series], by: bytes, content: bytes) -> None:
        """Keep for later runs what was made of a session's ``series``, and of what ``by`` stands for."""
        self._grounds.keep(session, series, by, content)

    def keep_no_others(self) -> None:
        """Drop what was kept of sessions that the source holds no longer, now and then."""
        self._index.keep_only(self.sessions)

    def _series(self, units: Mapping[str, int], who: Who) -> tuple[list[Series], list[LinkageRow]]:
        frames, found = self._index.content(units)
        found += _dicom_series(frames, who, self._root, self._key)
        made = [replace(one, server=self._server) for one, _ in found] if self._server else [one for one, _ in found]
        series = with_siblings(_assumed(made, self._root, self._assume, self._used))
        return series, [row for _, row in found]

    def _holding(self, units: Mapping[str, int]) -> Held:
        """What some units hold as a session: images that are taken, and cover a head."""
        series, _ = self._series(units, Who(session="", person=""))
        taken = zip(series, decide_session(series), strict=True)
        return {
            decision.contrast: middle_of(one)
            for one, decision in taken
            if decision.contrast is not None and decision.reason is None and covers_head(one)
        }


def scan_source(
    source: Source,
    *,
    key: bytes,
    assume: Sequence[Assumption] = (),
    progress: Callable[[int, int], None] | None = None,
    index: Path | None = None,
    runner: Runner = in_turn,
) -> Scanned:
    """Read the headers of a source tree, of a single file, or of the studies of a server.

    Names of files and folders count for nothing, except BIDS suffixes, the globs of ``assume``, and folders as
    sessions of NIfTI files without BIDS names. Only headers are parsed; files that may be ingested are read once more
    as bytes for their digest.

    Parameters
    ----------
    source
        Folder of any layout, or one file; zip and tar archives count as folders. A server is asked for headers alone.
    key
        Key of the pseudonyms.
    assume
        What the user states; see `load_assumptions`.
    progress
        Called with the number of files done and of all files.
    index
        File that keeps what was read: a scan that was cut short goes on there, and files that have not changed are not
        read again. It holds identities, as the source does. None keeps nothing.
    runner
        Runs the scans of batches of files.

    Raises
    ------
    SourceError
        If the source is missing, empty or holds no image at all; a server, if it does not answer or refuses.
    DiskFullError
        If there is no place for temporary files.
    """
    if not is_there(source):
        raise SourceNotFoundError(f"source {source} does not exist; give an existing folder of DICOM or NIfTI files")
    with ExitStack() as on_error:
        kept = _indexed(index, source, key, progress, runner)
        on_error.callback(kept.close)
        if not kept.n_files:
            raise SourceError(_no_file(source, kept.other))
        scanned = Scanned(kept, source, key, assume)
        on_error.push(scanned)
        if not scanned.sessions:
            raise SourceError(_nothing(source, scanned.n_files, scanned.unreadable))
        on_error.pop_all()
    return scanned


def _indexed(
    location: Path | None, source: Source, key: bytes, progress: Callable[[int, int], None] | None, runner: Runner
) -> Index:
    """Scan a source with the index at ``location``, or with one that ends with the run where that cannot be used."""
    try:
        with ExitStack() as on_error:
            kept = Index(location, source, key)
            on_error.callback(kept.close)
            _scan_into(kept, source, key, progress, runner)
            on_error.pop_all()
            return kept
    except IndexUnusableError as error:
        if location is None:
            with temporary_files():
                raise (error.__cause__ or error) from None
        if error.is_damaged:
            remove_index(location)
        _log.warning("the index of headers cannot be used (%s): all files are read, and read again next time", error)
    return _indexed(None, source, key, progress, runner)


def _scan_into(
    kept: Index, source: Source, key: bytes, progress: Callable[[int, int], None] | None, runner: Runner
) -> None:
    """Bring the index up to date with the source."""
    if isinstance(source, Server):
        scan_server(kept, source, key, progress)
        return
    root, done = root_of(source), 0

    def told(paths: Iterable[str]) -> Iterator[str]:
        nonlocal done
        for path in paths:
            done += 1
            if progress is not None and done % 50 == 0:
                progress(done, max(done, total))
            yield path

    total = sum(1 for _ in _files(source, [])) if progress is not None else 0
    closed: list[str] = []
    tree = LeftOut(str(root))
    files = told(_files(source, closed))
    batches = _batches(kept.unknown(files if source.is_file() else tree.without(files)))
    for scans in runner(ScanTask(paths=batch, root=str(root), key=key) for batch in batches):
        kept.add(scans)
    kept.add(map(closed_folder, closed))
    for reason, count in tree.counts.items():
        kept.add([Scan(path=str(source), stamp="", n_files=count, records=(), other={reason: count})])
    kept.finish()
    if progress is not None and done:
        progress(done, max(done, total))


def discover(
    source: Source,
    *,
    key: bytes,
    assume: Sequence[Assumption] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Discovery:
    """Find all series of a source at once; see `scan_source`, which holds one session at a time."""
    with scan_source(source, key=key, assume=assume, progress=progress) as scanned:
        found = [scanned.session(session) for session in scanned.sessions]
        series = [one for members, _ in found for one in members]
        return Discovery(
            series=tuple(sorted(series, key=_place)),
            n_files=scanned.n_files,
            unreadable=scanned.unreadable,
            unmatched=scanned.unmatched,
            linkage=tuple(row for _, row in found),
        )


def _place(one: Series) -> tuple[str, bool, int, str, int, str]:
    """Order of series: by person, and by day with those of unknown days last."""
    return (one.person, one.day is None, one.day or 0, one.session, one.number, one.digest)


def _batches(paths: Iterable[str]) -> Iterator[tuple[str, ...]]:
    rest = iter(paths)
    while batch := tuple(islice(rest, BATCH)):
        yield batch


def read_volume(series: Series) -> Volume:
    """Read the pixels of a series: float32 of shape (z, y, x), rescaled, with its RAS affine.

    Raises
    ------
    ReadError
        If the series is no volume or its pixels are missing or damaged.
    ServerError
        If a server does not give them.
    """
    if series.problem is not None:
        raise ReadError(
            f"session {series.session}, series {series.number} is no volume ({series.problem}): {series.explanation}"
        )
    if series.server is not None:
        with retrieved(series) as local:
            return read_dicom(local)
    return read_nifti(series) if series.kind == "nifti" else read_dicom(series)


def _files(source: Path, closed: list[str]) -> Iterator[str]:
    return iter((str(source),)) if source.is_file() else walk(str(source), closed)


_ADVICE = {
    "archive_format": "unpack what is no zip or tar",
    "nifti_in_archive": "unpack archives of NIfTI files",
    "archive_in_archive": "unpack archives that hold archives",
    "too_large": "some are beyond the bounds on size",
    "unreadable": "some cannot be read",
    "unreadable_folder": "give this user read access to all folders",
    "derivative": "give a folder of processed images as the source itself to take them",
    "sourcedata": "give the folder sourcedata as the source itself to take it",
    "bids_ignored": ".bidsignore names some",
}


def _no_file(source: Source, other: Mapping[str, int]) -> str:
    if isinstance(source, Server):
        return f"{source} has no study that is asked for; see the ? of the address, and your rights there"
    if UNREADABLE_FOLDER in other:
        return f"source {source} holds no file, or none in a folder that may be read; give this user read access"
    return f"source {source} holds no file; give the folder that holds the DICOM or NIfTI files"


def _nothing(source: Source, n_files: int, other: Mapping[str, int]) -> str:
    if isinstance(source, Server):
        told = "".join(f"; {count} {reason}" for reason, count in sorted(other.items()))
        return f"{source} tells of {n_files} objects, of none of which a header can be read{told}"
    if source.is_file() and n_files <= 1:
        return f"{source} is neither a DICOM nor a NIfTI file; give a DICOM file, or the folder that holds the images"
    advice = "".join(f"; {text}" for reason, text in _ADVICE.items() if reason in other)
    return (
        f"source {source} holds {n_files} files, none of them DICOM or NIfTI; give the folder that holds the images"
        f"{advice}"
    )


def _dicom_series(frames: list[Frame], who: Who, root: Path, key: bytes) -> Iterator[tuple[Series, LinkageRow]]:
    """Series of one session."""
    groups: dict[tuple[object, ...], list[Frame]] = defaultdict(list)
    for frame in sorted(frames, key=lambda one: (one.instance.path, one.index)):
        one = frame.instance
        groups[study_of(frame), one.series, one.number, one.rows, one.columns, one.problem].append(frame)
    contexts: dict[int, Context] = {}
    volumes: list[Stack] = []
    for group in groups.values():
        if group[0].instance.problem is not None:
            volumes.append(Stack(frames=tuple(group)))
            continue
        parts, strays = without_strays(alike_parts(group))
        context = context_of(parts, strays)
        for volume in (volume for part in parts for volume in stacks(part)):
            volumes.append(volume)
            contexts.update((id(frame), context) for frame in volume.frames)
        volumes += [stack(part) for part in strays]
    overview = Overview.of(frames)
    for volume in join(volumes):
        context = contexts.get(id(volume.frames[0]), Context())
        yield _series(volume, context_in(volume, context, overview), who, root, key)


def _series(volume: Stack, context: Context, who: Who, root: Path, key: bytes) -> tuple[Series, LinkageRow]:
    first = volume.frames[0]
    one = first.instance
    problem, explanation = one.problem, volume.defect
    if problem is None and volume.is_copy:
        problem, explanation = SkipReason.DUPLICATE, "the same instances as in another copy that is taken"
    elif problem is None and volume.defect:
        problem = SkipReason.INCOMPLETE
    paths = tuple(sorted({frame.instance.path for frame in volume.frames}))
    place = {path: index for index, path in enumerate(paths)}
    age, doubt = known_age(one.stated_age, one.birth, None if who.is_common_date else sound_date(one.date))
    software = pseudonym(key, "software", first.software) if first.software else ""
    series = Series(
        session=who.session,
        person=who.person,
        device=pseudonym(key, "device", one.device),
        number=one.number,
        header=replace(first.header, software=software),
        shape=volume.shape,
        spacing=volume.spacing,
        affine=volume.affine,
        n_instances=len({id(frame.instance) for frame in volume.frames}),
        digest=_digest_of((frame.instance.digest, frame.index) for frame in volume.frames),
        known=None if problem else _known(paths, volume.frames),
        content=_digest_of((frame.instance.pixels, frame.index) for frame in volume.frames) if one.pixels else "",
        kind="dicom",
        paths=paths,
        frames=tuple((place[frame.instance.path], frame.index) for frame in volume.frames),
        problem=problem,
        explanation=explanation,
        context=_with_cuts(volume, context),
        sex=one.sex,
        age=age,
        day=who.day,
        date=who.date,
        remarks=(Remark(kind=RemarkKind.AGE_UNKNOWN, text=f"{doubt}; the age is not known"),) if doubt else (),
        changed=max(frame.instance.changed for frame in volume.frames),
    )
    folder = PurePosixPath(relative(one.path.partition(SEPARATOR)[0], root)).parent.as_posix()
    row = LinkageRow(session=series.session, patient_id=one.patient, study_instance_uid=one.study, path=folder)
    return series, row


def _known(paths: tuple[str, ...], frames: Sequence[Frame]) -> Known | None:
    """What was noted of files and slices; None if it is nothing."""
    notes = {frame.instance.path: frame.instance.layout for frame in frames}
    first, shared = frames[0], dict[Scale | None, Scale | None]()
    if first.orientation is None or first.pixel_spacing is None or not any(notes.values()):
        return None
    return Known(
        notes=tuple(notes[path] for path in paths),
        scales=tuple(shared.setdefault(frame.scale, frame.scale) for frame in frames),
        positions=tuple(frame.position for frame in frames),
        orientation=first.orientation,
        pixel_spacing=first.pixel_spacing,
    )


def _with_cuts(volume: Stack, context: Context) -> Context:
    """Tell of files that end within their pixels, and archives that cannot be read to their end."""
    instances = {id(frame.instance): frame.instance for frame in volume.frames}.values()
    n_cut, in_cut_archive = sum(one.n_missing > 0 for one in instances), any(one.is_of_cut_archive for one in instances)
    return replace(context, n_cut=n_cut, in_cut_archive=in_cut_archive) if n_cut or in_cut_archive else context


def _digest_of(parts: Iterable[tuple[str, int]]) -> str:
    digest = hashlib.sha256()
    for part in sorted(set(parts)):
        digest.update(repr(part).encode())
    return digest.hexdigest()


def _assumed(found: list[Series], root: Path, assume: Sequence[Assumption], used: set[int]) -> list[Series]:
    """Fill what headers lack from the first matching entry; the digest then covers the entry too."""
    result = []
    for series in found:
        index = matching(assume, relative(series.paths[0], root)) if assume else None
        if index is None:
            result.append(series)
            continue
        used.add(index)
        entry = assume[index]
        header = fill(series.header, entry.parameters)
        stated = f"{series.digest}\0{entry.contrast}\0{sorted((n, getattr(header, n)) for n in header.assumed)!r}"
        result.append(
            replace(
                series,
                header=header,
                contrast=entry.contrast or series.contrast,
                digest=hashlib.sha256(stated.encode()).hexdigest(),
            )
        )
    return result
