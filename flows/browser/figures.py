"""What is known of every session in numbers: one row per session, one column per figure, for plots and for outliers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from flows.browser.figure_list import Figure, figure_list
from flows.calibration.tables import levels_table
from flows.statistics.aggregate import KEYS, identities_of_maps, read_statistics, up_to_date
from flows.statistics.aggregate import VALUES as OF_MAPS
from flows.tables.text import records
from qmri_core.calibration.population import FieldStrengthError, population
from qmri_core.tissues import MEMBERS
from storage.store.cohort import Cohort
from storage.store.decisions.effect import Judged

FEW = 5
"""Sessions of a group below which its own spread says little."""
OF_PEOPLE = ("sex", "age", "day", "scanner_day", "software", "magnetic_field_strength")


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What calibration imposes on a group: a tissue value, its standard deviation, and the share that is measured.

    ``value`` and ``sd`` in the unit of the figure; ``measured`` 0: imposed alone. ``maps`` is the mean over sessions of
    what maps say, NaN where there are none.
    """

    figure: str
    value: float
    sd: float
    measured: float
    maps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group as pages show it: how many sessions count, and what is imposed on it."""

    key: str
    label: str
    n: int
    n_counting: int
    levels: tuple[Level, ...] = ()

    @property
    def is_uncertain(self) -> bool:
        """Whether too few sessions count to say how far its values spread."""
        return self.n_counting < FEW


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Sessions and their figures.

    ``rows`` has one row per stored session: session, group, label, person, status, reason, quality_marks, remarks, sex,
    age, day, scanner_day, software, counts, and a column per figure, in the unit of people. ``lacking``: sessions that
    count, have maps, and no statistics of them.
    """

    rows: pd.DataFrame = field(repr=False)
    figures: tuple[Figure, ...]
    groups: tuple[Group, ...]
    lacking: int


def figures_of(cohort: Cohort, judgement: Judged) -> Figures:
    """Read what a snapshot holds of every stored session; no volume is read."""
    listed = figure_list()
    own = [figure.name for figure in listed if figure.sort != "tissue"]
    names = dict.fromkeys([*OF_MAPS, "reason", "person", *OF_PEOPLE, *own])
    rows = cohort.values_of(names)
    made = identities_of_maps(rows, judgement)
    statistics = up_to_date(read_statistics(cohort), made, rows)
    rows = rows.merge(_wide(statistics, listed), on="session", how="left", sort=False)
    remarks = dict(zip(cohort.catalogue["session"], cohort.catalogue["remarks"], strict=True))
    rows["remarks"] = rows["session"].map(remarks).fillna("")
    rows["label"] = rows["group"].map(cohort.labels).fillna(rows["group"])
    rows["counts"] = rows["session"].isin(list(made))
    rows["left_out"] = [str(judgement.left_out.get(str(session), "")) for session in rows["session"]]
    taken = set(statistics["session"])
    return Figures(
        rows=rows,
        figures=listed,
        groups=tuple(_groups(cohort, rows)),
        lacking=sum(session not in taken for session in made),
    )


def _wide(statistics: pd.DataFrame, listed: Sequence[Figure]) -> pd.DataFrame:
    """One row per session from one row per tissue and map; values in the unit of people."""
    columns = {figure.name: figure.factor for figure in listed if figure.sort == "tissue"}
    if statistics.empty:
        return pd.DataFrame({"session": pd.Series(dtype=str), **{name: pd.Series(dtype=float) for name in columns}})
    table = statistics[[*KEYS, "median", "mode"]].astype({"median": float, "mode": float})
    wide = table.pivot_table(index="session", columns=["tissue", "map"], values=["median", "mode"], dropna=False)
    wide.columns = pd.Index(["_".join((str(one[1]), str(one[2]), str(one[0]))) for one in wide.columns.to_flat_index()])
    wide = wide.reindex(columns=list(columns))
    return (wide * pd.Series(columns)).reset_index()


def _groups(cohort: Cohort, rows: pd.DataFrame) -> list[Group]:
    levels: dict[str, list[Mapping[str, object]]] = {}
    for row in records(levels_table(cohort)):
        levels.setdefault(str(row["group"]), []).append(row)
    order = {key: number for number, key in enumerate(cohort.labels)}
    result = []
    for key in sorted(set(rows["group"]), key=lambda key: (order.get(key, len(order)), key)):
        members = rows[rows["group"] == key]
        counting = members[members["counts"]]
        result.append(
            Group(
                key=str(key),
                label=cohort.labels.get(str(key), str(key)),
                n=len(members),
                n_counting=len(counting),
                levels=tuple(_levels(levels.get(str(key), []), counting)),
            )
        )
    return result


def _levels(levels: Sequence[Mapping[str, object]], members: pd.DataFrame) -> list[Level]:
    """What is imposed, in milliseconds, beside what maps say; none where the field strength has no population."""
    fields = members["magnetic_field_strength"].dropna()
    if not levels or fields.empty:
        return []
    try:
        values = population(float(fields.iloc[0]))
    except FieldStrengthError:
        return []
    result = []
    for row in levels:
        tissue, quantity = str(row["tissue"]), str(row["quantity"])
        name = f"{tissue}_{quantity.upper()}map_median"
        typical = getattr(getattr(values, MEMBERS[tissue]), quantity)
        value = 1000.0 * typical * float(np.exp(float(str(row["level"]))))
        found = members[name].dropna()
        result.append(
            Level(
                figure=name,
                value=value,
                sd=value * float(str(row["sd"])),
                measured=float(str(row["measured"])),
                maps=float(found.mean()) if len(found) else float("nan"),
            )
        )
    return result
