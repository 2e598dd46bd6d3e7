"""Room on the disk of a store: what sessions take of it, and whether there is so much before a run begins."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from qmri_core.series.grouping import grid_of
from storage.store.locations import local_path
from storage.store.repository import StoreError

SESSION = (0.3e6, 5.1)
"""Bytes in a store of one session with its maps, and further ones per voxel of its grid."""
MAPS = (0.1e6, 2.6)
"""The same of its maps alone, which have values in a fifth of the grid: seven of 0.37 bytes per voxel, by a synthetic
head with a noise of 3 % in them. Old maps stay until `qmri compact`."""


class NoRoomError(StoreError):
    """The disk of a store has less room than a run may take; nothing was begun."""


def bytes_of(rate: tuple[float, float], n_sessions: int, voxels: int) -> float:
    """Bytes of so many sessions, by `SESSION` or `MAPS`; ``voxels`` are those of all their grids."""
    return rate[0] * n_sessions + rate[1] * voxels


def bytes_of_group(group: str) -> float:
    """Bytes of a session of a group, with its maps, by the grid that the group's key names."""
    return bytes_of(SESSION, 1, math.prod(grid_of(group.partition("/")[2]).shape))


def free_bytes(location: str) -> float | None:
    """Free bytes of the disk of a store, which need not be there yet; None where it is on no disk of this machine."""
    folder = local_path(location)
    if folder is None:
        return None
    return float(shutil.disk_usage(next(path for path in _upwards(folder) if path.exists())).free)


def require_room(location: str, n_bytes: float, what: str) -> None:
    """See to it that a run that may take ``n_bytes`` does not begin where they are not there.

    Parameters
    ----------
    what
        That takes them, such as ``12 sessions to ingest``.

    Raises
    ------
    NoRoomError
        If the disk has less. Object stores, and disks of other machines, are not looked at.
    """
    free = free_bytes(location)
    if free is not None and n_bytes > free:
        raise NoRoomError(
            f"{what} may take {size_text(n_bytes)}, and the disk of the store has {size_text(free)} left; nothing was "
            "begun. Make room (`qmri compact`), or go on all the same with --no-room-check or QMRI_ROOM_CHECK=false"
        )


def size_text(n_bytes: float) -> str:
    """Bytes as people read them."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.0f} MB"


def _upwards(folder: Path) -> tuple[Path, ...]:
    return (folder.absolute(), *folder.absolute().parents)
