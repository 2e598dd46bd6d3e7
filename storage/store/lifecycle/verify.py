"""Checking a store: every chunk readable, every digest equal, catalogue and arrays in agreement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import icechunk
import numpy as np
import zarr
from numpy.typing import NDArray

from storage.store.cohort import Cohort
from storage.store.decisions.ledger import NODE as DECISIONS
from storage.store.decisions.ledger import read_decisions
from storage.store.labels import LABEL, labels_in
from storage.store.repository import StoreError
from storage.store.schema import AFFINE, DIGEST, IMAGE_NAMES, PER_SESSION, SCHEMA_VERSION, SHARED
from storage.store.slots import TOP_NODES, group_paths
from storage.store.tables import array_of, column, group_of, read_rows
from storage.store.waves import digest_of

UNREADABLE = (OSError, ValueError, RuntimeError, icechunk.IcechunkError)
"""What reading damaged chunks raises: storage, codec, decompression, transaction log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something in the store that is not as it was written; ``variable`` is empty if it is not about one."""

    session: str
    variable: str
    message: str


def verify(cohort: Cohort, *, progress: Callable[[int, int], None] | None = None) -> list[Problem]:
    """Read everything that is stored and compare it with what was recorded when it was written.

    Parameters
    ----------
    progress
        Called with the number of sessions done and of all.

    Raises
    ------
    StoreError
        If that state of the cohort has another schema.
    """
    root = cohort.root
    if root.attrs["schema_version"] != SCHEMA_VERSION:
        raise StoreError(
            f"that state has another schema version than {SCHEMA_VERSION}; only the current one is checked"
        )
    members: dict[str, list[str]] = {}
    problems: list[Problem] = []
    for path in group_paths(root):
        try:
            members[path] = [str(name) for name in column(array_of(root, f"{path}/session"))]
        except UNREADABLE as error:
            problems.append(Problem(session="", variable="session", message=f"{path}: {_what(error)}"))
    total = sum(len(names) for names in members.values())
    done = 0
    for path, names in members.items():
        arrays = dict(group_of(root, path).arrays())
        for index, name in enumerate(names):
            problems.extend(_check_session(arrays, index, name))
            done += 1
            if progress is not None:
                progress(done, total)
    problems.extend(_check_catalogue(root, members))
    problems.extend(_check_labels(root, members))
    problems.extend(_check_tables(root))
    problems.extend(_check_decisions(root))
    return problems


def _check_labels(root: zarr.Group, groups: Iterable[str]) -> Iterator[Problem]:
    labels = labels_in(root)
    for label, count in Counter(labels.values()).items():
        if count > 1:
            yield Problem(session="", variable=LABEL, message=f"{label} is the label of {count} groups")
    for path in groups:
        own = group_of(root, path).attrs.get(LABEL)
        if path not in labels or own != labels[path]:
            yield Problem(session="", variable=LABEL, message=f"{path}: is not labelled as the store says")


def _check_tables(root: zarr.Group) -> Iterator[Problem]:
    """Whether everything that belongs to no session can be read."""
    for name in sorted(TOP_NODES - {"catalogue"}):
        if name not in root:
            continue
        for key, array in sorted(group_of(root, name).arrays()):
            try:
                column(array)
            except UNREADABLE as error:
                yield Problem(session="", variable=f"{name}/{key}", message=_what(error))


def _check_decisions(root: zarr.Group) -> Iterator[Problem]:
    """Whether every decision is made of codes; what cannot be read at all, `_check_tables` names."""
    try:
        read_decisions(root)
    except StoreError as error:
        yield Problem(session="", variable=DECISIONS, message=str(error))
    except UNREADABLE:
        return


def _check_session(arrays: Mapping[str, zarr.Array[Any]], index: int, session: str) -> Iterator[Problem]:
    try:
        recorded = dict(zip(IMAGE_NAMES, map(str, np.asarray(arrays[DIGEST.name][index])), strict=True))
    except UNREADABLE as error:
        yield Problem(session=session, variable=DIGEST.name, message=_what(error))
        recorded = {}
    for name in IMAGE_NAMES:
        message = _check_volume(arrays[name], index, recorded.get(name))
        if message:
            yield Problem(session=session, variable=name, message=message)
    try:
        affine = np.asarray(arrays[AFFINE.name][index], dtype=np.float64)
    except UNREADABLE as error:
        yield Problem(session=session, variable=AFFINE.name, message=_what(error))
    else:
        if not np.isfinite(affine).all():
            yield Problem(session=session, variable=AFFINE.name, message="is not finite")


def _check_volume(array: zarr.Array[Any], index: int, recorded: str | None) -> str:
    try:
        found = digest_of(np.asarray(array[index]))
    except UNREADABLE as error:
        return _what(error)
    if recorded is None or found == recorded:
        return ""
    if not recorded:
        return "holds values, but none were recorded as written"
    return "its content is not what was written" if found else "is recorded as written, but holds nothing"


def _check_catalogue(root: zarr.Group, members: dict[str, list[str]]) -> Iterator[Problem]:
    try:
        rows = read_rows(root)
    except UNREADABLE as error:
        yield Problem(session="", variable="", message=f"the catalogue: {_what(error)}")
        return
    for session, count in Counter(map(str, rows["session"])).items():
        if count > 1:
            yield Problem(session=session, variable="", message=f"has {count} rows in the catalogue")
    position = {str(session): index for index, session in enumerate(rows["session"])}
    stored = [(session, group) for group, names in members.items() for session in names]
    for session, group in stored:
        listed = str(rows["group"][position[session]]) if session in position else "no row"
        if listed != group:
            yield Problem(session=session, variable="", message=f"lies in {group}, and the catalogue says {listed!r}")
    for session, index in position.items():
        group = str(rows["group"][index])
        if group and session not in members.get(group, []):
            yield Problem(session=session, variable="", message=f"the catalogue says {group}, which lacks it")
    for path, names in members.items():
        yield from _check_values(group_of(root, path), names, rows, position)


def _check_values(
    group: zarr.Group, names: list[str], rows: dict[str, NDArray[Any]], position: dict[str, int]
) -> Iterator[Problem]:
    for variable in PER_SESSION:
        key = variable.name
        try:
            values = column(array_of(group, key))
        except UNREADABLE as error:
            yield Problem(session="", variable=key, message=f"{group.path}: {_what(error)}")
            continue
        for session, value in zip(names, values if key in SHARED else (), strict=key in SHARED):
            if session in position and not _same(rows[key][position[session]], value):
                yield Problem(session=session, variable=key, message="differs between the group and the catalogue")


def _same(one: object, other: object) -> bool:
    """Whether two values are equal; not known (NaN) is equal to itself."""
    return one == other or (one != one and other != other)


def _what(error: Exception) -> str:
    return f"cannot be read ({type(error).__name__})"
