"""Writing sessions: plan in one process, write whole chunks on workers, commit once.

A wave that appends sessions extends its groups on a staging branch, because a forked session needs a clean parent and
no reader may see sessions without images. The commit merges the forks there and then moves the main branch to it in one
step. A wave that was cut short leaves only the staging branch behind, which the next writer drops.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import zarr
from numpy.typing import NDArray

from storage.repository import MAIN, STAGING, StoreError, drop_staging, open_repository, readable_session
from storage.schema import (
    AFFINE,
    IMAGES,
    PER_SESSION,
    SESSION_VARIABLES,
    SHARED,
    WORKER_VARIABLES,
    Status,
    Variable,
    rounded,
)
from storage.slots import Placement, Slot, check_owner, find_slots, place, remove, slots_in
from storage.tables import array_of, assign, cell, check_rows, finish, group_of, groups_of, write_rows

_COMMITTED = {AFFINE.name, *(variable.name for variable in PER_SESSION)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """Sessions that are being written together; ``fork`` goes to the workers, the rest stays with the committer."""

    fork: icechunk.ForkSession
    slots: Mapping[str, Slot]
    base: str
    appends: bool
    session: icechunk.Session = field(repr=False)


def begin_append(repository: icechunk.Repository, placements: Sequence[Placement]) -> Wave:
    """Give each session a slot: groups are created, session axes extended, on a branch that no reader sees.

    A session that its group holds already keeps its slot, emptied; one that another group holds leaves that group.
    A wave that was begun before and not committed is lost.

    Raises
    ------
    StoreError
        If a session occurs twice, or a group exists with another grid.
    """
    if len({placement.session for placement in placements}) < len(placements):
        raise StoreError("a session occurs twice in one wave; two workers would write the same chunks")
    drop_staging(repository)
    base = repository.lookup_branch(MAIN)
    repository.create_branch(STAGING, base)
    session = repository.writable_session(STAGING)
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
        session = repository.writable_session(STAGING)
    return Wave(fork=session.fork(), slots=slots, base=base, appends=True, session=session)


def begin_update(repository: icechunk.Repository, sessions: Sequence[str]) -> Wave:
    """Slots of stored sessions, to write further variables of theirs.

    Raises
    ------
    StoreError
        If a session is not stored.
    """
    drop_staging(repository)
    base = repository.lookup_branch(MAIN)
    session = repository.writable_session(MAIN)
    slots = find_slots(zarr.open_group(session.store, mode="r", zarr_format=3), sessions)
    return Wave(fork=session.fork(), slots=slots, base=base, appends=False, session=session)


def write_arrays(fork: icechunk.ForkSession, slot: Slot, arrays: Mapping[str, NDArray[Any]]) -> icechunk.ForkSession:
    """Write volumes of one session, with the digest of each; runs on workers.

    ``arrays`` names images, maps or masks of the schema, each of the shape (z, y, x) of the group's grid, bias fields
    of `storage.schema.FIELD_SHAPE`, or the ``affine``. Everything is checked before the first byte is written. Floats
    are rounded to the bits that the schema keeps. The fork is returned for `commit`.

    Raises
    ------
    StoreError
        If a name, shape or dtype does not fit, or the slot is not this session's.
    """
    group = zarr.open_group(fork.store, path=slot.group, mode="r+", zarr_format=3)
    check_owner(group, slot)
    checked: list[tuple[zarr.Array[Any], Variable, NDArray[Any]]] = []
    for name, values in arrays.items():
        if name not in WORKER_VARIABLES:
            raise StoreError(f"{slot.session}: {name} is no variable that workers write: {', '.join(WORKER_VARIABLES)}")
        array = array_of(group, name)
        check_whole_chunks(array, slot, np.shape(values))
        try:
            checked.append((array, WORKER_VARIABLES[name], rounded(np.asarray(values), WORKER_VARIABLES[name])))
        except ValueError as error:
            raise StoreError(f"{slot.session}: {error}") from error
    for array, variable, stored in checked:
        array[slot.index] = stored
        if variable in IMAGES:
            array_of(group, f"{variable.name}_digest")[slot.index] = digest_of(stored)
    return fork


def check_whole_chunks(array: zarr.Array[Any], slot: Slot, shape: tuple[int, ...]) -> None:
    """Raise `StoreError` unless writing ``shape`` at the slot covers whole chunks that no other session shares."""
    if array.chunks[0] != 1 or array.shards is not None:
        raise StoreError(f"{array.path}: chunks of {array.chunks[0]} sessions; two workers would overwrite each other")
    if shape != array.shape[1:]:
        raise StoreError(f"{slot.session}: {array.path} has volumes of {array.shape[1:]}, {shape} was given")


def read_arrays(location: str | Path, slot: Slot, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """One session's values of the variables as stored, from the last commit; runs on workers.

    Not computed is NaN in float variables, `storage.schema.NOT_COMPUTED` in masks, empty in texts.

    Raises
    ------
    StoreError
        If the slot is not this session's any more, or a name is unknown.
    """
    session = readable_session(open_repository(location))
    group = zarr.open_group(session.store, path=slot.group, mode="r", zarr_format=3)
    check_owner(group, slot)
    unknown = [name for name in names if name not in WORKER_VARIABLES and name not in SESSION_VARIABLES]
    if unknown:
        raise StoreError(f"{slot.session}: no such variables: {', '.join(unknown)}")
    return {name: np.asarray(array_of(group, name)[slot.index]) for name in names}


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
        another writer or a later wave came in between. Nothing is committed then.
    """
    check_rows(rows)
    session = repository.writable_session(MAIN) if wave is None else wave.session
    distinct = list({id(fork): fork for fork in forks}.values())
    if wave is not None:
        session.merge(*distinct)
    elif distinct:
        raise StoreError("forks without their wave cannot be committed")
    root = zarr.open_group(session.store, mode="a", zarr_format=3)
    records = {str(row["session"]): dict(row) for row in rows}
    entries = {name: dict(given) for name, given in values.items()}
    placed = dict(wave.slots) if wave is not None and wave.appends else {}
    appended = _drop_failed(root, placed, records)
    others = [name for name in groups_of(root, {*entries, *records}) if name not in placed]
    slots = find_slots(root, others) | appended
    for name in dict.fromkeys((*records, *entries)):
        _share(name, records, entries, slots)
    _write_values(root, slots, entries)
    _check_appended(root, appended)
    write_rows(root, list(records.values()), fresh=placed)
    if not session.has_uncommitted_changes:
        return str(repository.lookup_branch(MAIN))
    snapshot = finish(session, message, metadata or {})
    if wave is not None and wave.appends:
        try:
            repository.reset_branch(MAIN, snapshot, from_snapshot_id=wave.base)
        except icechunk.IcechunkError as error:
            raise StoreError("another writer committed to the store since the wave began; run it again") from error
        drop_staging(repository)
    return snapshot


def digest_of(array: NDArray[Any]) -> str:
    """Digest of an array's dtype, shape and bytes as stored; empty if nothing in it is computed."""
    is_computed = ~np.isnan(array) if array.dtype.kind == "f" else array != np.iinfo(array.dtype).max
    if not is_computed.any():
        return ""
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()[:32]


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
        digests = [
            np.asarray(array_of(group, f"{contrast}_digest").oindex[index]) for contrast in ("T1w", "T2w", "FLAIR")
        ]
        for position, member in enumerate(members):
            if not np.isfinite(affines[position]).all():
                raise StoreError(f"{member.session}: appended without a finite affine")
            if not any(digest[position] for digest in digests):
                raise StoreError(f"{member.session}: appended without an image")
