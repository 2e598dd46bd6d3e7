"""Forgetting a session, or a person with all sessions: out of the state, out of the history, never ingested again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import zarr

from storage.pseudonyms import pseudonym
from storage.store import thumbnails
from storage.store.cohort import Cohort
from storage.store.decisions.ledger import remove_session
from storage.store.keys import require_key
from storage.store.lifecycle.copies import Copy, copies_of, take_out
from storage.store.repository import MAIN, StoreError, faults, open_repository, open_waves, writing
from storage.store.scanner_days import end_counting
from storage.store.schema import CATALOGUE
from storage.store.slots import remove
from storage.store.tables import array_of, change, column, group_of, groups_of

TOMBSTONES = "forgotten"
"""Root attribute: keyed hashes of the sessions and people that were forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """Where sessions are: whether the current state has any of them, and which tags."""

    current: bool
    tags: tuple[str, ...]
    sessions: tuple[str, ...]
    """Those that were asked for, of a person all that any state holds."""
    copies: tuple[Copy, ...]
    """Exports and reports with a record in the store that may hold them; nothing here reaches those."""


def tombstones(root: zarr.Group) -> set[str]:
    """Keyed hashes of all sessions and people that were forgotten."""
    stated: Any = root.attrs.get(TOMBSTONES, [])
    return set(stated)


def forgotten(cohort: Cohort, key: bytes, names: Iterable[str]) -> set[str]:
    """Those of ``names``, pseudonyms of sessions or people, that were forgotten and must not be ingested again."""
    marks = tombstones(cohort.root)
    return {name for name in names if marks and pseudonym(key, "tombstone", name) in marks}


def holding(location: str | Path, session: str) -> Holding:
    """Find what would end with the session."""
    return _holding(_states(location), {session})


def holding_of_person(location: str | Path, person: str) -> Holding:
    """Find the sessions of a person, in the current state and under tags, and what would end with them.

    A session is of whom the current state says; of whom a tagged one says, if the current one has it no more.
    """
    states = _states(location)
    people: dict[str, set[str]] = {}
    for persons in states.tagged.values():
        for session, one in persons.items():
            people.setdefault(session, set()).add(one)
    people |= {session: {one} for session, one in states.current.items()}
    return _holding(states, {session for session, ones in people.items() if person and person in ones})


def forget(location: str | Path, session: str, *, key: bytes) -> Holding:
    """Remove a session from the store and from its history, and mark it so that it is not ingested again.

    All commits before this one end, except those that a tag names which does not hold the session. Chunks, manifests
    and snapshots that nothing needs any more are deleted, so that no object holds anything of it. Doing it again
    finishes what was cut short.

    Parameters
    ----------
    location
        As in `storage.store.cohort.open_cohort`.
    session
        Pseudonym, stored or only listed in the catalogue, now or in a tagged state.
    key
        Of the pseudonyms, so that the mark says nothing to others.

    Returns
    -------
    Holding
        What held the session; the tags are gone.

    Raises
    ------
    StoreError
        If no state holds the session and none was forgotten under its name; or if another process is writing: the
        session has left the current state then, and the history when this is done again.
    WrongKeyError
        If the store's sessions are named under another key.
    """
    return _forget(location, session, lambda: holding(location, session), key)


def forget_person(location: str | Path, person: str, *, key: bytes) -> Holding:
    """Forget all sessions of a person as `forget` does, and mark the person, so that later sessions stay out too.

    Raises
    ------
    StoreError
        If no state holds a session of the person, and the person was not forgotten; or if another process is writing,
        as with `forget`.
    """
    return _forget(location, person, lambda: holding_of_person(location, person), key)


