"""``open_cohort(...).qmri``: what analysts ask of a cohort, where xarray has no word for it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel
import numpy as np
import pandas as pd
import xarray as xr

from qmri_core.tissues import MAPS
from storage.nifti_image import affine_image
from storage.store.cohort import Cohort
from storage.store.opened.conditions import check_known, columns_of, fulfilled
from storage.store.opened.picture import session_figure
from storage.store.opened.values import (
    COLUMNS,
    DEFAULT_STATISTIC,
    OF_PEOPLE,
    STATISTICS,
    counting,
    long_table,
    pairs_table,
    session_values,
    wide_table,
)
from storage.store.repository import StoreError
from storage.store.schema import IMAGE_NAMES, NOT_COMPUTED, PER_SESSION, WORKER_VARIABLES
from storage.store.slots import Slot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@xr.register_datatree_accessor("qmri")  # type: ignore[no-untyped-call,untyped-decorator,unused-ignore]
class CohortAccessor:
    """``open_cohort(...).qmri``: the cohort, or those of its sessions that `where` has left, with what `join` added.

    Sessions that have no maps or do not count, because they have failed or people have rejected or excluded them, are
    in `table` alone.
    """

    def __init__(self, tree: xr.DataTree) -> None:
        self._tree = tree
        self._cohort: Cohort | None = None
        self._chosen: tuple[str, ...] | None = None
        self._joined: pd.DataFrame | None = None

    def attach(self, cohort: Cohort) -> None:
        """Say of which cohort the tree is; `open_cohort` does."""
        self._cohort = cohort

    @property
    def cohort(self) -> Cohort:
        """The cohort, pinned to its snapshot.

        Raises
        ------
        StoreError
            If the tree is not the one that `open_cohort` returned, but a copy or a part of it.
        """
        if self._cohort is None:
            raise StoreError("this tree is a part or a copy; ask the one that open_cohort returned")
        return self._cohort

    def __repr__(self) -> str:
        cohort = self.cohort
        people = self.people()
        n_people = people.loc[people["person"] != "", "person"].nunique()
        there = len(cohort.slots)
        part = "" if self._chosen is None else f", of {there} stored,"
        return (
            f"Cohort: {len(people)} sessions{part} of {n_people} people in {people['label'].nunique()} groups; "
            f"{len(counting(cohort) & set(people.index))} have maps and count; snapshot {cohort.snapshot}"
        )

    def table(self) -> pd.DataFrame:
        """All sessions of all groups, one row each: group, its label, coordinates and every per-session value.

        Indexed by session pseudonym; sorted by group, then as stored. Reads the values, and no image.
        """
        names = [variable.name for variable in PER_SESSION]
        values = session_values(self.cohort, names)
        groups = {name: slot.group for name, slot in self.cohort.slots.items()}
        values.insert(0, "group", [groups[str(name)] for name in values.index])
        table = values[["group", "label", *names]]
        if self._chosen is not None:
            table = table.loc[list(self._chosen)]
        return table if self._joined is None else table.join(self._joined)

    def people(self, more: Collection[str] = ()) -> pd.DataFrame:
        """Label, person, sex, age and day of each session, ``more`` of the values in `table`, and what was joined."""
        table = session_values(self.cohort, list(dict.fromkeys([*OF_PEOPLE, *more])))
        if self._chosen is not None:
            table = table.loc[list(self._chosen)]
        return table if self._joined is None else table.join(self._joined)

    def groups(self) -> pd.DataFrame:
        """One row per group, by label: sessions, people, those that count, field strength [T], spacing [mm], key."""
        people = self.people(["magnetic_field_strength"])
        counted = counting(self.cohort)
        keys = self.cohort.groups_by_name
        rows = []
        for label, members in people.groupby("label", sort=False):
            spacing = self._tree[keys[str(label)]].attrs.get("spacing", [])
            rows.append(
                {
                    "label": label,
                    "sessions": len(members),
                    "people": members.loc[members["person"] != "", "person"].nunique(),
                    "counting": len(counted & set(members.index)),
                    "field_strength": members["magnetic_field_strength"].median(),
                    "spacing": " x ".join(f"{step:g}" for step in spacing),
                    "group": keys[str(label)],
                }
            )
        names = ["label", "sessions", "people", "counting", "field_strength", "spacing", "group"]
        return pd.DataFrame(rows, columns=names).set_index("label")

    def session(self, session: str) -> xr.Dataset:
        """Images, maps and values of one session, lazily."""
        slot = self._slot(session)
        return self._tree[slot.group].to_dataset().isel(session=slot.index)

    def group(self, label: str) -> xr.Dataset:
        """Sessions of one group by its label, such as ``Skyra-2``, or its key, lazily."""
        path = self.cohort.groups_by_name.get(label, label)
        if path not in self.cohort.labels or f"/{path}" not in self._tree.groups:
            raise StoreError(f"{label}: the store has no such group; `groups()` lists them")
        dataset = self._tree[path].to_dataset()
        if self._chosen is None:
            return dataset
        return dataset.isel(session=np.flatnonzero(dataset["session"].isin(list(self._chosen)).to_numpy()))

    def long(self, *statistics: str) -> pd.DataFrame:
        """One row per session, region, map and statistic (default: all), with how reliable each value is.

        ``determined`` is the share of what people differ by that the session's signals determine, ``deviation`` the
        standard deviation of the measurement; see `storage.store.opened.values.long_table`.
        """
        return long_table(self.cohort, self.people(), statistics or STATISTICS)

    def wide(self, statistic: str = DEFAULT_STATISTIC) -> pd.DataFrame:
        """One row per session, with a column per region and map, such as ``WM_T1map``; see `long`."""
        return wide_table(self.cohort, self.people(), statistic)

    def where(self, condition: str) -> CohortAccessor:
        """Those sessions that fulfil a condition on values of `table` and on joined columns: ``"age > 60"``.

        It compares columns with values, joined by ``and``, ``or``, ``not``; nothing in it is run as code.

        Raises
        ------
        StoreError
            If it is no such condition, or a column is unknown.
        """
        names = columns_of(condition)
        known = [*COLUMNS, "label", *(() if self._joined is None else self._joined.columns)]
        check_known(names, known)
        table = self.people([name for name in names if name in COLUMNS])
        return self._view(chosen=tuple(map(str, fulfilled(table, condition).index)), joined=self._joined)

    def join(self, table: pd.DataFrame, on: str = "person") -> CohortAccessor:
        """The same sessions with the columns of a table of your own, by its column (or index) ``on``.

        Sessions that are not in it have no value there.

        Parameters
        ----------
        on
            ``person``, ``session``, or another column of `table`.

        Raises
        ------
        StoreError
            If the table names somebody twice, or has columns that are there already or can be no names.
        """
        right = table.set_index(on) if on in table.columns else table
        if right.index.name != on:
            raise StoreError(f"the table has no column {on}; give on=, or rename the column that holds pseudonyms")
        people = self.people([on] if on in COLUMNS else [])
        if not right.index.is_unique:
            raise StoreError(f"the table names a {on} twice; one row each, or join on session")
        if taken := [name for name in right.columns if name in people or name in COLUMNS or not _is_name(name)]:
            raise StoreError(f"{taken[0]!r}: rename that column: it is there already, or is no plain name")
        keys = people.index.to_series() if on == "session" else people[on]
        columns = right.reindex(keys.to_numpy()).set_axis(people.index)
        joined = columns if self._joined is None else self._joined.loc[people.index].join(columns)
        return self._view(chosen=self._chosen, joined=joined)

    def pairs(self) -> pd.DataFrame:
        """Each visit of a person with that person's next one: sessions, labels, and the days between them."""
        people = self.people()
        return pairs_table(people[people.index.isin(counting(self.cohort))])

    def to_nifti(self, session: str, name: str, path: str | Path) -> Path:
        """Write one volume of a session as NIfTI, in its scanner's frame; what is not computed is NaN, in labels 0.

        Raises
        ------
        StoreError
            If the session or the volume is unknown, or nothing in it is computed.
        """
        slot = self._slot(session)
        if name not in IMAGE_NAMES:
            raise StoreError(f"{name}: no volume of a session; there are {', '.join(IMAGE_NAMES)}")
        stored = self.cohort.read(slot, [name, "affine"])
        array = stored[name]
        is_computed = np.isfinite(array) if array.dtype.kind == "f" else array != NOT_COMPUTED
        if not is_computed.any():
            raise StoreError(f"{session}: {name} is not computed")
        values = array if array.dtype.kind == "f" else np.where(is_computed, array, 0).astype(array.dtype)
        image = affine_image(values, stored["affine"])
        image.header["descrip"] = WORKER_VARIABLES[name].units.encode()
        nibabel.save(image, path)
        return Path(path)

    def plot(self, session: str, names: Sequence[str] = MAPS, z: float | None = None) -> Figure:
        """Draw an axial slice of some volumes of a session, the person's right on the left, marked R."""
        return session_figure(self.session(session), session, names, z)

    def _slot(self, session: str) -> Slot:
        slot = self.cohort.slots.get(session)
        if slot is None:
            raise StoreError(f"{session}: the store has no images of such a session; `people().index` lists them")
        return slot

    def _view(self, *, chosen: tuple[str, ...] | None, joined: pd.DataFrame | None) -> CohortAccessor:
        view = CohortAccessor(self._tree)
        view._cohort, view._chosen, view._joined = self.cohort, chosen, joined
        return view


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name.isidentifier()
