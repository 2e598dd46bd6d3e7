"""The account of the last ingest: what a source held and what became of it, kept in the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import icechunk
import zarr

from storage.store.keys import KEY_MARK
from storage.store.tables import change

_ATTRIBUTE = "last_ingest"


def write_account(repository: icechunk.Repository, account: Mapping[str, Any], *, key_mark: str = "") -> str | None:
    """Keep an account as an attribute of the root; the new snapshot, or None if nothing has changed.

    ``account`` holds counts and codes only, and must fit into JSON. Earlier ones stay in the history.
    ``key_mark`` is that of the key under which was ingested (`storage.store.keys`); it is written with an account.
    """

    def edit(root: zarr.Group) -> None:
        if root.attrs.get(_ATTRIBUTE) != dict(account):
            root.attrs.update({_ATTRIBUTE: dict(account), **({KEY_MARK: key_mark} if key_mark else {})})

    return change(repository, edit, "Account of an ingest", {"run": "ingest", **account})
