"""`qmri reference`: where sessions lie among people of their age and sex, within the cohort."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from flows.analysis.values import Asked, quantity_order, values_table
from flows.tables.text import MAP_FORMATS, Rows, marked, number, percent, records
from qmri_core.analysis.centiles import TooFewPeopleError, scores
from qmri_core.calibration.reliability import TELLS_APART
from storage.store.cohort import Cohort
from storage.store.repository import StoreError

NOTES = (
    "within this cohort, no norm: beside the other people of the store that count, of known age and sex and in the "
    "same group of a scanner with a protocol; whoever a session is of is left out",
    "centile and z: given age (splines), sex and group, by a normal distribution of what is left of the logs; measured "
    "to: standard deviation of z by the measurement alone; determined: share of what people differ by that signals "
    "determine; in parentheses: the values tell no people apart",
)
EXTREME = 3.0
"""Deviates beyond which a session is listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Places of sessions.

    ``table``: one row per session, region and map, with label, age, sex, the columns of
    `qmri_core.analysis.centiles.scores`, and determined. ``lacking``: why some have none.
    """

    table: pd.DataFrame
    lacking: tuple[str, ...] = ()


def reference(cohort: Cohort, *, asked: Asked | None = None) -> Reference:
    """Centiles and z of every session that counts, in every region and map.

    Raises
    ------
    StoreError
        If no session has values.
    TooFewPeopleError
        If nowhere there are enough people.
    """
    return reference_table(values_table(cohort, asked or Asked()))


def reference_table(values: pd.DataFrame) -> Reference:
    """The same from `flows.analysis.values.values_table`."""
    tables = []
    lacking: dict[str, TooFewPeopleError] = {}
    for (region, name), members in values.groupby(["region", "map"], sort=False):
        if members["value"].nunique() < 2:
            continue
        try:
            found = scores(members)
        except TooFewPeopleError as error:
            lacking[f"{region} {name}"] = error
            continue
        about = members[["session", "label", "age", "sex", "determined"]]
        tables.append(about.merge(found, on="session").assign(region=str(region), map=str(name)))
    if not tables:
        raise next(iter(lacking.values()), TooFewPeopleError("no region has values"))
    reasons = tuple(f"{what}: {error}" for what, error in lacking.items())
    return Reference(table=quantity_order(pd.concat(tables, ignore_index=True)), lacking=reasons)


def session_rows(result: Reference, session: str) -> tuple[list[str], Rows]:
    """Places of one session: header and rows.

    Raises
    ------
    StoreError
        If it has none.
    """
    members = result.table[result.table["session"] == session]
    if members.empty:
        raise StoreError(f"{session}: has no place: it is unknown, does not count, or its age or sex is not known")
    return _HEADER, [_row(row) for row in records(members)]


def extreme_rows(result: Reference) -> tuple[list[str], Rows]:
    """Sessions beyond `EXTREME`, the furthest first: header and rows."""
    far = result.table[result.table["z"].abs() > EXTREME]
    far = far.loc[far["z"].abs().sort_values(ascending=False).index]
    return ["session", "group", *_HEADER], [[row["session"], row["label"], *_row(row)] for row in records(far)]


def calibration_rows(result: Reference) -> tuple[list[str], Rows]:
    """People, and the shares beyond the 5th and 95th centile, by quantity: header and rows."""
    rows = []
    for (name, region), members in result.table.groupby(["map", "region"], sort=False):
        known = members["centile"].dropna()
        beyond = [percent(float((known < 0.05).mean())), percent(float((known > 0.95).mean()))]
        determined = percent(float(members["determined"].mean()))
        title = f"{region} {MAP_FORMATS[str(name)][0]}"
        rows.append([title, str(int(members["n_people"].max())), str(len(known)), *beyond, determined])
    return ["quantity", "people", "sessions", "below the 5th", "above the 95th", "determined"], rows


_HEADER = ["quantity", "value", "expected", "centile", "z", "measured to", "determined"]


def _row(row: dict[str, float]) -> list[str]:
    name = str(row["map"])
    is_weak = row["determined"] < TELLS_APART
    z = "-" if np.isnan(row["z"]) else f"{row['z']:+.2f}"
    places = [marked(percent(row["centile"]), is_weak), marked(z, is_weak)]
    measured = "-" if np.isnan(row["z_deviation"]) else f"{row['z_deviation']:.2f}"
    title = f"{row['region']} {MAP_FORMATS[name][0]}"
    return [
        title,
        number(row["value"], name),
        number(row["expected"], name),
        *places,
        measured,
        percent(row["determined"]),
    ]
