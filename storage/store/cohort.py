"""The cohort store: what the rest of the system, and an analyst, use of it.

Reading is here; the writing functions come from `repository`, `waves` and `tables` beside it.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr
import zarr

from storage.store.labels import LABEL, labels_in
from storage.store.repository import (
    Snapshot,
    StoreError,
    faults,
    history,
    open_repository,
    readable_session,
    tag,
    writing,
)
from storage.store.schema import CATALOGUE_COLUMNS, IMAGE_NAMES, PER_SESSION, SESSION_VARIABLES
from storage.store.slots import Placement, Slot, find_slots
from storage.store.tables import column, group_of, groups_of, read_rows, read_table, write_table
from storage.store.waves import Wave, begin_append, begin_update, commit, read_arrays, write_arrays

__all__ = [
    "Placement",
    "Slot",
    "Snapshot",
    "StoreError",
    "Wave",
    "begin_append",
    "begin_update",
    "catalogue",
    "commit",
    "group_labels",
    "history",
    "open_cohort",
    "open_repository",
    "read_arrays",
    "read_table",
    "sessions",
    "slots",
    "tag",
    "write_arrays",
    "write_table",
    "writing",
]


def open_cohort(
    location: str | Path, *, at: str | datetime | None = None, chunks: dict[str, Any] | None = None
) -> xr.DataTree:
    """Open a cohort read-only and lazily.

    Parameters
    ----------
    location
        A path, or ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``az://container/prefix``; see
        `storage.store.locations.storage_of`.
    at
        Snapshot id, tag or time; default: the last commit.
    chunks
        As in `xarray.open_datatree`: ``{}`` for dask arrays with the store's own chunks; default: lazy arrays
        without dask.

    Returns
    -------
    xarray.DataTree
        One node per group, ``tree["<scanner>/<protocol>"]``, and ``catalogue``. Not computed is NaN, in the labels
        ``tissue`` and ``brain_mask``, which are integers, the flag value `storage.store.schema.NOT_COMPUTED`.
        ``tree.qmri.table()`` has all sessions as a DataFrame.

    Raises
    ------
    StoreError
        If there is no store, ``at`` names nothing in it, or a newer version wrote it.
    """
    session = readable_session(open_repository(location), at)
    store: Any = session.store  # xarray's annotation leaves out Zarr stores
    tree = xr.open_datatree(store, engine="zarr", consolidated=False, chunks=chunks)
    # Zarr lists members in no order
    return xr.DataTree.from_dict({path: _in_schema_order(tree[path].to_dataset()) for path in sorted(tree.groups)})


def catalogue(location: str | Path, *, at: str | datetime | None = None) -> pd.DataFrame:
    """One row per session ever seen, with its status, reason, group, digests and versions.

    Texts that are not known are empty, numbers NaN.
    """
    return pd.DataFrame(read_rows(_root(location, at)))


def sessions(location: str | Path, *, at: str | datetime | None = None) -> pd.DataFrame:
    """One row per stored session: its group, index along the session axis, and all per-session values."""
    return _sessions_of(str(location), readable_session(open_repository(location), at).snapshot_id).copy()


@lru_cache(maxsize=2)
def _sessions_of(location: str, snapshot: str) -> pd.DataFrame:
    """A snapshot never changes, and one run asks several times: thousands of small reads."""
    with faults(location):
        store = open_repository(location).readonly_session(snapshot_id=snapshot).store
    root = zarr.open_group(store, mode="r", zarr_format=3)
    tables = []
    for path in sorted(set(groups_of(root).values())):
        arrays = dict(group_of(root, path).arrays())  # all at once: opening them one by one takes longer than reading
        names = column(arrays["session"])
        table: dict[str, Any] = {"session": names, "group": path, "index": range(len(names))}
        table |= {variable.name: column(arrays[variable.name]) for variable in PER_SESSION}
        tables.append(pd.DataFrame(table))
    empty = pd.DataFrame(columns=["session", "group", "index", *(variable.name for variable in PER_SESSION)])
    return pd.concat(tables, ignore_index=True) if tables else empty


@xr.register_datatree_accessor("qmri")  # type: ignore[no-untyped-call,untyped-decorator,unused-ignore]
class CohortAccessor:
    """``open_cohort(...).qmri``: what xarray has no word for."""

    def __init__(self, tree: xr.DataTree) -> None:
        self._tree = tree

    def table(self) -> pd.DataFrame:
        """All sessions of all groups, one row each: group, its label, coordinates and every per-session value.

        Indexed by session pseudonym; sorted by group, then as stored. Reads the values, and no image.
        """
        names = [variable.name for variable in PER_SESSION]
        tables = []
        for path in self._tree.groups:
            node = self._tree[path]
            if "session" in node.dims and "T1w" in node:
                values = node.to_dataset()[names].to_dataframe()
                values.insert(0, "group", path.strip("/"))
                values.insert(1, "label", str(node.attrs.get(LABEL, "")))
                tables.append(values[["group", "label", *names]])
        empty = pd.DataFrame(columns=["group", "label", *names], index=pd.Index([], name="session"))
        return pd.concat(tables) if tables else empty


def slots(location: str | Path, *, at: str | datetime | None = None) -> dict[str, Slot]:
    """Where each stored session lies."""
    return find_slots(_root(location, at))


def group_labels(location: str | Path, *, at: str | datetime | None = None) -> dict[str, str]:
    """Label of every group that the store has ever had, by the group's key, in the order of the labels."""
    return labels_in(_root(location, at))


def _in_schema_order(dataset: xr.Dataset) -> xr.Dataset:
    place = {name: index for index, name in enumerate((*IMAGE_NAMES, *SESSION_VARIABLES, *CATALOGUE_COLUMNS))}
    return dataset[sorted(dataset.data_vars, key=lambda name: (place.get(str(name), len(place)), str(name)))]


def _root(location: str | Path, at: str | datetime | None) -> zarr.Group:
    return zarr.open_group(readable_session(open_repository(location), at).store, mode="r", zarr_format=3)
