"""Writing sessions: plan in one process, write whole chunks on workers, commit once.

Every wave has a branch of its own, because a forked session needs a clean parent and no reader may see sessions
without images. The commit merges the forks there and then moves the main branch to it in one step. If another writer
has moved it meanwhile, the wave is done again on top of that, from what its workers have written. A wave that was cut
short leaves only its branch behind, which a later writer drops.
"""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import icechunk
import numpy as np
import zarr

from storage.store.arrays import check_whole_chunks, digest_of, digests_of, write_arrays
from storage.store.labels import give_labels
from storage.store.repository import MAIN, STAGING, StorageFaultError, StoreError, faults, stage
from storage.store.schema import AFFINE, DIGEST, IMAGE_NAMES, PER_SESSION, SESSION_VARIABLES, SHARED, Status
from storage.store.slots import Placement, Slot, find_slots, place, remove, slots_in
from storage.store.tables import MAX_TRIES, array_of, assign, cell, check_rows, column, group_of, groups_of, write_rows

__all__ = [
    "Wave",
    "begin_append",
    "begin_update",
    "check_whole_chunks",
    "commit",
    "digest_of",
    "write_arrays",
]

_COMMITTED = {AFFINE.name, *(variable.name for variable in PER_SESSION)}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """Sessions that are being written together; ``fork`` goes to the workers, the rest stays with the committer."""

    fork: icechunk.ForkSession
    slots: Mapping[str, Slot]
    base: str
    branch: str
    placements: tuple[Placement, ...] = field(repr=False)
    session: icechunk.Session = field(repr=False)

    @property
    def appends(self) -> bool:
        """Whether the wave gives sessions a place; otherwise it writes more of stored ones."""
        return bool(self.placements)


def begin_append(repository: icechunk.Repository, placements: Sequence[Placement]) -> Wave:
    """Give each session a slot: groups are created, session axes extended, on a branch that no reader sees.

    A session that its group holds already keeps its slot, emptied; one that another group holds leaves that group.

    Raises
    ------
    StoreError
        If a session occurs twice, or a group exists with another grid.
    StorageFaultError
        If the storage does not answer.
    """
    if len({placement.session for placement in placements}) < len(placements):
        raise StoreError("a session occurs twice in one wave; two workers would write the same chunks")
    with faults():
        base = repository.lookup_branch(MAIN)
        branch = stage(repository, base)
        session = repository.writable_session(branch)
        root = zarr.open_group(session.store, mode="a", zarr_format=3)
        stored = groups_of(root, (placement.session for placement in placements))
        by_group: dict[str, list[Placement]] = defaultdict(list)
        for placement in placements:
            by_group[placement.group].append(placement)
            if stored.get(placement.session, placement.group) != placement.group:
                remove(root, stored[placement.session], placement.session)
        slots: dict[str, Slot] = {}
        for group, members in by_group.items():
            slots |= place(root, group, members)
        if session.has_uncommitted_changes:
            session.commit(f"Make room for {len(slots)} sessions", metadata={STAGING: True})
            session = repository.writable_session(branch)
        fork = session.fork()
    return Wave(fork=fork, slots=slots, base=base, branch=branch, placements=tuple(placements), session=session)


def begin_update(repository: icechunk.Repository, sessions: Sequence[str]) -> Wave:
    """Slots of stored sessions, to write further variables of theirs.

    Raises
    ------
    StoreError
        If a session is not stored.
    StorageFaultError
        If the storage does not answer.
    """
    with faults():
        base = repository.lookup_branch(MAIN)
        slots = find_slots(_root(repository, base), sessions)
        branch = stage(repository, base)
        session = repository.writable_session(branch)
        fork = session.fork()
    return Wave(fork=fork, slots=slots, base=base, branch=branch, placements=(), session=session)


