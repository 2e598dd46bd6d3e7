"""A cohort as plain Zarr version 3, for tools that know no Icechunk."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Collection
from pathlib import Path

import zarr
from icechunk import IcechunkStore
from zarr.buffer import default_buffer_prototype
from zarr.errors import ZarrUserWarning

from storage.exports.folder import new_folder
from storage.store import thumbnails
from storage.store.cohort import Cohort
from storage.store.decisions.effect import judge
from storage.store.lifecycle.forget import remove_from_table
from storage.store.repository import StoreError
from storage.store.scanner_days import ORIGINS
from storage.store.slots import remove
from storage.store.tables import groups_of, write_rows

AT_A_TIME = 64
"""Objects that are copied at the same time."""


def export_zarr(cohort: Cohort, out: Path, *, progress: Callable[[int, int], None] | None = None) -> int:
    """Write one state of the cohort as a plain Zarr hierarchy, chunk by chunk as it is stored; the number of objects.

    Sessions that do not count (`storage.store.decisions.effect.judge`) have no place in the groups, and no statistics;
    their rows of the catalogue stay, and say why. The folder appears when everything is in it.

    Parameters
    ----------
    out
        Folder that is not there yet.
    progress
        Called with the number of objects done and of all.

    Raises
    ------
    StoreError
        If ``out`` is there already.
    """
    with new_folder(out) as folder:
        count = asyncio.run(_copy(cohort.session.store, folder, progress or (lambda _done, _total: None)))
        _leave_out(folder, judge(cohort).left_out)
        _consolidate(folder)
        return count


def _leave_out(folder: Path, sessions: Collection[str]) -> None:
    """Take sessions out of the groups and the statistics of a copy."""
    if not sessions:
        return
    root = zarr.open_group(folder, mode="r+", use_consolidated=False)
    for session, group in groups_of(root, sessions).items():
        remove(root, group, session)
        write_rows(root, [{"session": session, "group": ""}])
    thumbnails.remove(root, sessions)
    for session in sessions:
        for name in ("statistics", "regions"):
            remove_from_table(root, name, session)


def _consolidate(folder: Path) -> None:
    """Put into each group the metadata of all below it: readers that look for them there else warn, and are slow."""
    root = zarr.open_group(folder, mode="r+", use_consolidated=False)
    root.attrs.pop(ORIGINS, None)  # dates, for whoever has the key
    groups = ["", *(name for name, member in root.members(max_depth=None) if isinstance(member, zarr.Group))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)  # that the standard does not have it yet
        for group in groups:
            zarr.consolidate_metadata(root.store, path=group)


async def _copy(store: IcechunkStore, folder: Path, progress: Callable[[int, int], None]) -> int:
    prototype = default_buffer_prototype()
    keys = [key async for key in store.list()]

    async def copy(key: str) -> None:
        content = await store.get(key, prototype)
        if content is None:
            raise StoreError(f"{key}: is listed and cannot be read; run `qmri verify`")
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.to_bytes())

    for start in range(0, len(keys), AT_A_TIME):
        await asyncio.gather(*(copy(key) for key in keys[start : start + AT_A_TIME]))
        progress(min(start + AT_A_TIME, len(keys)), len(keys))
    return len(keys)
