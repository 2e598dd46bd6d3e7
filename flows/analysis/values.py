"""Values of people that count, with what a question asks of them: columns of the store and of a table of the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from flows.calibration.odd_sessions import marked_sessions
from qmri_core.tissues import MAPS, WHITE_FIRST
from storage.store.cohort import Cohort
from storage.store.opened.accessor import CohortAccessor
from storage.store.opened.conditions import check_known
from storage.store.opened.values import COLUMNS, OF_PEOPLE, counting, long_table
from storage.store.repository import StoreError

OF_SCANNERS = ("label", "scanner", "software", "magnetic_field_strength")
"""Columns that say where somebody was scanned: what calibration compares, and no property of people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Whose values a question is about.

    ``table``: file of the user, CSV or TSV, with a column ``on`` of pseudonyms; ``where``: a condition; ``statistic``:
    of tissues, see `storage.store.opened.values.STATISTICS`; ``regions``: tissues and regions; none for all.
    """

    table: Path | None = None
    on: str = "person"
    where: str = ""
    statistic: str = "mode"
    regions: tuple[str, ...] = ()


def opened(cohort: Cohort) -> CohortAccessor:
    """The tables of a cohort as analysts have them, without its images."""
    accessor = CohortAccessor(xr.DataTree())
    accessor.attach(cohort)
    return accessor


def values_table(cohort: Cohort, asked: Asked, columns: Sequence[str] = ()) -> pd.DataFrame:
    """One row per session that counts, region and map, with label, scanner, person, sex, age, day and ``columns``.

    A person who is not known is the session's own. Sessions whose scales are none of their group's are left out, as in
    the statistics of groups.

    Returns
    -------
    DataFrame
        ``session``, the columns, ``region``, ``map``, ``value`` (in the unit of the map), ``determined``,
        ``deviation``.

    Raises
    ------
    StoreError
        If a column, a condition, the table, the statistic or a region is none, or no session is left.
    """
    view = opened(cohort)
    if asked.table is not None:
        view = view.join(_read(asked.table, asked.on), on=asked.on)
    if asked.where:
        view = view.where(asked.where)
    own = [name for name in columns if name in COLUMNS and name not in OF_PEOPLE]
    people = view.people(["quality_marks", *own])
    scanners = cohort.catalogue.set_index("session")["scanner"]
    people["scanner"] = scanners.reindex(people.index)
    check_known(columns, people.columns)
    marked = marked_sessions(people[["quality_marks"]].rename_axis("session").reset_index())
    people = people[people.index.isin(counting(cohort) - marked)].copy()
    is_unknown = people["person"] == ""
    people["person"] = people["person"].where(~is_unknown, people.index.to_series())
    names = dict.fromkeys(["label", "scanner", *OF_PEOPLE, *columns])
    table = long_table(cohort, people[list(names)], [asked.statistic]).drop(columns=["statistic", "unit"])
    if table.empty:
        raise StoreError("no session is left that has values and counts; look at the condition, and run qmri aggregate")
    if not asked.regions:
        return table
    there = sorted(set(table["region"]))
    if unknown := [name for name in asked.regions if name not in there]:
        raise StoreError(f"{unknown[0]}: no such region; there are {', '.join(there)}")
    return table[table["region"].isin(asked.regions)].reset_index(drop=True)


def _read(path: Path, on: str) -> pd.DataFrame:
    """The user's table; pseudonyms are texts."""
    try:
        return pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", dtype={on: str})
    except (OSError, ValueError) as error:
        raise StoreError(f"the table cannot be read as CSV or TSV ({type(error).__name__}); is it one?") from None


def retest_deviations(values: pd.DataFrame) -> pd.DataFrame:
    """How far visits of one person in one group lie apart: relative standard deviation, by region and map.

    Returns
    -------
    DataFrame
        Indexed by region and map: ``retest`` (root mean square over people, of logs; ageing between visits included)
        and ``n_retests`` (visits beyond the first of each person and group).
    """
    logs = values[values["value"] > 0].assign(log=lambda table: np.log(table["value"]))
    keys = ["region", "map"]
    visits = logs.groupby([*keys, "label", "person"])["log"]
    logs["square"] = (logs["log"] - visits.transform("mean")) ** 2
    logs["freedom"] = 1 - 1 / visits.transform("size")
    totals = logs.groupby(keys)[["square", "freedom"]].sum()
    totals["n_retests"] = totals["freedom"].round().astype(int)
    totals["retest"] = np.sqrt(totals["square"] / totals["n_retests"].where(totals["n_retests"] > 0))
    return totals[["retest", "n_retests"]]


def quantity_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order in which tables list them: T1, T2, PD, and white matter first."""
    order = {name: place for place, name in enumerate((*MAPS, *WHITE_FIRST))}
    return table.sort_values(
        ["map", "region"], key=lambda column: column.map(lambda name: order.get(name, 99)), kind="stable"
    ).reset_index(drop=True)
