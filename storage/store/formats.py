"""The format of Icechunk that stores are written in, and those that the installed Icechunk cannot read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import icechunk

from storage.store.locations import StoreError, repository_config, storage_of

FORMAT = 1
"""Format of new stores: icechunk 1.1 (Python 3.11) knows no other, icechunk 2 reads and writes it beside its own, 2.

Measured with icechunk 1.1.21 and 2.3.0, each on stores that the other made and wrote to.
"""

_ABSENT = "the repository doesn't exist"
_NEWER = re.compile(r"this repository uses Icechunk (?:format version |v)(\d+)")
"""What all versions of Icechunk say; version 1 has no other sign, and its ``exists`` denies a store of format 2."""


def open_existing(location: str | Path) -> icechunk.Repository | None:
    """Open the repository at ``location``, whatever it holds; ``None`` if there is none.

    Raises
    ------
    StoreError
        If it is in a format that the installed Icechunk cannot read.
    icechunk.IcechunkError
        If the storage does not answer.
    """
    try:
        return icechunk.Repository.open(storage_of(location), repository_config())
    except icechunk.IcechunkError as error:
        if _ABSENT in str(error):
            return None
        newer = _NEWER.search(str(error))
        if newer is None:
            raise
        raise StoreError(
            f"{location}: a store in format {newer[1]} of Icechunk, which icechunk {icechunk.__version__} here cannot "
            "read; install a newer one (`pip install --upgrade icechunk`; format 2 needs Python 3.12 or newer), or "
            f"make the store anew with this program, which writes format {FORMAT}, for all"
        ) from error


def create_repository(location: str | Path) -> icechunk.Repository:
    """Make an empty repository of the format `FORMAT`.

    Raises
    ------
    icechunk.IcechunkError
        If there is something already, or the storage cannot be written.
    """
    options: dict[str, Any] = {"spec_version": FORMAT} if hasattr(icechunk, "SpecVersion") else {}  # since icechunk 2
    return icechunk.Repository.create(storage_of(location), repository_config(), **options)
