"""Maps of a session on the grid of the template."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qmri_core.preprocessing.template.brain import CLASSES, template
from qmri_core.preprocessing.template.deformable import Warp, places_of, sampled
from qmri_core.series.geometry import Affine

_LEAST_SOLID = 0.5
"""Of the template's probability of grey and white matter in a voxel, and of tissue around a point of a session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Voxels of the template that hold grey or white matter.

    ``where``: of shape (z, y, x); ``affine``: from voxel index x, y, z to RAS mm of Montreal; ``places``: RAS mm of the
    voxels, shape (3, n), in the order of ``where``.
    """

    where: NDArray[np.bool_]
    affine: Affine
    places: NDArray[np.float32]

    def volume(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """Values of the voxels, shape (n,), in their places, NaN elsewhere."""
        result = np.full(self.where.shape, np.nan, dtype=np.float32)
        result[self.where] = values
        return result


def space(steps: int = 2) -> Space:
    """Voxels of grey and white matter of the template, at so many millimetres."""
    at = template(steps)
    where = at.priors[1 : len(CLASSES)].sum(axis=0) >= _LEAST_SOLID
    return Space(where=where, affine=at.affine, places=places_of(where.shape, at.affine)[:, where])


def in_space(
    maps: NDArray[np.floating], solid: NDArray[np.bool_], affine: Affine, warp: Warp, to: Space
) -> NDArray[np.float32]:
    """Maps of a session at the voxels of a space: weighted means of what is solid around each point, no fluid mixed in.

    Parameters
    ----------
    maps
        Shape (map, z, y, x); where one is not finite, it is not counted.
    solid
        Grey and white matter of the session, shape (z, y, x).
    affine
        From voxel index x, y, z of the session to its RAS mm.
    warp
        Of the session to the template.

    Returns
    -------
    ndarray
        Shape (map, n); NaN where less than half of what is around a point is solid.
    """
    points = warp.back(to.places)
    result = np.full((len(maps), to.places.shape[1]), np.nan, dtype=np.float32)
    for number, values in enumerate(maps):
        there = solid & np.isfinite(values)
        parts = np.stack([there.astype(np.float32), np.where(there, values, 0).astype(np.float32)])
        weight, total = sampled(parts, affine, points)
        is_there = weight >= _LEAST_SOLID
        result[number, is_there] = total[is_there] / weight[is_there]
    return result
