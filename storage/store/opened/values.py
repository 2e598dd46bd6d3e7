"""Values of people from a cohort's tables: one row per session, tissue, map and statistic, or one per session."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qmri_core.tissues import MAPS, WHITE_FIRST
from storage.store.cohort import Cohort
from storage.store.decisions.effect import judge
from storage.store.repository import StoreError
from storage.store.schema import PER_SESSION, WORKER_VARIABLES

STATISTICS = ("n", "mean", "sd", "median", "mode", "q05", "q25", "q75", "q95")
"""What is kept of each tissue and map; `qmri_core.statistics.TissueStatistics`."""
RELIABILITY = ("determined", "deviation")
"""Share of people's differences that the signals determine, and the standard deviation of the measurement."""
OF_PEOPLE = ("person", "sex", "age", "day")
"""Values of a session that every table of people begins with, after its group's label."""
COLUMNS = {variable.name: variable for variable in PER_SESSION}
UNITS = {name: {"1": "", "s": "s"}[WORKER_VARIABLES[name].units] for name in MAPS}
"""Unit of each map; PD is relative to CSF."""
DEFAULT_STATISTIC = "mode"
_OF = "of "
"""Prefix by which columns of people are told from those of statistics."""
TEMPLATE, MASKS = "template", "masks"
"""What regions are of, in ``/regions``, beside atlases of users: the project's own, and masks of sessions."""
LEAST_OVERLAP, MOST_STRETCH = 0.65, 0.6
"""Of the template with a session's tissues, at least, and of how places change their volume, at most, for its regions
to be believed; `Cohort.regions` has all. Seen: 0.80 and 0.32 of a simulated head of 80 years, 0.79 and 0.71 of the same
head upside down, 0.60 and 0.38 of its voxels in disorder."""
LEAST_PLACED = 0.5
"""Of a region's Dice with the true one on other people's heads, for it to be believed: the accumbens is less."""


def session_values(cohort: Cohort, names: Sequence[str]) -> pd.DataFrame:
    """Label of the group and some of the per-session values of every stored session, indexed by session."""
    table = cohort.values_of(names)
    labels = cohort.labels
    table.insert(1, "label", [labels.get(str(group), "") for group in table["group"]])
    return table.drop(columns=["group", "index"]).set_index("session")


def counting(cohort: Cohort) -> frozenset[str]:
    """Stored sessions that have maps and count, by status and by the decisions of people."""
    judgement = judge(cohort)
    rows = cohort.catalogue
    is_good = (rows["status"] != "failed") | rows["session"].isin(judgement.accepted)
    has_maps = (rows["checkpoint_digest"] != "") & (rows["group"] != "")
    chosen = rows[is_good & has_maps & ~rows["session"].isin(list(judgement.left_out))]
    return frozenset(map(str, chosen["session"]))


