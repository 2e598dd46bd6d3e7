"""The linkage table, which says whose a session is; it is read here and never kept."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path


class LinkageError(ValueError):
    """A linkage table cannot be used."""


def read_linkage(linkage: Path, columns: Sequence[str]) -> list[Mapping[str, str]]:
    """Rows of a table that ``qmri ingest --linkage`` has written, or of one like it.

    Parameters
    ----------
    columns
        Those that are needed.

    Raises
    ------
    LinkageError
        If the table lacks one of them.
    """
    with linkage.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        rows = csv.DictReader(file)
        if not set(columns) <= set(rows.fieldnames or ()):
            *others, last = columns
            raise LinkageError(f"{linkage.name} has no columns {', '.join(others)} and {last}; it is no linkage table")
        return [{name: row[name] or "" for name in columns} for row in rows]
