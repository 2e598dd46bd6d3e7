"""Whether a key is that under which a store's sessions are named: by a mark, which tells nothing of the key."""

from __future__ import annotations

import zarr

from storage.pseudonyms import pseudonym
from storage.store.repository import StoreError

KEY_MARK = "key_mark"
"""Root attribute: mark of the key of the pseudonyms. Stores whose last ingest was by an older release have none."""


class WrongKeyError(StoreError):
    """The sessions of a store are named under another key."""


def mark_of_key(key: bytes) -> str:
    """Mark of a key: the same for the same key, and no help to find it."""
    return pseudonym(key, "key")


def stated_mark(root: zarr.Group) -> str:
    """Mark of the key of a store; empty if it is not known."""
    return str(root.attrs.get(KEY_MARK, ""))


def require_key(root: zarr.Group, key: bytes) -> None:
    """See to it that a key is that of a store, as far as this is known.

    Raises
    ------
    WrongKeyError
        If it is another one: every session would come a second time, under another name, and what was forgotten too.
    """
    stated, found = stated_mark(root), mark_of_key(key)
    if stated and stated != found:
        raise WrongKeyError(
            f"this key ({found}) is not that of the store ({stated}): every session would come again under another "
            "name. Set QMRI_KEY_FILE to the right file, or restore it from its back-up; `qmri key check` compares them"
        )
