"""Grids and orientations."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from qmri_core.series.geometry import Grid, closest_canonical, spacing_of


def test_the_affine_puts_the_centre_of_the_grid_where_it_is_told() -> None:
    grid = Grid(shape=(5, 7, 9), spacing=(1.0, 2.0, 3.0))
    affine = grid.affine(np.eye(3), np.array([10.0, -20.0, 30.0]))
    middle = np.array([4.0, 3.0, 2.0, 1.0])
    np.testing.assert_allclose(affine @ middle, [10.0, -20.0, 30.0, 1.0])
    np.testing.assert_allclose(spacing_of(affine), grid.spacing)
    assert grid.coordinates("z").tolist() == [-6.0, -3.0, 0.0, 3.0, 6.0]


@given(seed=st.integers(0, 10_000))
def test_closest_canonical_agrees_with_nibabel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = np.eye(3)[:, rng.permutation(3)] * rng.choice([-1.0, 1.0], 3)
    tilt = Rotation.from_rotvec(rng.uniform(-0.3, 0.3, 3)).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = tilt @ base * rng.uniform(0.5, 5.0, 3)
    order, flipped = closest_canonical(affine)
    for world in range(3):
        expected_world, direction = nib.io_orientation(affine)[order[world]]
        assert expected_world == world
        assert flipped[world] == (direction < 0)


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_coordinates_are_symmetric_about_zero(axis: str) -> None:
    grid = Grid(shape=(4, 5, 6), spacing=(1.5, 1.5, 4.0))
    positions = grid.coordinates(axis)
    np.testing.assert_allclose(positions, -positions[::-1])
