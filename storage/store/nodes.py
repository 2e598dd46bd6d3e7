"""Nodes of one snapshot for reading, each opened once: to open an array takes as long as to read a small chunk."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import zarr
from numpy.typing import NDArray

from storage.store.tables import array_of, column, group_of

MAX_KEPT = 1024
"""Arrays that are kept open; the variables that a run reads are some ten per group."""


class Nodes:
    """Arrays and members of groups below a root that does not change."""

    def __init__(self, root: zarr.Group) -> None:
        self.root = root
        self._arrays: dict[tuple[str, str], zarr.Array[Any]] = {}
        self._members: dict[str, list[str]] = {}

    def array(self, group: str, name: str) -> zarr.Array[Any]:
        """Array of a group by its name."""
        kept = self._arrays.get((group, name))
        if kept is None:
            kept = array_of(group_of(self.root, group), name)
            if len(self._arrays) >= MAX_KEPT:
                self._arrays.clear()
            self._arrays[group, name] = kept
        return kept

    def members(self, group: str) -> list[str]:
        """Sessions along the axis of a group."""
        if group not in self._members:
            self._members[group] = [str(name) for name in column(self.array(group, "session"))]
        return self._members[group]

    def columns(self, group: str, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Whole per-session values of a group, by name; the arrays are not kept open."""
        node = group_of(self.root, group)
        return {name: column(array_of(node, name)) for name in names}
