"""Tables of BIDS trees as people write them: rows, and ages, sexes and dates of their cells.

What a cell does not say beyond doubt is unknown. Dates are ordinals, which stay within the reader.
"""

from __future__ import annotations

import codecs
import csv
import datetime
import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from storage.source.bids.sidecars import json_of
from storage.source.damage import DamagedError, library_errors

MAX_BYTES = 64 * 2**20
"""Of one table; 100,000 people with fifty columns have a third of it."""

TOP = 90
"""Years; who is older is stored as of this age, since so few are that it may tell who it is."""

CAPPED = 89
"""Years from which one age stands for all who are older, as ``89+``."""

OLDEST = 120
"""Years; nobody is older."""

_PER_YEAR = {"y": 1.0, "a": 1.0, "m": 12.0, "w": 52.1775, "d": 365.2425}
"""How many of a unit, by its first letter, make a year."""

_NUMBER = re.compile(r"(?P<above>>=?|≥)?\s*0*(?P<number>\d{1,5}(?:[.,]\d+)?)\s*(?P<plus>\+)?\s*(?P<unit>[a-z]*)")
_AGE_COLUMNS = re.compile(
    r"(patient|subject)?age(at)?(scan|session|visit|mri|exam)?(in)?"
    r"(?P<unit>y|yrs?|years?|m|mos?|months?|weeks?|days?)?"
)
_SEX_COLUMNS = ("sex", "gender", "biologicalsex")
_SEXES = {
    **dict.fromkeys(("m", "male", "man", "boy", "männlich", "homme", "masculine"), "M"),
    **dict.fromkeys(("f", "female", "w", "woman", "girl", "weiblich", "femme", "feminine"), "F"),
    **dict.fromkeys(("o", "other", "diverse", "intersex"), "O"),
}  # fmt: skip

Row = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows by the lower-case names of their columns; none where the file is not there or ``problem`` says why not."""

    rows: tuple[Row, ...] = ()
    problem: str = ""


def read_table(path: str, key: str) -> Table:
    """Read a table in UTF-8, UTF-16 or Latin-1, with tabs or whatever parts its columns.

    Parameters
    ----------
    path
        Of the file, which need not be there.
    key
        Column that it must have.
    """
    if not os.path.exists(path):  # noqa: PTH110
        return Table()
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            raw = file.read(MAX_BYTES)
    except OSError:
        return Table(problem="it cannot be read")
    text = _decoded(raw)
    lines = text.splitlines()
    delimiter = next((mark for mark in "\t,;" if lines and mark in lines[0]), "\t")
    try:
        with library_errors((csv.Error,)):
            cells = list(csv.reader(io.StringIO(text), delimiter=delimiter))
    except DamagedError:
        return Table(problem="it is no table")
    names = [name.strip().lower() for name in cells[0]] if cells else []
    if key not in names:
        return Table(problem=f"it has no column {key}")
    rows = (dict(zip(names, (cell.strip() for cell in row), strict=False)) for row in cells[1:])
    return Table(rows=tuple(row for row in rows if row.get(key)))


def _decoded(raw: bytes) -> str:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16", errors="replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


@dataclass(frozen=True, slots=True)
class Columns:
    """What the JSON file of a table says of its columns, by their lower-case names."""

    described: Mapping[str, Mapping[str, object]]

    @classmethod
    def of(cls, *paths: str) -> Columns:
        """Read the first of the files that is there; one that is broken says nothing."""
        for path in paths:
            try:
                content = json_of(path) if os.path.exists(path) else None  # noqa: PTH110
            except (DamagedError, OSError):
                content = None
            if isinstance(content, dict):
                return cls({str(name).lower(): column for name, column in content.items() if isinstance(column, dict)})
        return cls({})

    def unit(self, name: str) -> str | None:
        """First letter of the unit of a column; empty if none is stated, None if it is no unit of time."""
        return _unit(str(self.described.get(name, {}).get("Units") or ""))

    def level(self, name: str, value: str) -> str:
        """What a value of a column means, in words; the value itself if nothing is said of it."""
        levels = self.described.get(name, {}).get("Levels")
        meaning = levels.get(value, value) if isinstance(levels, dict) else value
        if isinstance(meaning, dict):
            meaning = meaning.get("Description") or value
        return str(meaning)


def _unit(text: str) -> str | None:
    letters = re.sub(r"[^a-z]", "", text.lower())
    return letters[:1] if not letters or letters[0] in _PER_YEAR else None


def age_of(row: Row, columns: Columns) -> tuple[int | None, str]:
    """Whole years of the age in a row, `TOP` and above as that; and why a stated age is not known, if so."""
    for name, unit in _age_columns(row):
        if unit is None:
            return None, "the unit of the age is none of time"
        stated = columns.unit(name)
        if stated is None:
            return None, "the unit of the age is none of time"
        return age_in_words(row[name], stated or unit or "y")
    return None, ""


def _age_columns(row: Row) -> Iterator[tuple[str, str | None]]:
    """Columns that hold an age and say something, the plainest name first, with the unit that the name states."""
    matches = {name: _AGE_COLUMNS.fullmatch(re.sub(r"[^a-z]", "", name)) for name in row}
    for name in sorted((name for name in matches if matches[name]), key=lambda name: (len(name), name)):
        if row[name] and not _is_nothing(row[name]) and (match := matches[name]):
            yield name, _unit(match["unit"] or "")


def age_in_words(text: str, unit: str = "y") -> tuple[int | None, str]:
    """Whole years of an age as ``67``, ``89+``, ``067Y`` or ``804M``; and why it is not known though it is stated.

    ``unit`` is the first letter of the unit where the text has none.
    """
    lower = text.strip().lower()
    if not lower or _is_nothing(lower):
        return None, ""
    match = _NUMBER.fullmatch(lower)
    own = _unit(match["unit"]) if match else None
    if match is None or own is None:
        return None, "the age is no number"
    years = float(match["number"].replace(",", ".")) / _PER_YEAR[own or unit]
    is_open = bool(match["above"] or match["plus"])
    if years > OLDEST:
        return None, "the age is one that nobody has"
    if is_open and years < CAPPED - 1:
        return None, "of the age only a bound is stated"
    return (TOP if is_open else min(TOP, int(years + 1e-6))), ""


def sex_of(row: Row, columns: Columns) -> tuple[str, str]:
    """``M``, ``F``, ``O`` or empty; and why a stated sex is not known, if so."""
    for name in row:
        if re.sub(r"[^a-z]", "", name) in _SEX_COLUMNS and row[name] and not _is_nothing(row[name]):
            meaning = columns.level(name, row[name]).strip().lower()
            found = {_SEXES[word] for word in re.findall(r"[^\W\d_]+", meaning) if word in _SEXES}
            if len(found) == 1:
                return found.pop(), ""
            return "", "the sex is in a code that no description explains"
    return "", ""


def _is_nothing(text: str) -> bool:
    return text.strip().lower() in {"n/a", "na", "nan", "none", "null", "unknown", "missing", "-", "?", "."}


def date_of(text: str) -> int | None:
    """Ordinal of a date as ``2018-10-01T18:37:40``, with or without a time; None for all that may mean two days."""
    match = re.match(r"(\d{4})-?(\d{2})-?(\d{2})(?!\d)", text.strip())
    if match is None:
        return None
    try:
        return datetime.date(*(int(part) for part in match.groups())).toordinal()
    except ValueError:
        return None
