"""What happens to a store as a whole: going back to a tag, giving space back, coming up to date."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import icechunk
import zarr

from storage.store.labels import LABELS, labels_in
from storage.store.lifecycle.forget import TOMBSTONES, tombstones
from storage.store.lifecycle.migrations import MIGRATIONS
from storage.store.locations import local_path
from storage.store.repository import (
    MAIN,
    STALE,
    StoreError,
    faults,
    is_state,
    snapshot_of,
    stage,
    writing,
)
from storage.store.schema import (
    SCHEMA_VERSION,
)
from storage.store.tables import change

KEEP_DAYS = 30
"""Retention rule of `compact`: days for which every commit can be opened again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """What `compact` removed, or would remove."""

    snapshots: int
    objects: int
    bytes: int


def rollback(location: str | Path, name: str) -> tuple[str, str]:
    """Make the state that ``name`` names the current one; what is left stays under a tag.

    Tombstones are kept: what was forgotten stays forgotten. So are the labels of groups: none is given again.

    Parameters
    ----------
    location
        As in `storage.store.cohort.open_cohort`.
    name
        A tag, a snapshot id or a time.

    Returns
    -------
    tuple
        The new snapshot's id, and the tag of the state that was current until now.

    Raises
    ------
    StoreError
        If ``name`` names no state, or another writer committed meanwhile.
    """
    with writing(location, outdated=True) as repository, faults(location):
        target, current = snapshot_of(repository, name), repository.lookup_branch(MAIN)
        if target.id == current:
            raise StoreError(f"{name} is the current state already")
        present = zarr.open_group(repository.readonly_session(MAIN).store, mode="r", zarr_format=3)
        kept, labels = tombstones(present), labels_in(present)
        now = datetime.now(UTC)
        saved = f"before-rollback-{now:%Y%m%dT%H%M%S.%f}Z"
        branch = stage(repository, target.id)
        session = repository.writable_session(branch)
        root = zarr.open_group(session.store, mode="a", zarr_format=3)
        root.attrs.update(
            {TOMBSTONES: sorted(kept | tombstones(root)), "rolled_back": f"to {target.id} on {now.isoformat()}"}
        )
        if labels:
            root.attrs[LABELS] = labels_in(root) | labels
        snapshot = str(session.commit(f"Roll back to {name}", metadata={"run": "rollback", "to": target.id}))
        repository.create_tag(saved, current)
        try:
            repository.reset_branch(MAIN, snapshot, from_snapshot_id=current)
        except icechunk.IcechunkError as error:
            repository.delete_tag(saved)
            raise StoreError("another process committed to the store meanwhile; run it again") from error
        finally:
            repository.delete_branch(branch)
    return snapshot, saved


def compact(location: str | Path, *, keep_days: float = KEEP_DAYS, dry_run: bool = False) -> Compacted:
    """Let commits end that are older than ``keep_days`` and have no tag, and delete what nothing needs any more.

    The current state and tagged ones always stay. In an object store, where others may be writing, what is younger
    than a day stays too.

    Parameters
    ----------
    location
        As in `storage.store.cohort.open_cohort`.
    keep_days
        Age in days.
    dry_run
        Tell what would be deleted now, without the commits that would end.
    """
    if keep_days < 0:
        raise StoreError(f"{keep_days} days cannot be kept; give 0 or more")
    with writing(location) as repository, faults(location):
        now = datetime.now(UTC)
        oldest = now - timedelta(days=keep_days)
        before = _states(repository)
        if dry_run:
            after = _states(repository, oldest)
        else:  # the set that this returns has, in format 1, tagged states and the current one too, which stay
            repository.expire_snapshots(older_than=oldest)
            after = _states(repository)
        limit = now if local_path(location) is not None else now - STALE
        done = repository.garbage_collect(limit, dry_run=dry_run)
    objects = done.chunks_deleted + done.manifests_deleted + done.snapshots_deleted + done.transaction_logs_deleted
    return Compacted(snapshots=len(before - after), objects=objects, bytes=done.bytes_deleted)


def _states(repository: icechunk.Repository, oldest: datetime | None = None) -> set[str]:
    """Committed states in the current state's history and in those of the tags.

    With ``oldest``, those that expiry would leave: what a name stands for, and what leads there without a gap since.
    """
    seen: set[str] = set()
    states: set[str] = set()
    for name in ({"branch": MAIN}, *({"tag": tag} for tag in repository.list_tags())):
        for position, info in enumerate(repository.ancestry(**name)):
            if info.id in seen or (oldest is not None and position and info.written_at < oldest):
                break
            seen.add(info.id)
            if is_state(info):
                states.add(info.id)
    return states


def migrate(location: str | Path) -> tuple[int, int]:
    """Bring a store that an older version wrote to this version's schema, in one commit.

    Returns
    -------
    tuple
        Schema version before and after; equal where there was nothing to do.
    """
    with writing(location, outdated=True) as repository, faults(location):
        root = zarr.open_group(repository.readonly_session(MAIN).store, mode="r", zarr_format=3)
        stated: Any = root.attrs["schema_version"]  # a whole number, or the store would not have been opened
        before = int(stated)
        metadata = {"run": "migrate", "schema_version": SCHEMA_VERSION}
        change(repository, _migrate, f"Migrate from schema {before} to {SCHEMA_VERSION}", metadata)
    return before, SCHEMA_VERSION


def _migrate(root: zarr.Group) -> None:
    stated: Any = root.attrs["schema_version"]
    for version in range(int(stated), SCHEMA_VERSION):
        MIGRATIONS[version](root)
        root.attrs["schema_version"] = version + 1