def commit(
    repository: icechunk.Repository,
    wave: Wave | None,
    forks: Sequence[icechunk.ForkSession],
    *,
    values: Mapping[str, Mapping[str, object]],
    rows: Sequence[Mapping[str, object]],
    message: str,
    metadata: Mapping[str, object] | None = None,
) -> str:
    """Commit what the workers wrote, per-session values and catalogue rows in one step; the new snapshot's id.

    If another writer committed since the wave began, the wave is rebased: its volumes get slots in the state of now.
    Sessions that the other one forgot, or whose images it replaced while this wave made maps of them, are left out; the
    next run finds them as they are.

    Parameters
    ----------
    wave, forks
        The wave and the forks that the workers returned; ``None`` and none for rows or values alone.
    values
        ``values[session][variable]`` for stored sessions; ``None`` is not known.
    rows
        Catalogue rows; what a row does not name keeps its value, except for sessions that the wave appends. A row's
        ``group`` is filled in; an appended session whose row says failed or skipped loses its slot. A value that
        stands in both a row and a group is written to both; the row's counts.
    message, metadata
        Of the commit; the metadata must fit into JSON.

    Raises
    ------
    StoreError
        If an appended session lacks its row, its affine or any image; if a name or value is not in the schema; if
        others were faster time and again. Nothing is committed then.
    StorageFaultError
        If the storage does not answer. What was committed before stays.
    """
    check_rows(rows)
    if wave is None and forks:
        raise StoreError("forks without their wave cannot be committed")
    records = {str(row["session"]): dict(row) for row in rows}
    entries = {name: dict(given) for name, given in values.items()}
    with faults():
        if wave is not None:
            wave.session.merge(*{id(fork): fork for fork in forks}.values())
        for _ in range(MAX_TRIES):
            session = repository.writable_session(MAIN) if wave is None else wave.session
            root = zarr.open_group(session.store, mode="a", zarr_format=3)
            _record(root, wave, records, entries)
            snapshot = _finish(repository, wave, session, message, dict(metadata or {}))
            if snapshot is not None:
                return snapshot
            _log.warning("another process committed to the store meanwhile; this wave is done again on top of it")
            if wave is not None:
                wave = _rebased(repository, wave, records, entries)
    raise StoreError(f"others committed to the store {MAX_TRIES} times while this did; run it again")


def _finish(
    repository: icechunk.Repository,
    wave: Wave | None,
    session: icechunk.Session,
    message: str,
    metadata: dict[str, Any],
) -> str | None:
    """Make the session's state, if anything in it has changed, the store's; ``None`` if another writer was faster."""
    if not session.has_uncommitted_changes:
        if wave is None:
            return str(session.snapshot_id)
        repository.delete_branch(wave.branch)
        return wave.base
    try:
        snapshot = str(session.commit(message, metadata=metadata))
    except icechunk.ConflictError:
        if wave is not None:
            raise StorageFaultError("the wave's own branch has gone or moved; run it again") from None
        return None
    if wave is None:
        return snapshot
    try:
        repository.reset_branch(MAIN, snapshot, from_snapshot_id=wave.base)
    except icechunk.IcechunkError:
        if repository.lookup_branch(MAIN) == wave.base:
            raise
        # an answer that was lost on its way looks like a conflict when the request is repeated
        newer = itertools.takewhile(lambda info: info.id != wave.base, repository.ancestry(branch=MAIN))
        if all(info.id != snapshot for info in newer):
            return None
    repository.delete_branch(wave.branch)
    return snapshot


def _rebased(repository: icechunk.Repository, wave: Wave, records: dict[str, Any], entries: dict[str, Any]) -> Wave:
    """Begin the wave anew in the state of now, with the volumes that were written; forget what does not hold any more.

    ``records`` and ``entries`` lose the sessions that are left out.
    """
    done = zarr.open_group(repository.readonly_session(branch=wave.branch).store, mode="r", zarr_format=3)
    before, now = _root(repository, wave.base), _root(repository, repository.lookup_branch(MAIN))
    written = find_slots(done, [name for name in groups_of(done, wave.slots) if name in wave.slots])
    if wave.appends:
        gone = _seen(before) - _seen(now)
        fresh = begin_append(repository, [member for member in wave.placements if member.session not in gone])
    else:
        fresh = begin_update(repository, [name for name in wave.slots if _still_holds(name, before, done, now)])
    for name in set(wave.slots) - set(fresh.slots):
        records.pop(name, None)
        entries.pop(name, None)
    base = zarr.open_group(fresh.fork.store, mode="r", zarr_format=3)
    for name, slot in fresh.slots.items():
        if name not in written:  # it failed, and lost its slot
            continue
        source = group_of(done, written[name].group)
        there, here = digests_of(done, written[name]), digests_of(base, slot)
        changed = [image for image in IMAGE_NAMES if there[image] != here[image]]
        write_arrays(
            fresh.fork,
            slot,
            {key: np.asarray(array_of(source, key)[written[name].index]) for key in (*changed, AFFINE.name)},
        )
    fresh.session.merge(fresh.fork)
    repository.delete_branch(wave.branch)
    return fresh


