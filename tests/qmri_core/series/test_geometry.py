"""Grids and orientations."""

from __future__ import annotations

import tracemalloc

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from qmri_core.series.geometry import Grid, block_means, closest_canonical, spacing_of


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


@pytest.mark.parametrize("steps", [(1, 1, 1), (2, 3, 2), (1, 2, 1), (4, 1, 3), (3, 5, 4)])
def test_means_of_blocks_are_those_of_their_voxels(steps: tuple[int, int, int]) -> None:
    array = np.random.default_rng(0).normal(100, 20, (41, 23, 18)).astype(np.float32)
    found = block_means(array, steps)
    assert found.shape == tuple(size // step for size, step in zip(array.shape, steps, strict=True))
    for place in [(0, 0, 0), tuple(size - 1 for size in found.shape), (5, 2, 3)]:
        block = array[tuple(slice(i * step, (i + 1) * step) for i, step in zip(place, steps, strict=True))]
        assert found[place] == pytest.approx(block.astype(float).mean(), rel=1e-6)


def test_means_of_blocks_take_little_more_than_their_result() -> None:
    array = np.ones((160, 64, 64), dtype=np.float32)
    tracemalloc.start()
    found = block_means(array, (2, 2, 2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - found.nbytes < 0.15 * array.nbytes  # of all planes at once: 0.5 and more
