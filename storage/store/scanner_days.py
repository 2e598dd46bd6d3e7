"""From when the days of each scanner count: a date that nobody reads without the site's key.

The root holds, for each scanner, the ordinal of that date, combined by exclusive or with a keyed hash of the scanner's
key. A scanner has one such date for good, so the same hash never covers two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import icechunk
import zarr

from storage.pseudonyms import pseudonym
from storage.store.tables import change

ORIGINS = "scanner_days"
"""Root attribute: eight hexadecimal digits by the key of the scanner."""


def origins_of(root: zarr.Group, key: bytes) -> dict[str, int]:
    """Ordinal of the day from which each scanner's days count, by the scanner's key."""
    return {scanner: int(text, 16) ^ _cover(key, scanner) for scanner, text in _stated(root).items()}


def begin_counting(repository: icechunk.Repository, key: bytes, firsts: Mapping[str, int]) -> None:
    """Let the days of scanners count from these ordinals, of those that do not count yet; nothing else is written.

    Raises
    ------
    StoreError, StorageFaultError
        If others commit faster time and again, or the storage does not answer.
    """

    def edit(root: zarr.Group) -> None:
        stated = _stated(root)
        fresh = {scanner: day for scanner, day in firsts.items() if scanner not in stated}
        if fresh:
            covered = {scanner: f"{day ^ _cover(key, scanner):08x}" for scanner, day in fresh.items()}
            root.attrs[ORIGINS] = stated | covered

    change(repository, edit, "Count days of scanners", {"run": "ingest"})


def end_counting(root: zarr.Group) -> None:
    """Take out the days of scanners that have no session any more; within a commit of the caller."""
    stated = _stated(root)
    left = {scanner: text for scanner, text in stated.items() if scanner in root}
    if left != stated:
        root.attrs[ORIGINS] = left


def _stated(root: zarr.Group) -> dict[str, str]:
    stated: Any = root.attrs.get(ORIGINS, {})
    return dict(stated)


def _cover(key: bytes, scanner: str) -> int:
    return int(pseudonym(key, "scanner day", scanner), 16)
