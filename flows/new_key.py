"""A new key for the pseudonyms of a cohort: which names become which, and what of a store must not be lost with them.

Names are made from the source's identifiers, so that only who has the source can rename. Nothing here is written into a
store but marks of what was forgotten; the table is for the user alone, as the linkage table is.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from storage.pseudonyms import pseudonym
from storage.source.discovery import scan_source
from storage.store.cohort import Cohort, writing
from storage.store.keys import KEY_MARK, mark_of_key, require_key
from storage.store.lifecycle.forget import TOMBSTONES, tombstones
from storage.store.repository import StoreError, exists
from storage.store.tables import change

if TYPE_CHECKING:
    import zarr

    from storage.source.assume_file import Assumption
    from storage.source.origin import Source
    from storage.source.series import Series

_NAME = re.compile(r"\b(?:ses|sub)-[0-9a-f]{12}\b")
_HEADER = ("kind", "old", "new")


class RenameError(StoreError):
    """Names cannot be put in the place of others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """New pseudonyms by old ones, of the sessions and people of a source."""

    sessions: Mapping[str, str] = field(repr=False)
    people: Mapping[str, str] = field(repr=False)


def names_under(source: Source, old: bytes, new: bytes, assume: tuple[Assumption, ...] = ()) -> Names:
    """What the sessions and people of a source are called under two keys.

    Raises
    ------
    SourceError
        If the source cannot be used.
    RenameError
        If it has changed between the two looks at it.
    """
    before, after = (dict(_by_files(source, key, assume)) for key in (old, new))
    if set(before) != set(after):
        raise RenameError("the source has changed while it was read; run it again when nothing arrives")
    return Names(
        sessions={before[one][0]: after[one][0] for one in before},
        people={before[one][1]: after[one][1] for one in before},
    )


def _by_files(
    source: Source, key: bytes, assume: tuple[Assumption, ...]
) -> Iterator[tuple[frozenset[str], tuple[str, str]]]:
    """Session and person under a key, by the files of the session, which no key changes."""
    with scan_source(source, key=key, assume=assume) as scanned:
        for session in scanned.sessions:
            series: tuple[Series, ...] = scanned.session(session)[0]
            files = frozenset(f"{one.number} {one.problem} {' '.join(one.paths[:1])}" for one in series)
            yield files, (session, series[0].person)


def begin_under(store: str, other: str, names: Names, old: bytes, new: bytes) -> tuple[int, int]:
    """Make an empty store for the sessions of another one under a new key; what was forgotten there stays out here.

    Parameters
    ----------
    store
        Under the old key.
    other
        To be made.

    Returns
    -------
    tuple
        How many marks of forgotten sessions and people were carried over, and how many were not, since the source holds
        none of that name any more.

    Raises
    ------
    WrongKeyError
        If the old key is not that of ``store``.
    RenameError
        If there is something at ``other``.
    """
    root = Cohort.open(store).root
    require_key(root, old)
    if exists(other):
        raise RenameError(f"{other} is there already; give a new location")
    marks = tombstones(root)
    pairs = [*names.sessions.items(), *names.people.items()]
    found = {before: after for before, after in pairs if marks and pseudonym(old, "tombstone", before) in marks}

    def edit(empty: zarr.Group) -> None:
        empty.attrs[KEY_MARK] = mark_of_key(new)
        if found:
            empty.attrs[TOMBSTONES] = sorted(pseudonym(new, "tombstone", after) for after in found.values())

    with writing(other, create=True) as repository:
        change(repository, edit, "Begin under a new key", {"run": "key"})
    return len(found), len(marks) - len(found)


def write_names(names: Names, path: Path) -> None:
    """Write old and new names as CSV for the user alone.

    Raises
    ------
    RenameError
        If the file is there already.
    """
    try:
        path.touch(mode=0o600, exist_ok=False)
    except OSError as error:
        raise RenameError(f"the table of names cannot be written ({error.strerror})") from error
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_HEADER)
        for kind, pairs in (("session", names.sessions), ("person", names.people)):
            writer.writerows((kind, before, after) for before, after in sorted(pairs.items()))


def read_names(path: Path) -> dict[str, str]:
    """New names by old ones, from a table that `write_names` has written.

    Raises
    ------
    RenameError
        If it is none.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != _HEADER:
            raise RenameError(f"{path.name} is no table of names: it must have the columns {', '.join(_HEADER)}")
        names = {str(row["old"]): str(row["new"]) for row in rows}
    if wrong := [name for pair in names.items() for name in pair if not _NAME.fullmatch(name)]:
        raise RenameError(f"{path.name} holds {len(wrong)} names that are no pseudonyms")
    return names


def renamed(lines: Iterable[str], names: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Lines of a text with new names in place of old ones, each with how many of its names the table does not have."""
    for line in lines:
        unknown = sum(name not in names for name in _NAME.findall(line))
        yield _NAME.sub(lambda match: names.get(match[0], match[0]), line), unknown
