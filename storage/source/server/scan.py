"""Scan of a server: the headers of studies that are new or have changed go into the index, as those of files do."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import replace

from storage.source.damage import DamagedError
from storage.source.dicom.frames import Frame, frames_of_header
from storage.source.index import Index
from storage.source.origin import Server
from storage.source.scans import Record, Scan, add_frames
from storage.source.server.archive import Archive, Header, Member, connect
from storage.source.server.failures import (
    REASONS,
    ServerAwayError,
    ServerChangedError,
    ServerError,
    ServerRefusedError,
)
from storage.source.server.listing import Known, Listing, list_studies
from storage.source.server.spool import asking, clean, place

ENDING = (ServerAwayError, ServerRefusedError)
"""Failures that end a scan: another study would fare no better."""


def scan_server(kept: Index, server: Server, key: bytes, progress: Callable[[int, int], None] | None = None) -> None:
    """Bring the index up to date with a server; what was read stays if that ends in the middle.

    Raises
    ------
    ServerError
        If the server is away, refuses, or does not list its studies.
    """
    clean(server.limits)
    filters = dict(server.filters)
    body_part = filters.pop("BodyPartExamined", "").upper()
    with asking(server, anew=True), connect(server) as archive:
        listing = list_studies(archive, filters, Listing.unpacked(kept.note()))
    scanner = _Scanner(server, key, body_part)
    new = list(kept.changed((uid, known[0]) for uid, known in listing.studies.items()))
    done = len(listing.studies) - len(new)
    for scan in scanner.scans((uid, listing.studies[uid]) for uid in new):
        kept.add([scan])
        done += 1
        if progress is not None:
            progress(done, len(listing.studies))
    kept.finish()
    kept.keep_note(listing.packed())


class _Scanner:
    """Reads headers of studies, a few studies at once, each in its place of the spool."""

    def __init__(self, server: Server, key: bytes, body_part: str) -> None:
        self._server, self._key, self._body_part = server, key, body_part
        self._local = threading.local()

    def scans(self, studies: Iterator[tuple[str, Known]]) -> Iterator[Scan]:
        with ExitStack() as stack:
            pool = ThreadPoolExecutor(self._server.limits.connections)
            stack.callback(pool.shutdown, cancel_futures=True)
            self._stack = stack
            for future in as_completed([pool.submit(self._scan, uid, known) for uid, known in studies]):
                yield future.result()

    def _archive(self) -> Archive:
        """The connection of this thread."""
        if not hasattr(self._local, "archive"):
            self._local.archive = self._stack.enter_context(connect(self._server))
        archive: Archive = self._local.archive
        return archive

    def _scan(self, study: str, known: Known) -> Scan:
        """Scan of one study; of one that the server fails to give it is tried again next time."""
        stamp, _, n_listed, changed = known
        other: Counter[str] = Counter()
        records: list[Record] = []
        n_files = 0
        with place(self._server.limits), asking(self._server):
            try:
                for member in self._archive().members(study):
                    n_files += self._read(study, member, changed, records, other)
            except ENDING:
                raise
            except ServerError as error:
                n_files = max(1, n_listed or 0)
                records, other = [], Counter({REASONS[type(error)]: n_files})
                stamp = ""
        return Scan(path=study, stamp=stamp, n_files=n_files, records=tuple(records), other=dict(other))

    def _read(self, study: str, member: Member, changed: float, records: list[Record], other: Counter[str]) -> int:
        """Read the headers of a series; of one that is not asked for, or of another modality, one. Its objects."""
        if self._body_part and member.body_part and member.body_part != self._body_part:
            other["other_body_part"] += (n_objects := member.n_instances or 1)
            return n_objects
        is_other = member.modality not in {"MR", ""}
        headers = self._archive().headers(study, member.uid, one=is_other)
        if len(headers) < (1 if is_other else member.n_instances or 0):  # less would pass for a smaller image
            raise ServerChangedError("the server gives fewer headers of a series than it tells of objects")
        for header in headers:
            frames = _frames(header, f"{study}/{member.uid}", changed)
            if frames is None:
                other["unreadable"] += 1
            else:
                add_frames(frames, self._key, records, other)
        return max(len(headers), member.n_instances or 0) if is_other else len(headers)


def _frames(header: Header, folder: str, changed: float) -> tuple[Frame, ...] | None:
    if header.dataset is None:
        return None
    try:
        uid = str(header.dataset.get("SOPInstanceUID", ""))
        frames = frames_of_header(header.dataset, f"{folder}/{uid}", header.digest)
    except DamagedError:
        return None
    if not changed or not frames:
        return frames
    instance = replace(frames[0].instance, changed=changed)
    return tuple(replace(frame, instance=instance) for frame in frames)
