"""The one door to a cohort's store: opened once, pinned to one snapshot, and read through by everybody.

Writing is in `repository`, `waves` and `tables` beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from numpy.typing import NDArray

from storage.store import checkpoints
from storage.store.arrays import read_arrays, read_part, read_together
from storage.store.decisions.codes import Decision
from storage.store.decisions.ledger import read_decisions
from storage.store.labels import labels_in
from storage.store.locations import absolute
from storage.store.repository import (
    MAIN,
    Snapshot,
    StorageFaultError,
    StoreError,
    faults,
    history,
    open_repository,
    snapshot_of,
    tag,
    writing,
)
from storage.store.schema import CATALOGUE_COLUMNS, IMAGE_NAMES, PER_SESSION, SESSION_VARIABLES, SHARED
from storage.store.slots import TOP_NODES, Placement, Slot, find_slots, group_paths
from storage.store.tables import (
    Nodes,
    TableName,
    groups_of,
    in_order,
    load_table,
    read_rows,
    read_some_rows,
    write_table,
)
from storage.store.waves import Wave, begin_append, begin_update, commit, write_arrays

__all__ = [
    "Cohort",
    "Placement",
    "Slot",
    "Snapshot",
    "StoreError",
    "Wave",
    "begin_append",
    "begin_update",
    "commit",
    "history",
    "latest",
    "open_cohort",
    "open_repository",
    "tag",
    "write_arrays",
    "write_table",
    "writing",
]


@dataclass(frozen=True)
class Cohort:
    """A cohort as it was at one commit.

    A value: equal where location and snapshot are. What was read of it is kept, since a snapshot never changes; tables
    are shared by all that ask, so whoever changes one copies it first. Pickled it is its location and snapshot alone;
    a process that it is sent to opens the store once, when it first reads.
    """

    location: str
    snapshot: str
    opened: icechunk.Repository | None = field(default=None, repr=False, compare=False)

    @classmethod
    def open(cls, location: str | Path, *, at: str | datetime | None = None) -> Cohort:
        """Open a cohort at its last commit, or at the snapshot id, tag or time ``at``.

        Raises
        ------
        StoreError
            If there is no store, ``at`` names nothing in it, or another version wrote it.
        StorageFaultError
            If the storage does not answer.
        """
        return cls.in_repository(open_repository(location), location, at=at)

    @classmethod
    def in_repository(
        cls, repository: icechunk.Repository, location: str | Path, *, at: str | datetime | None = None
    ) -> Cohort:
        """The same of a repository that is open already."""
        with faults(location):
            snapshot = repository.lookup_branch(MAIN) if at is None else snapshot_of(repository, at).id
        return cls(str(location), snapshot, repository)

    @cached_property
    def repository(self) -> icechunk.Repository:
        """The repository, for its history and for writing."""
        return _opened_here(self.location) if self.opened is None else self.opened

    def at_snapshot(self, snapshot: str) -> Cohort:
        """The cohort at another commit, by the same door; this very one where it is there already."""
        return self if snapshot == self.snapshot else replace(self, snapshot=snapshot, opened=self.repository)

    def refreshed(self) -> Cohort:
        """The cohort at its last commit, whoever made it."""
        with faults(self.location):
            return self.at_snapshot(self.repository.lookup_branch(MAIN))

    @contextmanager
    def writing(self) -> Iterator[icechunk.Repository]:
        """Write to the cohort as `storage.store.repository.writing` does, by the same door."""
        with writing(self.location, repository=self.repository) as repository:
            yield repository

    @cached_property
    def session(self) -> icechunk.Session:
        """Read-only session of the snapshot."""
        with faults(self.location):
            return self.repository.readonly_session(snapshot_id=self.snapshot)

    @cached_property
    def root(self) -> zarr.Group:
        """Root group of the snapshot."""
        return zarr.open_group(self.session.store, mode="r", zarr_format=3)

    @cached_property
    def catalogue(self) -> pd.DataFrame:
        """One row per session ever seen, with its status, reason, group, digests and versions.

        Texts that are not known are empty, numbers NaN.
        """
        return pd.DataFrame(read_rows(self.root))

    @cached_property
    def nodes(self) -> Nodes:
        """Arrays of the snapshot, each opened once."""
        return Nodes(self.root)

    @cached_property
    def sessions(self) -> pd.DataFrame:
        """One row per stored session: its group, index along the session axis, and all per-session values."""
        return self.values_of(variable.name for variable in PER_SESSION)

    def values_of(self, names: Iterable[str]) -> pd.DataFrame:
        """The same with some of the per-session values: those that stand in the catalogue too cost nothing more.

        Parameters
        ----------
        names
            Of variables of `storage.store.schema.PER_SESSION`, in the order of the columns.
        """
        names = list(names)
        slots = sorted(self.slots.values(), key=lambda slot: (slot.group, slot.index))
        rows = self.catalogue.set_index("session").loc[[slot.session for slot in slots]]
        table: dict[str, Any] = {
            "session": rows.index.to_numpy(),
            "group": rows["group"].to_numpy(),
            "index": [slot.index for slot in slots],
        }
        own = [name for name in names if name not in SHARED]
        parts: dict[str, list[Any]] = {name: [] for name in own}
        for group, members in groupby(slots, key=lambda slot: slot.group) if own else ():
            index = [slot.index for slot in members]
            for name, values in self.nodes.columns(group, own).items():
                parts[name].append(values[index])
        for name in names:
            table[name] = np.concatenate([[], *parts[name]]) if name in parts else rows[name].to_numpy()
        return pd.DataFrame(table, columns=["session", "group", "index", *names])

    def rows_of(self, sessions: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Rows of some sessions of the catalogue, as far as they are in it; what it holds of others is not read."""
        if "catalogue" in self.__dict__:  # it has been read
            rows = self.catalogue[self.catalogue["session"].isin(list(sessions))]
            return {
                name: {str(key): value for key, value in row.items()}
                for name, row in zip(rows["session"], rows.to_dict("records"), strict=True)
            }
        return read_some_rows(self.root, sessions)

    @cached_property
    def slots(self) -> dict[str, Slot]:
        """Where each stored session lies."""
        return find_slots(self.root)

    @cached_property
    def labels(self) -> dict[str, str]:
        """Label of every group that the store has ever had, by the group's key, in the order of the labels."""
        return labels_in(self.root)

    @cached_property
    def groups_by_name(self) -> dict[str, str]:
        """Key of every group that the store has ever had, by its label and by the key itself."""
        return {key: key for key in self.labels} | {label: key for key, label in self.labels.items()}

    @cached_property
    def calibrations(self) -> pd.DataFrame | None:
        """The table of calibrations as it is stored; None if none was made."""
        return self._table("calibration")

    @cached_property
    def statistics(self) -> pd.DataFrame | None:
        """The table of statistics as it is stored; None if none were taken."""
        return self._table("statistics")

    @cached_property
    def regions(self) -> pd.DataFrame | None:
        """The table of regions as it is stored; None if none were measured."""
        return self._table("regions")

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """What people have decided on sessions and groups, in its order."""
        return read_decisions(self.root)

    @cached_property
    def promoted(self) -> str:
        """Digest of the promoted checkpoint; empty where none is."""
        return checkpoints.promoted(self.root)

    @cached_property
    def registered(self) -> dict[str, dict[str, Any]]:
        """Records of the checkpoints that the store holds, by digest."""
        return checkpoints.registered(self.root)

    def checkpoint(self, digest: str) -> bytes:
        """Content of a registered checkpoint's file.

        Raises
        ------
        StoreError
            If the store holds no such checkpoint, or its bytes are not those that were written.
        """
        return checkpoints.checkpoint_content(self.root, digest, self.location)

    def read(self, slot: Slot, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """One session's values of the variables as stored.

        Not computed is NaN in float variables, `storage.store.schema.NOT_COMPUTED` in masks, empty in texts.

        Raises
        ------
        StoreError
            If the slot is not this session's in this snapshot, or a name is unknown.
        StorageFaultError
            If the store cannot be opened or does not answer any more. Where it does, and the session's chunks alone
            cannot be read, the error of the library goes on: that is the session's own.
        """
        with self._asked():
            return read_arrays(self.nodes, slot, names)

    def read_together(self, slots: Sequence[Slot], names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """The same of several sessions of one group, along a first axis in their order.

        Faster for small volumes: each read costs about a millisecond, whatever it reads.
        """
        with self._asked():
            return read_together(self.nodes, slots, names)

    def read_part(self, slot: Slot, name: str, place: Sequence[int | slice]) -> NDArray[Any]:
        """Part of one session's values of a variable, along its other axes; with an empty ``place`` the whole."""
        with self._asked():
            return read_part(self.nodes, slot, name, place)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except (OSError, icechunk.IcechunkError) as error:
            self._check_door(error)
            raise

    def _check_door(self, error: Exception) -> None:
        """Raise `StorageFaultError` from the error unless the snapshot can be opened anew."""
        try:
            again = Cohort.open(self.location).at_snapshot(self.snapshot)
            groups_of(again.root)
        except StoreError as gone:
            raise StorageFaultError(str(gone)) from error

    def tree(self, chunks: dict[str, Any] | None = None) -> xr.DataTree:
        """The snapshot as `open_cohort` gives it."""
        # node by node: `xarray.open_datatree` looks for groups among all arrays first, a sixth of the time
        paths = ["", *(set(self.root.group_keys()) & TOP_NODES), *group_paths(self.root)]
        store: Any = self.session.store  # xarray's annotation leaves out Zarr stores
        nodes = {
            f"/{path}": xr.open_dataset(store, engine="zarr", group=path or None, consolidated=False, chunks=chunks)
            for path in sorted(paths)
        }
        # Zarr lists members in no order
        return xr.DataTree.from_dict({path: _in_schema_order(node) for path, node in nodes.items()})

    def _table(self, name: TableName) -> pd.DataFrame | None:
        dataset = load_table(self.session, name)
        return None if dataset is None else dataset.to_dataframe().reset_index(drop=True)

    def __reduce__(self) -> tuple[Callable[[str, str], Cohort], tuple[str, str]]:
        """Location and snapshot, for processes that run in another folder."""
        return _sent, (absolute(self.location), self.snapshot)


@lru_cache(maxsize=4)
def _sent(location: str, snapshot: str) -> Cohort:
    """The cohort that another process has sent: one per snapshot, so that what was read of it is kept here too."""
    return Cohort(location, snapshot)


@lru_cache(maxsize=2)
def _opened_here(location: str) -> icechunk.Repository:
    return open_repository(location)


def latest(store: Cohort | str | Path) -> Cohort:
    """The cohort at its last commit, where a run begins; opened, unless whoever starts the run has opened it."""
    return store.refreshed() if isinstance(store, Cohort) else Cohort.open(store)


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
        ``tree.qmri`` is a `storage.store.opened.accessor.CohortAccessor`: tables of sessions and of their values.

    Raises
    ------
    StoreError
        If there is no store, ``at`` names nothing in it, or a newer version wrote it.
    """
    from storage.store.opened import accessor  # it asks this module for cohorts

    cohort = Cohort.open(location, at=at)
    tree = cohort.tree(chunks)
    accessor.CohortAccessor.attach(tree.qmri, cohort)
    return tree


def _in_schema_order(dataset: xr.Dataset) -> xr.Dataset:
    """A node with its variables in the order of the schema, a table with its columns in that of its writer."""
    return in_order(dataset, (*IMAGE_NAMES, *SESSION_VARIABLES, *CATALOGUE_COLUMNS))
