"""Network weights inside a cohort's store, and which of them is promoted: every machine that sees the store has them.

The node ``/checkpoints`` holds one array of bytes per checkpoint, named by a digest; its attributes are the training
record, and the SHA-256 of its file. The root attribute ``promoted_checkpoint`` names the one that `infer` uses. Both
are written in one commit, so a reader never sees a promoted checkpoint without its weights, and an earlier snapshot
has its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from storage.store.repository import MAIN, StoreError, writing
from storage.store.tables import array_of, change, group_of

NODE = "checkpoints"
PROMOTED = "promoted_checkpoint"
BEFORE = "promoted_before"
"""Root attribute: what was promoted before, oldest first, empty texts where none was; for `step_back`."""
SHA256 = "sha256"
"""Attribute of a checkpoint: SHA-256 of its file; release 0.1 has it as the name alone."""
CHUNK = 8_000_000


def register(
    location: str | Path, content: bytes, *, record: Mapping[str, object], promote: bool, digest: str | None = None
) -> str:
    """Keep a checkpoint file in the store and, with ``promote``, make it the one that inference uses; one commit.

    Parameters
    ----------
    content
        Bytes of the file.
    record
        How it was trained and what it was measured against; must fit into JSON. NaN and infinity, as of a training
        that has gone astray, become null.
    digest
        By which the store names the checkpoint: of its content, so that equal weights have one name; ``None`` for the
        SHA-256 of the file.

    Returns
    -------
    str
        The checkpoint's digest. Registering the same digest again changes the record alone.

    Raises
    ------
    StoreError
        If the location cannot be written.
    StorageFaultError
        If the storage does not answer.
    """
    digest = digest or hashlib.sha256(content).hexdigest()

    def edit(root: zarr.Group) -> None:
        keep(root.require_group(NODE), digest, content, record)
        if promote:
            _promote(root, digest)

    what = "Promote" if promote else "Register"
    with writing(location) as repository:
        change(repository, edit, f"{what} checkpoint {digest[:12]}", {"run": "train", "checkpoint": digest})
    return digest


def keep(node: zarr.Group, digest: str, content: bytes, record: Mapping[str, object]) -> None:
    """Write a checkpoint into the node of checkpoints, under the name ``digest``; of one that is there the record."""
    if digest not in node:
        node.create_array(
            digest,
            data=np.frombuffer(content, dtype=np.uint8),
            chunks=(min(CHUNK, max(1, len(content))),),
            dimension_names=(f"byte_{digest[:12]}",),  # files differ in length, dimensions of one name must not
            attributes={SHA256: hashlib.sha256(content).hexdigest()},
        )
    plain = json.loads(json.dumps(record, default=str), parse_constant=lambda _: None)
    array_of(node, digest).attrs.update({"record": plain})


def promote(location: str | Path, digest: str) -> str:
    """Make a registered checkpoint the one that inference uses; the id of the new snapshot.

    Parameters
    ----------
    digest
        Of the checkpoint; empty for the shipped one, which no store holds.

    Raises
    ------
    StoreError
        If the store holds no such checkpoint.
    """

    def edit(root: zarr.Group) -> None:
        if digest and (NODE not in root or digest not in group_of(root, NODE)):
            raise StoreError(f"{location}: holds no checkpoint {digest[:12]}; register it first, with `qmri train`")
        _promote(root, digest)

    with writing(location) as repository:
        metadata = {"run": "promote", "checkpoint": digest}
        snapshot = change(repository, edit, f"Promote checkpoint {digest[:12] or 'that is shipped'}", metadata)
        return snapshot or repository.lookup_branch(MAIN)


def step_back(location: str | Path) -> str:
    """Make the checkpoint that was promoted before the current one the one that inference uses; its digest.

    It is empty for the shipped one. Steps can be gone back one after the other; to go forth again, `promote`.

    Raises
    ------
    StoreError
        If none was promoted before, as far as the store knows.
    """

    def edit(root: zarr.Group) -> None:
        before = promoted_before(root)
        if not before:
            raise StoreError(f"{location}: no checkpoint was promoted before this one, as far as the store knows")
        root.attrs.update({PROMOTED: before[-1], BEFORE: before[:-1]})

    with writing(location) as repository:
        change(repository, edit, "Step back to the checkpoint of before", {"run": "promote"})
        root = zarr.open_group(repository.readonly_session(MAIN).store, mode="r", zarr_format=3)
        return promoted(root)


def _promote(root: zarr.Group, digest: str) -> None:
    """Make a checkpoint the promoted one, and keep which one was; of the one that is nothing changes."""
    current = promoted(root)
    if digest != current:
        root.attrs.update({PROMOTED: digest, BEFORE: [*promoted_before(root), current]})


def promoted_before(root: zarr.Group) -> list[str]:
    """Digests of what was promoted before the current one, oldest first; empty texts stand for the shipped one."""
    stated: Any = root.attrs.get(BEFORE, [])
    return [str(digest) for digest in stated]


def promoted(root: zarr.Group) -> str:
    """Digest of the promoted checkpoint; empty where none is."""
    return str(root.attrs.get(PROMOTED, ""))


def registered(root: zarr.Group) -> dict[str, dict[str, Any]]:
    """Records of the checkpoints that the store holds, by digest."""
    if NODE not in root:
        return {}
    arrays = sorted(group_of(root, NODE).arrays())
    return {name: json.loads(json.dumps(array.attrs["record"])) for name, array in arrays}


def checkpoint_content(root: zarr.Group, digest: str, location: str) -> bytes:
    """Content of a registered checkpoint's file; see `storage.store.cohort.Cohort.checkpoint`."""
    if NODE not in root or digest not in group_of(root, NODE):
        raise StoreError(f"{location}: holds no checkpoint {digest[:12]}")
    array = array_of(group_of(root, NODE), digest)
    content = np.asarray(array[...], dtype=np.uint8).tobytes()
    if hashlib.sha256(content).hexdigest() != array.attrs.get(SHA256, digest):
        raise StoreError(f"{location}: the bytes of checkpoint {digest[:12]} are not those that were written")
    return content
