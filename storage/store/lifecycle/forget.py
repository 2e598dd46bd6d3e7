"""Forgetting a session: out of the current state, out of the history, and never ingested again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import zarr

from storage.pseudonyms import pseudonym
from storage.store.cohort import Cohort
from storage.store.decisions.ledger import remove_session
from storage.store.repository import MAIN, StoreError, faults, open_repository, open_waves, writing
from storage.store.schema import CATALOGUE
from storage.store.slots import remove
from storage.store.tables import array_of, change, column, group_of, groups_of

TOMBSTONES = "forgotten"
"""Root attribute: keyed hashes of the sessions that were forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """Where a session is: whether the current state has it, and which tags."""

    current: bool
    tags: tuple[str, ...]


def tombstones(root: zarr.Group) -> set[str]:
    """Keyed hashes of all sessions that were forgotten."""
    stated: Any = root.attrs.get(TOMBSTONES, [])
    return set(stated)


def forgotten(cohort: Cohort, key: bytes, sessions: Iterable[str]) -> set[str]:
    """Those of ``sessions`` that were forgotten and must not be ingested again."""
    marks = tombstones(cohort.root)
    return {session for session in sessions if marks and pseudonym(key, "tombstone", session) in marks}


def holding(location: str | Path, session: str) -> Holding:
    """Find what would end with the session."""
    repository = open_repository(location)
    with faults(location):
        tags = tuple(
            name
            for name in sorted(repository.list_tags())
            if _has(_root(repository.readonly_session(tag=name)), session)
        )
        return Holding(current=_has(_root(repository.readonly_session(MAIN)), session), tags=tags)


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
    """
    begun = datetime.now(UTC)
    found = holding(location, session)
    mark = pseudonym(key, "tombstone", session)
    with writing(location) as repository, faults(location):
        if not found.current and not found.tags and mark not in tombstones(_root(repository.readonly_session(MAIN))):
            raise StoreError(
                f"{session}: no such session in the store; `qmri ingest` prints pseudonyms, --linkage names"
            )
        _remove(repository, session, mark)
        for name in found.tags:
            repository.delete_tag(name)
        waves = open_waves(repository)
        if waves:
            raise StoreError(
                f"{session} has left the current state, but {len(waves)} waves of other processes are open, the first "
                f"since {min(waves.values()):%H:%M} UTC; run it again when they have ended, to clear the history"
            )
        tip = repository.lookup_snapshot(repository.lookup_branch(MAIN))
        repository.expire_snapshots(older_than=tip.written_at)
        repository.garbage_collect(begun)
    return found


def _remove(repository: icechunk.Repository, session: str, mark: str) -> None:
    """Commit a state without the session; there is always a new commit, before which all others end."""

    def edit(root: zarr.Group) -> None:
        group = groups_of(root, [session]).get(session)
        if group is not None:
            remove(root, group, session)
        _remove_row(group_of(root, "catalogue"), session)
        for name in ("statistics", "regions", "calibration"):
            remove_from_table(root, name, session)
        remove_session(root, session)
        root.attrs[TOMBSTONES] = sorted(tombstones(root) | {mark})
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


def _has(root: zarr.Group, session: str) -> bool:
    return session in set(map(str, column(array_of(root, "catalogue/session"))))


def _root(session: icechunk.Session) -> zarr.Group:
    return zarr.open_group(session.store, mode="r", zarr_format=3)
