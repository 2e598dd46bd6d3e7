"""What a site has measured itself, read from a table: tissue values of groups or of people, with their errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from flows.calibration.site_tables import SiteTableError, lines_of, refuse_unless_one
from qmri_core.calibration.levels import Anchor
from qmri_core.calibration.population import Population
from qmri_core.tissues import MEMBERS

_RANGES: Mapping[str, tuple[float, float]] = {"T1": (0.3, 3.0), "T2": (0.02, 0.3)}
"""Seconds that T1 and T2 of white and grey matter may have; what is beyond them is in another unit."""


class _Row(BaseModel):
    """One line of the table; times in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: str = ""
    person: str = ""
    tissue: Literal["WM", "GM"]
    quantity: Literal["T1", "T2"]
    value: float = Field(gt=0)
    error: float = Field(gt=0)
    method: str = ""
    method_error: float = Field(default=0.0, ge=0)


def read_anchors(
    table: Path,
    groups: Sequence[str],
    people: Mapping[str, str],
    populations: Mapping[str, Population],
    labels: Mapping[str, str],
) -> list[Anchor]:
    """Anchors from a table with the columns of `_Row`.

    Parameters
    ----------
    table
        One line per group or person, tissue and quantity.
    groups
        Keys of the groups that are calibrated, in their order.
    people
        Group of each person, by pseudonym.
    populations
        Of each group.
    labels
        Label of each group, which the table may use.

    Raises
    ------
    SiteTableError
        With the line, if a column is unknown or missing, a value is none, or a group or person is not there.
    """
    by_name = {**{group: group for group in groups}, **{label: group for group, label in labels.items()}}
    found = []
    for where, row in lines_of(table, _Row, ", times are in seconds"):
        refuse_unless_one(where, {"a group (as qmri status prints it)": row.group, "a person": row.person})
        group = by_name.get(row.group) if row.group else people.get(row.person)
        if group is None or group not in groups:
            raise SiteTableError(f"{where}: {'the group' if row.group else 'the person'} is not among those calibrated")
        found.append(_anchor(row, where, groups.index(group), populations[group]))
    return found


def _anchor(row: _Row, where: str, group: int, usual: Population) -> Anchor:
    low, high = _RANGES[row.quantity]
    if not low <= row.value <= high:
        raise SiteTableError(
            f"{where}: {row.quantity} of {row.value:g} s is not that of {row.tissue}; values are in seconds"
        )
    expected = getattr(getattr(usual, MEMBERS[row.tissue]), row.quantity.lower())
    return Anchor(
        level=(row.tissue, row.quantity.lower()),
        deviation=math.log(row.value / expected),
        sd=row.error / row.value,
        group=group if row.group else None,
        person=row.person or None,
        method=row.method,
        method_sd=row.method_error / row.value,
    )