def _still_holds(session: str, before: zarr.Group, done: zarr.Group, now: zarr.Group) -> bool:
    """Whether everything that an update read of the session, and did not write, is as it was."""
    if session not in groups_of(now, [session]):
        return False
    old, new, current = (digests_of(root, find_slots(root, [session])[session]) for root in (before, done, now))
    return all(current[name] == old[name] for name in IMAGE_NAMES if new[name] == old[name])


def _seen(root: zarr.Group) -> set[str]:
    return set(map(str, column(array_of(root, "catalogue/session"))))


def _root(repository: icechunk.Repository, snapshot: str) -> zarr.Group:
    return zarr.open_group(repository.readonly_session(snapshot_id=snapshot).store, mode="r", zarr_format=3)


def _record(
    root: zarr.Group, wave: Wave | None, given: Mapping[str, Mapping[str, Any]], values: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write rows and values, drop the slots of sessions that failed, and label the groups that are new."""
    records = {name: dict(row) for name, row in given.items()}
    entries = {name: dict(entry) for name, entry in values.items()}
    placed = dict(wave.slots) if wave is not None and wave.appends else {}
    appended = _drop_failed(root, placed, records)
    others = {*entries, *records} - set(placed)
    slots = appended if not others else find_slots(root, groups_of(root, others)) | appended
    for name in dict.fromkeys((*records, *entries)):
        _share(name, records, entries, slots)
    _write_values(root, slots, entries)
    _check_appended(root, appended)
    give_labels(root, dict.fromkeys(slot.group for slot in appended.values()))
    write_rows(root, list(records.values()), fresh=placed)


def _share(name: str, records: dict[str, Any], entries: dict[str, Any], slots: Mapping[str, Slot]) -> None:
    """Make catalogue and group agree in what both hold, and say in the row where the arrays are."""
    slot = slots.get(name)
    if slot is None:
        if name in entries:
            raise StoreError(f"{name}: values for a session that is not in the store")
        records[name]["group"] = ""
        return
    record, entry = records.setdefault(name, {"session": name}), entries.setdefault(name, {})
    scanner, protocol = slot.group.split("/")
    record |= {"group": slot.group, "scanner": scanner, "protocol": protocol}
    for key in SHARED:
        if key in record:
            entry[key] = record[key]
        elif key in entry:
            record[key] = entry[key]


def _write_values(root: zarr.Group, slots: Mapping[str, Slot], entries: Mapping[str, Mapping[str, object]]) -> None:
    cells: dict[str, dict[str, dict[int, Any]]] = defaultdict(lambda: defaultdict(dict))
    for session, entry in entries.items():
        slot = slots[session]
        for name, value in entry.items():
            if name not in _COMMITTED:
                raise StoreError(f"{session}: {name} is no per-session variable that a commit writes")
            cells[slot.group][name][slot.index] = cell(SESSION_VARIABLES[name], value)
    for path, variables in cells.items():
        group = group_of(root, path)
        for name, column_cells in variables.items():
            assign(array_of(group, name), SESSION_VARIABLES[name], column_cells)


def _drop_failed(
    root: zarr.Group, placed: Mapping[str, Slot], records: Mapping[str, Mapping[str, object]]
) -> dict[str, Slot]:
    """Take the sessions that got a slot, but no images, out of their groups again; the slots of the others."""
    kept: dict[str, list[str]] = defaultdict(list)
    for name, slot in placed.items():
        status = records.get(name, {}).get("status")
        if status is None:
            raise StoreError(f"{name}: appended without a catalogue row that states its status")
        if status in {Status.FAILED, Status.SKIPPED}:
            remove(root, slot.group, name)
        else:
            kept[slot.group].append(name)
    return {name: slot for group, names in kept.items() for name, slot in slots_in(root, group, names).items()}


def _check_appended(root: zarr.Group, appended: Mapping[str, Slot]) -> None:
    """Keep the promise that a group holds only sessions with images and a finite affine."""
    by_group: dict[str, list[Slot]] = defaultdict(list)
    for slot in appended.values():
        by_group[slot.group].append(slot)
    for path, members in by_group.items():
        group = group_of(root, path)
        index = np.asarray([member.index for member in members])
        affines = np.asarray(array_of(group, "affine").oindex[index, :, :])
        contrasts = [IMAGE_NAMES.index(name) for name in ("T1w", "T2w", "FLAIR")]
        digests = np.asarray(array_of(group, DIGEST.name).oindex[index, :], dtype=object)[:, contrasts]
        for position, member in enumerate(members):
            if not np.isfinite(affines[position]).all():
                raise StoreError(f"{member.session}: appended without a finite affine")
            if not any(digests[position]):
                raise StoreError(f"{member.session}: appended without an image")
