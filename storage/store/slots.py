"""Where sessions lie: groups, and slots along their session axes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import zarr

from qmri_core.series.geometry import Grid
from storage.store.repository import StoreError
from storage.store.schema import EXTENDED, Variable, create_group
from storage.store.tables import array_of, assign, column, group_of, groups_of

_KEY = re.compile(r"[a-z0-9][a-z0-9._-]*")
TOP_NODES = {"catalogue", "calibration", "statistics", "regions", "checkpoints", "decisions", "thumbnails"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A session that is to be stored, and where."""

    session: str
    scanner: str
    protocol: str
    grid: Grid

    def __post_init__(self) -> None:
        for key in (self.scanner, self.protocol):
            if not _KEY.fullmatch(key) or key in TOP_NODES:
                raise StoreError(f"{self.session}: {key!r} cannot be the name of a node: lower case, digits, . _ -")

    @property
    def group(self) -> str:
        """Path of the group's node."""
        return f"{self.scanner}/{self.protocol}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where one session lies: the group's path and the index along the session axis."""

    group: str
    index: int
    session: str


def group_paths(root: zarr.Group) -> list[str]:
    """Paths of all group nodes."""
    scanners = [name for name in root.group_keys() if name not in TOP_NODES]
    return sorted(f"{scanner}/{protocol}" for scanner in scanners for protocol in group_of(root, scanner).group_keys())


def find_slots(root: zarr.Group, sessions: Iterable[str] | None = None) -> dict[str, Slot]:
    """Slots of the sessions (default: of all that are stored).

    Raises
    ------
    StoreError
        If a session is not stored.
    """
    wanted = None if sessions is None else list(sessions)
    groups = groups_of(root, wanted)
    missing = [] if wanted is None else [session for session in wanted if session not in groups]
    if missing:
        raise StoreError(f"not in the store: {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}")
    members: dict[str, list[str]] = defaultdict(list)
    for session, group in groups.items():
        members[group].append(session)
    slots: dict[str, Slot] = {}
    for group in sorted(members):
        slots |= slots_in(root, group, members[group])
    return slots if wanted is None else {session: slots[session] for session in wanted}


def slots_in(root: zarr.Group, group: str, sessions: Iterable[str]) -> dict[str, Slot]:
    """Slots of sessions of one group."""
    index = {str(name): position for position, name in enumerate(column(array_of(root, f"{group}/session")))}
    lost = [session for session in sessions if session not in index]
    if lost:
        raise StoreError(f"{lost[0]}: the catalogue places it in {group}, which lacks it; run `qmri verify`")
    return {session: Slot(group=group, index=index[session], session=session) for session in sessions}


def place(root: zarr.Group, path: str, members: Sequence[Placement]) -> dict[str, Slot]:
    """Make the group if it is new, extend it, and give each member its slot, emptied.

    Raises
    ------
    StoreError
        If a member's grid is not the group's.
    """
    grid = members[0].grid
    if path in root:
        group = group_of(root, path)
        shape, spacing = array_of(group, "T1map").shape[1:], tuple(group.attrs["spacing"])  # type: ignore[arg-type]
    else:
        group, shape, spacing = create_group(root, path, grid), grid.shape, grid.spacing
    for member in members:
        if member.grid.shape != shape or member.grid.spacing != spacing:
            raise StoreError(
                f"{member.session}: grid {member.grid.shape} of {member.grid.spacing} mm in {path}, whose grid is "
                f"{shape} of {spacing} mm; a group has one grid"
            )
    names = [str(name) for name in column(array_of(group, "session"))]
    for member in members:
        if member.session in names:
            _empty(group, names.index(member.session))
        else:
            names.append(member.session)
    _resize(group, len(names))
    index = {name: names.index(name) for name in (member.session for member in members)}
    session = Variable(name="session", dims=("session",), dtype="str", long_name="")
    assign(array_of(group, "session"), session, {position: name for name, position in index.items()})
    return {name: Slot(group=path, index=position, session=name) for name, position in index.items()}


def _resize(group: zarr.Group, size: int) -> None:
    extended = {"session", *(variable.name for variable in EXTENDED)}
    for name, array in group.arrays():  # all at once: opening them one by one takes longer than resizing
        if name in extended and array.shape[0] != size:
            array.resize((size, *array.shape[1:]))


def _empty(group: zarr.Group, index: int) -> None:
    for variable in EXTENDED:
        array_of(group, variable.name)[index] = variable.fill


def remove(root: zarr.Group, path: str, session: str) -> None:
    """Take a session out of a group; the last one moves to its place."""
    group = group_of(root, path)
    names = [str(name) for name in column(array_of(group, "session"))]
    index, last = names.index(session), len(names) - 1
    if last == 0:
        del root[path]
        scanner = path.split("/")[0]
        if not list(group_of(root, scanner).members()):
            del root[scanner]
        return
    if index != last:
        for name in ("session", *(variable.name for variable in EXTENDED)):
            array = array_of(group, name)
            array[index] = array[last]
    _empty(group, last)  # what a shared chunk holds beyond the end would come back when the axis grows
    array_of(group, "session")[last] = ""
    _resize(group, last)


def check_owner(members: Sequence[object], slot: Slot) -> None:
    """Raise `StoreError` unless the slot is still this session's, of the sessions along the axis of its group."""
    owner = str(members[slot.index]) if slot.index < len(members) else "nobody"
    if owner != slot.session:
        raise StoreError(f"{slot.session}: its slot {slot.index} in {slot.group} belongs to {owner}; begin a new wave")
