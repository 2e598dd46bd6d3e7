"""Copies that have left the store: which exports and reports hold which sessions, so that forgetting can name them.

The records lie on a branch of their own, beside the cohort's: a copy changes nothing of the cohort, so it makes no new
state of it. They hold what the fields of `Copy` say and nothing of where a copy went, since a path can name somebody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Literal

import icechunk
import zarr

from storage.store.cohort import Cohort, StoreError
from storage.store.repository import MAIN, faults

BRANCH = "copies"
"""Branch of the records; it begins at the empty beginning of the store."""
SETS, RECORDS = "sessions", "copies"
"""Attributes of its root: sets of sessions by their digests, and the records, which name sets."""
Kind = Literal["export-bids", "export-dicom", "export-tables", "export-zarr", "reference-maps", "report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """What an export or a report was made of, and when it was finished."""

    kind: str
    snapshot: str
    time: datetime
    sessions: frozenset[str]
    """Those that it may hold; forgotten ones are no longer among them."""


def note_copy(cohort: Cohort, kind: Kind, sessions: Iterable[str]) -> None:
    """Leave a record of a copy of the cohort in its store.

    Raises
    ------
    StoreError
        If the store cannot be written, or the snapshot has ended since, as by forgetting.
    """
    with cohort.writing() as repository, faults(cohort.location):
        if not _is_kept(repository, cohort.snapshot):
            raise StoreError(
                f"{cohort.location}: snapshot {cohort.snapshot} has ended since, as by forgetting: throw the copy away "
                "and make it again"
            )
        made = Copy(kind=kind, snapshot=cohort.snapshot, time=datetime.now(UTC), sessions=frozenset(sessions))
        _change(repository, lambda copies: [*copies, made])


def copies_of(repository: icechunk.Repository) -> list[Copy]:
    """All recorded copies, in the order in which they were made."""
    if BRANCH not in repository.list_branches():
        return []
    return _read(zarr.open_group(repository.readonly_session(BRANCH).store, mode="r", zarr_format=3))


def take_out(repository: icechunk.Repository, sessions: Collection[str]) -> None:
    """Take sessions out of the records; what the branch held before stays until its commits end."""
    if any(not copy.sessions.isdisjoint(sessions) for copy in copies_of(repository)):
        _change(repository, lambda copies: [_without(copy, sessions) for copy in copies])


def _without(copy: Copy, sessions: Collection[str]) -> Copy:
    return Copy(kind=copy.kind, snapshot=copy.snapshot, time=copy.time, sessions=copy.sessions.difference(sessions))


def _is_kept(repository: icechunk.Repository, snapshot: str) -> bool:
    """Whether the cohort or a tag still has a snapshot in its history.

    Icechunk itself remembers snapshots that it has read, ended ones too; it asks for branches and tags anew.
    """
    tagged = (info for name in sorted(repository.list_tags()) for info in repository.ancestry(tag=name))
    return any(info.id == snapshot for info in chain(repository.ancestry(branch=MAIN), tagged))


def _change(repository: icechunk.Repository, edit: Callable[[list[Copy]], list[Copy]]) -> None:
    if BRANCH not in repository.list_branches():
        *_, beginning = repository.ancestry(branch=MAIN)
        repository.create_branch(BRANCH, beginning.id)
    session = repository.writable_session(BRANCH)
    root = zarr.open_group(session.store, mode="a", zarr_format=3)
    copies = edit(_read(root))
    sets = {_digest(copy.sessions): sorted(copy.sessions) for copy in copies}
    records = [
        {
            "kind": copy.kind,
            "snapshot": copy.snapshot,
            "time": copy.time.isoformat(),
            "sessions": _digest(copy.sessions),
        }
        for copy in copies
    ]
    root.attrs.put({SETS: sets, RECORDS: records})
    session.commit("Note copies")


def _read(root: zarr.Group) -> list[Copy]:
    sets: Any = root.attrs.get(SETS, {})
    records: Any = root.attrs.get(RECORDS, [])
    return [
        Copy(
            kind=record["kind"],
            snapshot=record["snapshot"],
            time=datetime.fromisoformat(record["time"]),
            sessions=frozenset(sets[record["sessions"]]),
        )
        for record in records
    ]


def _digest(sessions: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(sessions)).encode()).hexdigest()[:16]
