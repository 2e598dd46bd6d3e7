"""What a site has measured itself, read from a table: tissue values of groups or of people, with their errors."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qmri_core.calibration.levels import Anchor
from qmri_core.calibration.population import Population
from qmri_core.tissues import MEMBERS

_RANGES: Mapping[str, tuple[float, float]] = {"T1": (0.3, 3.0), "T2": (0.02, 0.3)}
"""Seconds that T1 and T2 of white and grey matter may have; what is beyond them is in another unit."""


class AnchorError(ValueError):
    """A table of anchors cannot be used."""


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
    """Anchors from a table (CSV, or TSV by its name) with the columns of `_Row`.

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
    AnchorError
        With the line, if a column is unknown or missing, a value is none, or a group or person is not there.
    """
    delimiter = "\t" if table.suffix == ".tsv" else ","
    with table.open(newline="", encoding="utf-8-sig") as file:
        lines = list(csv.DictReader(file, delimiter=delimiter))
    if not lines:
        raise AnchorError(f"{table.name} has no line; its columns are {', '.join(_Row.model_fields)}")
    by_name = {**{group: group for group in groups}, **{label: group for group, label in labels.items()}}
    found = []
    for number, line in enumerate(lines, start=2):
        where = f"{table.name}, line {number}"
        row = _row({name: value for name, value in line.items() if value not in ("", None)}, where)
        if bool(row.group) == bool(row.person):
            raise AnchorError(f"{where}: it must name a group (as qmri status prints it) or a person, and not both")
        group = by_name.get(row.group) if row.group else people.get(row.person)
        if group is None or group not in groups:
            raise AnchorError(f"{where}: {'the group' if row.group else 'the person'} is not among those calibrated")
        found.append(_anchor(row, where, groups.index(group), populations[group]))
    return found


def _anchor(row: _Row, where: str, group: int, usual: Population) -> Anchor:
    low, high = _RANGES[row.quantity]
    if not low <= row.value <= high:
        raise AnchorError(
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


def _row(line: Mapping[str, object], where: str) -> _Row:
    try:
        return _Row.model_validate(line)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise AnchorError(
            f"{where}: {field}: {first['msg']}; columns are {', '.join(_Row.model_fields)}, times are in seconds"
        ) from None