def _forget(location: str | Path, name: str, find: Callable[[], Holding], key: bytes) -> Holding:
    begun = datetime.now(UTC)
    mark = pseudonym(key, "tombstone", name)
    with writing(location) as repository, faults(location):
        require_key(_root(repository.readonly_session(MAIN)), key)  # else the mark would keep nothing out
        found = find()
        if not found.current and not found.tags and mark not in tombstones(_root(repository.readonly_session(MAIN))):
            raise StoreError(
                f"{name}: no such session or person in the store; `qmri ingest` prints pseudonyms, --linkage names"
            )
        take_out(repository, found.sessions)
        _remove(repository, found.sessions, {mark, *(pseudonym(key, "tombstone", one) for one in found.sessions)})
        for tag in found.tags:
            repository.delete_tag(tag)
        waves = open_waves(repository)
        if waves:
            raise StoreError(
                f"{name} has left the current state, but {len(waves)} waves of other processes are open, the first "
                f"since {min(waves.values()):%H:%M} UTC; run it again when they have ended, to clear the history"
            )
        tip = repository.lookup_snapshot(repository.lookup_branch(MAIN))
        repository.expire_snapshots(older_than=tip.written_at)
        repository.garbage_collect(begun)
    return found


def _remove(repository: icechunk.Repository, sessions: Iterable[str], marks: set[str]) -> None:
    """Commit a state without the sessions; there is always a new commit, before which all others end."""

    def edit(root: zarr.Group) -> None:
        for session in sessions:
            group = groups_of(root, [session]).get(session)
            if group is not None:
                remove(root, group, session)
            _remove_row(group_of(root, "catalogue"), session)
            for name in ("statistics", "regions", "calibration"):
                remove_from_table(root, name, session)
            remove_session(root, session)
        thumbnails.remove(root, sessions)
        end_counting(root)
        root.attrs[TOMBSTONES] = sorted(tombstones(root) | marks)
        root.attrs["forgotten_last"] = datetime.now(UTC).isoformat()

    change(repository, edit, "Forget a session", {"run": "forget"})


def _remove_row(catalogue: zarr.Group, session: str) -> None:
    names = [str(name) for name in column(array_of(catalogue, "session"))]
    if session not in names:
        return
    index = names.index(session)
    for variable in CATALOGUE:
        array = array_of(catalogue, variable.name)
        later = column(array)[index + 1 :]
        array[index : len(names) - 1] = later
        array[len(names) - 1] = variable.fill  # what a shared chunk holds beyond the end stays in it
        array.resize((len(names) - 1,))


def remove_from_table(root: zarr.Group, name: str, session: str) -> None:
    """Take the rows of a session out of a table, if it has any."""
    import xarray as xr

    if name not in root or "session" not in group_of(root, name):
        return
    with xr.open_zarr(root.store, group=name, consolidated=False, chunks=None) as opened:
        table = opened.load()
    (dim,) = table["session"].dims
    keep = np.flatnonzero(table["session"].values != session)
    if len(keep) == table.sizes[dim]:
        return
    del root[name]
    kept = table.isel({dim: keep})
    for variable in kept.variables.values():
        variable.encoding.clear()
    kept.to_zarr(root.store, group=name, mode="w", zarr_format=3, consolidated=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _States:
    """Person of each session that the catalogue has, in the current state and under each tag; and the copies."""

    current: Mapping[str, str]
    tagged: Mapping[str, Mapping[str, str]]
    copies: Iterable[Copy]


def _states(location: str | Path) -> _States:
    repository = open_repository(location)
    with faults(location):
        return _States(
            current=_people(_root(repository.readonly_session(MAIN))),
            tagged={
                name: _people(_root(repository.readonly_session(tag=name))) for name in sorted(repository.list_tags())
            },
            copies=copies_of(repository),
        )


def _people(root: zarr.Group) -> dict[str, str]:
    names, people = (column(array_of(root, f"catalogue/{name}")) for name in ("session", "person"))
    return {str(name): str(person) for name, person in zip(names, people, strict=True)}


def _holding(states: _States, sessions: set[str]) -> Holding:
    return Holding(
        current=not sessions.isdisjoint(states.current),
        tags=tuple(name for name, people in states.tagged.items() if not sessions.isdisjoint(people)),
        sessions=tuple(sorted(sessions)),
        copies=tuple(copy for copy in states.copies if not sessions.isdisjoint(copy.sessions)),
    )


def _root(session: icechunk.Session) -> zarr.Group:
    return zarr.open_group(session.store, mode="r", zarr_format=3)