def long_table(cohort: Cohort, people: pd.DataFrame, statistics: Collection[str] = STATISTICS) -> pd.DataFrame:
    """One row per session, tissue or region, map and statistic, as `qmri aggregate` and `qmri regions` last took them.

    Parameters
    ----------
    people
        Sessions to take, by index, with the columns that are repeated in each of their rows. Those that do not count
        have no rows.
    statistics
        Of `STATISTICS`.

    Returns
    -------
    DataFrame
        ``session``, the columns of ``people``, ``region``, ``map``, ``statistic``, ``value``, ``unit`` (empty for PD
        and counts) and, of mean, median and mode, `RELIABILITY`: ``determined`` is a share, ``deviation`` in the unit
        of the value; NaN where not known.

    Raises
    ------
    StoreError
        If no statistics were taken, or one is unknown.
    """
    if unknown := sorted(set(statistics) - set(STATISTICS)):
        raise StoreError(f"{unknown[0]}: no such statistic; there are {', '.join(STATISTICS)}")
    if cohort.statistics is None:
        raise StoreError("no statistics were taken of this cohort yet: run `qmri aggregate`")
    columns = ["session", "region", "map", *STATISTICS, *RELIABILITY]
    table = cohort.statistics.rename(columns={"tissue": "region"}).reindex(columns=columns)
    if cohort.regions is not None:
        believed = cohort.regions[are_believed(cohort.regions)].reindex(columns=columns)
        table = pd.concat([table, believed], ignore_index=True) if len(believed) else table
    table = table[table["session"].isin(counting(cohort) & set(people.index))]
    chosen = [name for name in STATISTICS if name in set(statistics)]
    about = people.reindex(table["session"]).reset_index(drop=True)
    table = pd.concat([table.reset_index(drop=True), about.add_prefix(_OF)], axis=1)
    keys = [*([f"{_OF}label"] if "label" in people else []), "session", "map", "region"]
    order = {name: place for place, name in enumerate((*WHITE_FIRST, *MAPS))}
    table = table.sort_values(
        keys, key=lambda column: column.map(order) if column.name in {"map", "region"} else column, kind="stable"
    )
    n = len(chosen)
    is_location = np.isin(chosen, ["mean", "median", "mode"])

    def repeated(name: str) -> NDArray[Any]:
        return np.repeat(table[name].to_numpy(), n)

    units = table["map"].map(UNITS).to_numpy()[:, None]
    result: dict[str, Any] = {
        "session": repeated("session"),
        **{str(name): repeated(f"{_OF}{name}") for name in people},
        "region": repeated("region"),
        "map": repeated("map"),
        "statistic": np.tile(np.asarray(chosen, dtype=object), len(table)),
        "value": table[chosen].to_numpy(dtype=np.float64).ravel(),
        "unit": np.where(np.asarray(chosen) == "n", "", units).ravel(),
    }
    for name in RELIABILITY:
        own = table[name].to_numpy(dtype=np.float64)[:, None]
        result[name] = np.where(is_location, own, np.nan).ravel()
    return pd.DataFrame(result)


def are_believed(regions: pd.DataFrame) -> pd.Series[bool]:
    """Which rows are of regions that are believed: none where no template was brought to the session, all of masks.

    None of regions that are placed worse than `LEAST_PLACED`, where the table says how they are.
    """
    fits = (regions["overlap"].astype(float) >= LEAST_OVERLAP) & (regions["stretch"].astype(float) <= MOST_STRETCH)
    if "placed" in regions:
        fits &= ~(regions["placed"].astype(float) < LEAST_PLACED)
    return fits | (regions["atlas"] == MASKS) if "atlas" in regions else fits


def wide_table(cohort: Cohort, people: pd.DataFrame, statistic: str = DEFAULT_STATISTIC) -> pd.DataFrame:
    """One row per session that counts: the columns of ``people``, and one per region and map, such as ``WM_T1map``.

    Units are in ``attrs["units"]``, by column.
    """
    long = long_table(cohort, people, [statistic])
    values = long.assign(column=long["region"] + "_" + long["map"]).pivot(
        index="session", columns="column", values="value"
    )
    names = [f"{region}_{name}" for name in MAPS for region in WHITE_FIRST if f"{region}_{name}" in values]
    rest = [name for name in values if name not in names]
    table = people.join(values[[*names, *rest]], how="inner")
    table.attrs["units"] = {name: UNITS[str(name).rpartition("_")[2]] for name in (*names, *rest)}
    return table


def pairs_table(people: pd.DataFrame) -> pd.DataFrame:
    """Each visit of a person with the next one of the same person.

    Columns: person, ``first`` and ``second`` (sessions), their labels, ``same_group``, and ``days`` between them.
    """
    known = people[people["person"] != ""].rename_axis("session").reset_index()
    known = known.sort_values(["person", "day", "session"], ignore_index=True)
    later = known.shift(-1)
    is_pair = known["person"] == later["person"]
    return pd.DataFrame(
        {
            "person": known["person"],
            "first": known["session"],
            "second": later["session"],
            "label_first": known["label"],
            "label_second": later["label"],
            "same_group": known["label"] == later["label"],
            "days": later["day"] - known["day"],
        }
    )[is_pair].reset_index(drop=True)
