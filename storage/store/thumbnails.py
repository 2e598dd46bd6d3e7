"""Thumbnails of sessions: one slice of a few images and maps each, small, so that a page of many reads no volume.

The node ``/thumbnails`` has one row per session: ``session``, ``made_with``, which says what the slices were made of,
and ``level``, grey levels 1 to 255, 0 where nothing was computed. A slice lies in the first rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import zarr
from numpy.typing import NDArray

from storage.store.schema import Variable
from storage.store.tables import array_of, assign, column, group_of

NODE = "thumbnails"
PICTURED = ("T1map", "T2map", "FLAIR")
SIZE = 96
"""Pixels of the longer side of a slice, at most."""
PER_CHUNK = 32
"""Sessions whose slices are read together: 290 kB before they are compressed."""

_SESSION = Variable(name="session", dims=("row",), dtype="str", long_name="pseudonym of the session")
_MADE_WITH = Variable(name="made_with", dims=("row",), dtype="str", long_name="what the slices were made of")
_LEVEL = Variable(
    name="level",
    dims=("row", "picture", "pixel_row", "pixel_column"),
    dtype="uint8",
    long_name="grey levels of the slice through the middle of the volume, 0 where nothing was computed",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """Slices of one session, shape (picture, row, column) in the order of `PICTURED`, and what they were made of."""

    made_with: str
    levels: NDArray[np.uint8]


def made_with(root: zarr.Group) -> dict[str, str]:
    """What the slices of each session were made of, in the order of the rows."""
    if NODE not in root:
        return {}
    node = group_of(root, NODE)
    names, made = (column(array_of(node, variable.name)) for variable in (_SESSION, _MADE_WITH))
    return {str(name): str(one) for name, one in zip(names, made, strict=True)}


def read_chunk(root: zarr.Group, row: int, name: str) -> NDArray[np.uint8]:
    """Slices of one picture of the `PER_CHUNK` sessions among which that of a row is, shape (session, row, column)."""
    start = row - row % PER_CHUNK
    picture = PICTURED.index(name)
    return np.asarray(array_of(group_of(root, NODE), _LEVEL.name)[start : start + PER_CHUNK, picture])


def write(root: zarr.Group, made: Mapping[str, Thumbnail]) -> None:
    """Add slices of sessions, or replace them; within a commit of the caller."""
    if not made:
        return
    node = group_of(root, NODE) if NODE in root else _create(root)
    places = {str(name): place for place, name in enumerate(column(array_of(node, _SESSION.name)))}
    for name in made:
        places.setdefault(name, len(places))
    _resize(node, len(places))
    assign(array_of(node, _SESSION.name), _SESSION, {places[name]: name for name in made})
    assign(array_of(node, _MADE_WITH.name), _MADE_WITH, {places[name]: one.made_with for name, one in made.items()})
    assign(array_of(node, _LEVEL.name), _LEVEL, {places[name]: one.levels for name, one in made.items()})


def remove(root: zarr.Group, sessions: Iterable[str]) -> None:
    """Take sessions out; within a commit of the caller. The last row moves to the place of one that goes."""
    if NODE not in root:
        return
    node = group_of(root, NODE)
    names = [str(name) for name in column(array_of(node, _SESSION.name))]
    for session in set(sessions) & set(names):
        place, last = names.index(session), len(names) - 1
        for variable in (_SESSION, _MADE_WITH, _LEVEL):
            array = array_of(node, variable.name)
            if place != last:
                array[place] = array[last]
            array[last] = 0 if variable is _LEVEL else ""  # what a chunk holds beyond the end stays in it
        names[place] = names[last]
        names.pop()
        _resize(node, len(names))


def _create(root: zarr.Group) -> zarr.Group:
    node = root.create_group(NODE, attributes={"picture": list(PICTURED)})
    for variable, shape in ((_SESSION, ()), (_MADE_WITH, ()), (_LEVEL, (len(PICTURED), SIZE, SIZE))):
        node.create_array(
            variable.name,
            shape=(0, *shape),
            chunks=(PER_CHUNK, 1, SIZE, SIZE) if shape else (1024,),
            dtype=str if variable.dtype == "str" else variable.dtype,
            fill_value="" if variable.dtype == "str" else 0,
            dimension_names=variable.dims,
            attributes={"long_name": variable.long_name},
        )
    return node


def _resize(node: zarr.Group, size: int) -> None:
    for variable in (_SESSION, _MADE_WITH, _LEVEL):
        array = array_of(node, variable.name)
        if array.shape[0] != size:
            array.resize((size, *array.shape[1:]))
