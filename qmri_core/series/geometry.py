"""Voxel grids in RAS millimetres."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]
"""Homogeneous 4 x 4 matrix from voxel index in the order x, y, z to RAS millimetres."""


FIELD_SHAPE = (13, 15, 13)
"""Nodes (z, y, x) at which smooth fields are kept, evenly from the first to the last voxel of a grid: about 15 mm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Shape and spacing that all sessions of a group share; each session adds its own affine.

    ``shape`` is in array order (z, y, x); ``spacing`` in millimetres in the order x, y, z.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    def coordinates(self, axis: str) -> NDArray[np.float64]:
        """Millimetres of the voxel centres along ``axis`` (``x``, ``y`` or ``z``), zero at the grid's centre."""
        index = "xyz".index(axis)
        size = self.shape[2 - index]
        return np.asarray((np.arange(size) - (size - 1) / 2) * self.spacing[index], dtype=np.float64)

    def affine(self, rotation: NDArray[np.float64], centre: NDArray[np.float64]) -> Affine:
        """Affine that puts the grid's centre at ``centre`` (RAS mm) and its axes along the columns of ``rotation``."""
        result = np.eye(4)
        result[:3, :3] = rotation * np.asarray(self.spacing)
        middle = (np.asarray(self.shape[::-1]) - 1) / 2
        result[:3, 3] = centre - result[:3, :3] @ middle
        return result


def spacing_of(affine: Affine) -> NDArray[np.float64]:
    """Voxel spacing in millimetres in the order x, y, z."""
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A scalar image: ``array`` of shape (z, y, x) and the affine of its voxel index in the order x, y, z."""

    array: NDArray[np.float32]
    affine: Affine


_PLANES = 8
"""Planes of a coarser volume that are made at a time: of all at once there are copies of half of the fine one."""


def block_means(array: NDArray[Any], steps: Sequence[int]) -> NDArray[np.float32]:
    """Means of blocks of so many voxels along each axis; what does not fill a block at the end is left out."""
    if set(steps) == {1}:
        return np.asarray(array, dtype=np.float32)
    result = np.empty([size // step for size, step in zip(array.shape, steps, strict=True)], dtype=np.float32)
    for start in range(0, len(result), _PLANES):
        planes = result[start : start + _PLANES]
        planes[:] = _means(array[start * steps[0] : (start + len(planes)) * steps[0]], steps)
    return result


def _means(array: NDArray[Any], steps: Sequence[int]) -> NDArray[Any]:
    result = array
    for axis, step in enumerate(steps):
        if step == 1:
            continue
        size = result.shape[axis] // step
        whole = result[(slice(None),) * axis + (slice(0, size * step),)]
        blocks = whole.reshape(*whole.shape[:axis], size, step, *whole.shape[axis + 1 :])
        result = blocks.mean(axis=axis + 1, dtype=np.float32)
    return result


def coarser(volume: Volume, steps: Sequence[int]) -> Volume:
    """The volume with means of blocks as voxels; ``steps`` in array order."""
    affine = volume.affine.copy()
    along = np.asarray(steps[::-1])
    affine[:3, 3] += affine[:3, :3] @ ((along - 1) / 2)
    affine[:3, :3] *= along
    return Volume(array=block_means(volume.array, steps), affine=affine)


def box_within(
    shape: Sequence[int], box: Sequence[slice], affine: Affine, reach: NDArray[np.float64] | float = 1.0
) -> tuple[slice, slice, slice]:
    """What of an array holds a box of another one, and ``reach`` voxels around it; at least one voxel.

    Parameters
    ----------
    shape
        Of the array, (z, y, x).
    box
        Slices of the other array, in its order z, y, x.
    affine
        From voxel index (x, y, z) of the other array to voxel index of this one.
    reach
        Of all axes, or of each in the order z, y, x.
    """
    ends = np.asarray(list(itertools.product(*((part.start, part.stop - 1) for part in box))))
    places = ends @ affine[2::-1, 2::-1].T + affine[2::-1, 3]
    last = np.asarray(shape) - 1
    low = np.clip(np.floor(places.min(axis=0) - reach), 0, last).astype(int)
    high = np.clip(np.ceil(places.max(axis=0) + reach), 0, last).astype(int)
    z, y, x = (slice(int(one), int(other) + 1) for one, other in zip(low, high, strict=True))
    return z, y, x


def closest_canonical(affine: Affine) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Which voxel axis (of x, y, z) runs closest to R, A and S, and whether it runs the other way."""
    direction = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    rest = np.abs(direction)
    order = [0, 0, 0]
    for _ in range(3):
        world, voxel = np.unravel_index(np.argmax(rest), (3, 3))
        order[world] = int(voxel)
        rest[world, :] = -1
        rest[:, voxel] = -1
    flipped = [bool(direction[world, order[world]] < 0) for world in range(3)]
    return (order[0], order[1], order[2]), (flipped[0], flipped[1], flipped[2])


def inside_of(images: Iterable[NDArray[np.floating]], mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a mask is set and every image of its shape is finite."""
    inside = mask > 0
    for image in images:
        inside &= np.isfinite(image)
    return inside


def extent_in_plane(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns that hold all of a mask of shape (z, y, x) that is set somewhere."""
    rows, columns = (np.flatnonzero(mask.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
