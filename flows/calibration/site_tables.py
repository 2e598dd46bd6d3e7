"""Tables that a site writes: lines that are read by a model of theirs, or refused with their number."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

Row = TypeVar("Row", bound=BaseModel)


class SiteTableError(ValueError):
    """A table of a site cannot be used."""


def lines_of(table: Path, model: type[Row], note: str = "") -> Iterator[tuple[str, Row]]:
    """Where each line of a table stands, in words, and the line (CSV, or TSV by the table's name).

    Parameters
    ----------
    model
        Of a line; its fields are the columns. What is empty is not given.
    note
        What is said beside the columns where a line is refused.

    Raises
    ------
    SiteTableError
        If there is no line; or with the line, if a column is unknown or missing, or a value is none.
    """
    columns = ", ".join(model.model_fields)
    with table.open(newline="", encoding="utf-8-sig") as file:
        lines = list(csv.DictReader(file, delimiter="\t" if table.suffix == ".tsv" else ","))
    if not lines:
        raise SiteTableError(f"{table.name} has no line; its columns are {columns}")
    for number, line in enumerate(lines, start=2):
        where = f"{table.name}, line {number}"
        try:
            row = model.model_validate({name: value for name, value in line.items() if value not in ("", None)})
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise SiteTableError(f"{where}: {field}: {first['msg']}; columns are {columns}{note}") from None
        yield where, row


def refuse_unless_one(where: str, names: Mapping[str, str]) -> None:
    """Refuse a line that does not name exactly one of several things, by the words for each.

    Raises
    ------
    SiteTableError
        With the line.
    """
    if sum(map(bool, names.values())) != 1:
        raise SiteTableError(f"{where}: it must name {' or '.join(names)}, and not both")
