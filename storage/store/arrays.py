"""Volumes of one session: written by a worker through a fork, read from a commit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import icechunk
import numpy as np
import zarr
from numpy.typing import NDArray

from storage.store.repository import StoreError, faults
from storage.store.schema import (
    DIGEST,
    IMAGE_NAMES,
    IMAGES,
    SESSION_VARIABLES,
    WORKER_VARIABLES,
    Variable,
    rounded,
)
from storage.store.slots import Slot, check_owner
from storage.store.tables import Nodes, array_of, column, group_of


def write_arrays(fork: icechunk.ForkSession, slot: Slot, arrays: Mapping[str, NDArray[Any]]) -> icechunk.ForkSession:
    """Write volumes of one session, with the digest of each; runs on workers.

    ``arrays`` names images, maps or masks of the schema, each of the shape (z, y, x) of the group's grid, bias fields
    of `qmri_core.series.geometry.FIELD_SHAPE`, or the ``affine``. Everything is checked before the first byte
    is written. Floats are rounded to the bits that the schema keeps. The fork is returned for `waves.commit`.

    Raises
    ------
    StoreError
        If a name, shape or dtype does not fit, or the slot is not this session's.
    StorageFaultError
        If the storage cannot be written.
    """
    with faults():
        group = zarr.open_group(fork.store, path=slot.group, mode="r+", zarr_format=3)
        check_owner(list(column(array_of(group, "session"))), slot)
        checked: list[tuple[zarr.Array[Any], Variable, NDArray[Any]]] = []
        for name, values in arrays.items():
            if name not in WORKER_VARIABLES:
                known = ", ".join(WORKER_VARIABLES)
                raise StoreError(f"{slot.session}: {name} is no variable that workers write: {known}")
            array = array_of(group, name)
            check_whole_chunks(array, slot, np.shape(values))
            try:
                checked.append((array, WORKER_VARIABLES[name], rounded(np.asarray(values), WORKER_VARIABLES[name])))
            except ValueError as error:
                raise StoreError(f"{slot.session}: {error}") from error
        digests = array_of(group, DIGEST.name)
        row = np.asarray(digests[slot.index], dtype=object)
        for array, variable, stored in checked:
            array[slot.index] = stored
            if variable in IMAGES:
                row[IMAGE_NAMES.index(variable.name)] = digest_of(stored)
        digests[slot.index] = row
    return fork


def check_whole_chunks(array: zarr.Array[Any], slot: Slot, shape: tuple[int, ...]) -> None:
    """Raise `StoreError` unless writing ``shape`` at the slot covers whole chunks that no other session shares."""
    if array.chunks[0] != 1 or array.shards is not None:
        raise StoreError(f"{array.path}: chunks of {array.chunks[0]} sessions; two workers would overwrite each other")
    if shape != array.shape[1:]:
        raise StoreError(f"{slot.session}: {array.path} has volumes of {array.shape[1:]}, {shape} was given")


def read_arrays(nodes: Nodes, slot: Slot, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """One session's values of the variables as stored; see `storage.store.cohort.Cohort.read`."""
    _check(nodes, [slot], names)
    return {name: np.asarray(nodes.array(slot.group, name)[slot.index]) for name in names}


def read_part(nodes: Nodes, slot: Slot, name: str, place: Sequence[int | slice]) -> NDArray[Any]:
    """Part of one session's values of a variable; see `storage.store.cohort.Cohort.read_part`."""
    _check(nodes, [slot], [name])
    return np.asarray(nodes.array(slot.group, name)[(slot.index, *place)])


def read_together(nodes: Nodes, slots: Sequence[Slot], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Values of several sessions of one group; see `storage.store.cohort.Cohort.read_together`."""
    _check(nodes, slots, names)
    (group,) = {slot.group for slot in slots}
    index = np.asarray([slot.index for slot in slots])
    arrays = {name: nodes.array(group, name) for name in names}
    return {
        name: np.asarray(array.oindex[(index, *(slice(None) for _ in array.shape[1:]))])
        for name, array in arrays.items()
    }


def _check(nodes: Nodes, slots: Sequence[Slot], names: Sequence[str]) -> None:
    for slot in slots:
        check_owner(nodes.members(slot.group), slot)
    unknown = [name for name in names if name not in WORKER_VARIABLES and name not in SESSION_VARIABLES]
    if unknown:
        raise StoreError(f"{slots[0].session}: no such variables: {', '.join(unknown)}")


def digests_of(root: zarr.Group, slot: Slot) -> dict[str, str]:
    """Recorded digest of each image of a session; empty if not computed."""
    row = np.asarray(array_of(group_of(root, slot.group), DIGEST.name)[slot.index], dtype=object)
    return dict(zip(IMAGE_NAMES, map(str, row), strict=True))


def digest_of(array: NDArray[Any]) -> str:
    """Digest of an array's dtype, shape and bytes as stored; empty if nothing in it is computed."""
    is_computed = ~np.isnan(array) if array.dtype.kind == "f" else array != np.iinfo(array.dtype).max
    if not is_computed.any():
        return ""
    head = f"{array.dtype.str}{array.shape}".encode()
    digest = hashlib.sha256(head)
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:32]
