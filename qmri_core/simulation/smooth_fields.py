"""Random smooth scalar fields in millimetre space, the same at any sampling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_REACH = 160.0
_WHITE_NOISE_GAIN = 3.01
"""One over the standard deviation that a cubic B-spline leaves of unit white noise in three dimensions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmoothField:
    """Cubic B-spline of control values on a cubic lattice around the origin, covering at least +-160 mm.

    ``control`` has shape (z, y, x); ``spacing`` is the lattice constant in millimetres. Being defined in space and
    not on a grid, one field gives the same values whatever the resolution or the part that is evaluated.
    """

    control: NDArray[np.float32]
    spacing: float

    def evaluate(self, x: NDArray[np.float64], y: NDArray[np.float64], z: NDArray[np.float64]) -> NDArray[np.float32]:
        """Values on the rectilinear grid of the coordinates (millimetres), shape (len(z), len(y), len(x))."""
        along_x, along_y, along_z = (_basis(axis, self.control.shape[0], self.spacing) for axis in (x, y, z))
        values = np.tensordot(along_z, self.control, axes=(1, 0))
        values = np.matmul(along_y, values)
        return np.asarray(np.matmul(values, along_x.T), dtype=np.float32)


def random_field(rng: np.random.Generator, *, spacing: float, sd: float) -> SmoothField:
    """Field of zero mean and standard deviation ``sd``, correlated over about ``spacing`` millimetres."""
    size = 2 * int(np.ceil(_REACH / spacing)) + 5
    control = rng.standard_normal((size, size, size), dtype=np.float32) * np.float32(sd * _WHITE_NOISE_GAIN)
    return SmoothField(control=control, spacing=spacing)


def _basis(positions: NDArray[np.float64], size: int, spacing: float) -> NDArray[np.float32]:
    """Weights of the control points, shape (positions, size); positions beyond the lattice take its edge."""
    index = np.clip(np.asarray(positions) / spacing + (size - 1) / 2, 1.0, size - 2.001)
    first = np.floor(index).astype(int) - 1
    t = index - np.floor(index)
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1) / 6
    matrix = np.zeros((len(index), size), dtype=np.float32)
    np.put_along_axis(matrix, first[:, None] + np.arange(4), weights.astype(np.float32), axis=1)
    return matrix
