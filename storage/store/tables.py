"""Nodes of a store: the catalogue, the tables ``/calibration``, ``/statistics``, ``/regions``; arrays opened once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import icechunk
import numpy as np
import zarr
from numpy.typing import NDArray

from storage.store.repository import MAIN, StoreError, faults
from storage.store.schema import CATALOGUE, CATALOGUE_COLUMNS, Reason, Status, Variable

if TYPE_CHECKING:
    import xarray as xr

MAX_TRIES = 20
"""How often a commit is done again because others were faster."""
MAX_KEPT = 1024
"""Arrays that are kept open; the variables that a run reads are some ten per group."""
TableName = Literal["calibration", "statistics", "regions"]
_ORDER = "columns"
"""Attribute of a table's group: its columns in order."""


def column(array: zarr.Array[Any]) -> NDArray[Any]:
    """Values of a whole array; text as Python strings."""
    values = np.asarray(array[...])
    return values if values.dtype.kind in "fiu" else values.astype(object)


def read_rows(root: zarr.Group) -> dict[str, NDArray[Any]]:
    """All columns of the catalogue."""
    catalogue = group_of(root, "catalogue")
    return {variable.name: column(array_of(catalogue, variable.name)) for variable in CATALOGUE}


def read_some_rows(root: zarr.Group, sessions: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Rows of the catalogue by session, of those ``sessions`` that it has."""
    catalogue = group_of(root, "catalogue")
    wanted = set(sessions)
    names = [str(name) for name in column(array_of(catalogue, "session"))]
    index = np.asarray([place for place, name in enumerate(names) if name in wanted], dtype=np.intp)
    if not index.size:
        return {}
    columns = {variable.name: array_of(catalogue, variable.name).oindex[index] for variable in CATALOGUE}
    rows = zip(*(np.asarray(values).tolist() for values in columns.values()), strict=True)
    return {str(row["session"]): row for row in (dict(zip(columns, row, strict=True)) for row in rows)}


def groups_of(root: zarr.Group, sessions: Iterable[str] | None = None) -> dict[str, str]:
    """Group of each session that has arrays, from the catalogue."""
    catalogue = group_of(root, "catalogue")
    known = zip(column(array_of(catalogue, "session")), column(array_of(catalogue, "group")), strict=True)
    wanted = None if sessions is None else set(sessions)
    return {
        str(session): str(group) for session, group in known if group and (wanted is None or str(session) in wanted)
    }


def write_rows(root: zarr.Group, rows: Sequence[Mapping[str, object]], *, fresh: Iterable[str] = ()) -> None:
    """Insert rows, or update those of known sessions; what is not given keeps its value.

    The rows of the sessions in ``fresh`` start from empty ones.
    """
    catalogue = group_of(root, "catalogue")
    sessions = [str(row["session"]) for row in rows]
    position = {str(name): index for index, name in enumerate(column(array_of(catalogue, "session")))}
    start_empty = set(fresh) | (set(sessions) - set(position))
    for name in sessions:
        position.setdefault(name, len(position))
    for variable in CATALOGUE:
        array = array_of(catalogue, variable.name)
        if len(position) > array.shape[0]:
            array.resize((len(position),))
        cells = {
            position[session]: cell(variable, row.get(variable.name))
            for session, row in zip(sessions, rows, strict=True)
            if variable.name in row or session in start_empty
        }
        assign(array, variable, cells)


def assign(array: zarr.Array[Any], variable: Variable, cells: Mapping[int, Any]) -> None:
    """Write single entries along the first axis."""
    if not cells:
        return
    index = np.asarray(sorted(cells))
    dtype = object if variable.dtype == "str" else variable.dtype
    values = np.asarray([cells[entry] for entry in index], dtype=dtype)
    array.oindex[(index, *(slice(None) for _ in array.shape[1:]))] = values


def cell(variable: Variable, value: object) -> Any:  # noqa: ANN401 - a number or a text
    """Convert a value to what the store holds; ``None`` is the fill value.

    Raises
    ------
    StoreError
        If the value does not fit the variable.
    """
    if value is None:
        return variable.fill
    if variable.dtype == "str":
        if not isinstance(value, str):
            raise StoreError(f"{variable.name} is text, and {type(value).__name__} was given")
        return str(value)
    try:
        return float(value) if np.ndim(value) == 0 else np.asarray(value, dtype=variable.dtype)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise StoreError(f"{variable.name} is a number, and {type(value).__name__} was given") from None


def check_rows(rows: Sequence[Mapping[str, object]]) -> None:
    """Raise `StoreError` unless each row names its session once and has only known columns, status and reason."""
    seen: set[object] = set()
    for row in rows:
        session = row.get("session")
        if not isinstance(session, str) or not session:
            raise StoreError("a row of the catalogue names no session")
        if session in seen:
            raise StoreError(f"{session} has two rows in one commit; which one counts?")
        seen.add(session)
        unknown = set(row) - set(CATALOGUE_COLUMNS)
        if unknown:
            raise StoreError(f"{session}: no such columns of the catalogue: {', '.join(sorted(unknown))}")
        if "status" in row and row["status"] not in set(Status):
            raise StoreError(f"{session}: status {row['status']!r} is none of {', '.join(Status)}")
        if row.get("reason") and row["reason"] not in set(Reason):
            raise StoreError(f"{session}: reason {row['reason']!r} is none of {', '.join(Reason)}")


def write_table(
    repository: icechunk.Repository,
    name: TableName,
    dataset: xr.Dataset,
    *,
    message: str,
    metadata: Mapping[str, object] | None = None,
    since: str | None = None,
    also: Callable[[zarr.Group], None] | None = None,
) -> str:
    """Replace a table as a whole in one commit; the id of the new snapshot is returned.

    Parameters
    ----------
    since
        Snapshot whose table the new one was made from: if another process has written the table after that, nothing is
        written. Without it the later one counts.
    also
        What is to be written in the same commit; called again where others were faster.

    Raises
    ------
    StoreError
        If another process has written the table since, or others commit faster time and again.
    StorageFaultError
        If the storage does not answer.
    """
    # fixed-width text has no stable Zarr type
    text = {key: value.astype(object) for key, value in dataset.variables.items() if value.dtype.kind == "U"}
    named = dataset.assign(text).assign_attrs({_ORDER: [str(name) for name in dataset.data_vars]})
    with faults():
        for _ in range(MAX_TRIES):
            session = repository.writable_session(MAIN)
            if since is not None:
                before = load_table(repository.readonly_session(snapshot_id=since), name)
                now = load_table(session, name)
                is_same = before is None if now is None else before is not None and before.identical(now)
                if not is_same:
                    raise StoreError(f"another process has written the table {name} meanwhile; run it again")
            root = zarr.open_group(session.store, mode="a", zarr_format=3)
            if name in root:
                del root[name]
            named.to_zarr(session.store, group=name, mode="w", zarr_format=3, consolidated=False)
            if also is not None:
                also(root)
            try:
                return str(session.commit(message, metadata=dict(metadata or {})))
            except icechunk.ConflictError:
                continue
    raise StoreError(f"others committed to the store {MAX_TRIES} times while this did; run it again")


def change(
    repository: icechunk.Repository,
    edit: Callable[[zarr.Group], None],
    message: str,
    metadata: Mapping[str, object],
) -> str | None:
    """Commit what ``edit`` does to the root group; the new snapshot's id, or None if it changed nothing.

    ``edit`` is called again, on the state of then, if another writer was faster.

    Raises
    ------
    StoreError
        What ``edit`` raises; or if others were faster time and again.
    StorageFaultError
        If the storage does not answer.
    """
    with faults():
        for _ in range(MAX_TRIES):
            session = repository.writable_session(MAIN)
            edit(zarr.open_group(session.store, mode="a", zarr_format=3))
            if not session.has_uncommitted_changes:
                return None
            try:
                return str(session.commit(message, metadata=dict(metadata)))
            except icechunk.ConflictError:
                continue
    raise StoreError(f"others committed to the store {MAX_TRIES} times while this did; run it again")


def load_table(session: icechunk.Session, name: TableName) -> xr.Dataset | None:
    """Load a table, its columns in the order in which they were written; ``None`` if it was never written."""
    import xarray as xr

    if name not in zarr.open_group(session.store, mode="r", zarr_format=3):
        return None
    with xr.open_zarr(session.store, group=name, consolidated=False, chunks=None) as dataset:
        loaded: xr.Dataset = dataset.load()
    return in_order(loaded)


def in_order(table: xr.Dataset, otherwise: Sequence[str] = ()) -> xr.Dataset:
    """A table with its columns as its writer had them, as Zarr lists members in no order; else as given, then by name.

    The order itself is no attribute of what users see.
    """
    place = {name: index for index, name in enumerate(table.attrs.get(_ORDER, otherwise))}
    ordered = table[sorted(map(str, table.data_vars), key=lambda name: (place.get(name, len(place)), name))]
    ordered.attrs = {name: value for name, value in table.attrs.items() if name != _ORDER}
    return ordered


def group_of(root: zarr.Group, path: str) -> zarr.Group:
    """Find a group by its path."""
    node = root[path]
    if not isinstance(node, zarr.Group):
        raise StoreError(f"{path} is not a group; the store is damaged")
    return node


def array_of(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """Find an array by its name or path."""
    node = group[name]
    if not isinstance(node, zarr.Array):
        raise StoreError(f"{group.path}/{name} is not an array; the store is damaged")
    return node


class Nodes:
    """Arrays and members of groups below a root that does not change."""

    def __init__(self, root: zarr.Group) -> None:
        self.root = root
        self._arrays: dict[tuple[str, str], zarr.Array[Any]] = {}
        self._members: dict[str, list[str]] = {}

    def array(self, group: str, name: str) -> zarr.Array[Any]:
        """Array of a group by its name."""
        kept = self._arrays.get((group, name))
        if kept is None:
            kept = array_of(group_of(self.root, group), name)
            if len(self._arrays) >= MAX_KEPT:
                self._arrays.clear()
            self._arrays[group, name] = kept
        return kept

    def members(self, group: str) -> list[str]:
        """Sessions along the axis of a group."""
        if group not in self._members:
            self._members[group] = [str(name) for name in column(self.array(group, "session"))]
        return self._members[group]

    def columns(self, group: str, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Whole per-session values of a group, by name; the arrays are not kept open."""
        node = group_of(self.root, group)
        return {name: column(array_of(node, name)) for name in names}
