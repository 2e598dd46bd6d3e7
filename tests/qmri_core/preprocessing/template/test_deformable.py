"""Known affines and known deformations are found; a warp is what it says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from qmri_core.preprocessing.template.deformable import (
    Warp,
    fit_affine,
    fit_displacement,
    identity,
    on_nodes,
    overlap,
    places_of,
    sampled,
)

SPACING = 4.0
SHAPE = (30, 36, 32)
Maps = Callable[[NDArray[np.floating]], NDArray[np.float32]]


def nodes() -> NDArray[np.float64]:
    """Of a grid about the origin."""
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    affine[:3, 3] = -(np.asarray(SHAPE[::-1]) - 1) / 2 * SPACING
    return affine


def blobs(places: NDArray[np.floating]) -> NDArray[np.float32]:
    """Two maps that are known at any place (3, ...): shells and lumps of an egg of 45 to 55 mm."""
    x, y, z = places
    radius = np.sqrt((x / 46) ** 2 + (y / 54) ** 2 + (z / 44) ** 2)
    inside = 1 / (1 + np.exp((radius - 0.9) * 12))
    lumps = 0.5 + 0.25 * (np.sin(x / 9 + 0.5) + np.cos(y / 11) * np.sin(z / 8 + y / 30))
    return np.stack([inside * lumps, inside * (1 - lumps)]).astype(np.float32)


def test_a_known_affine_is_found() -> None:
    truth = np.eye(4)
    truth[:3, :3] = Rotation.from_euler("xyz", [6, -4, 8], degrees=True).as_matrix() @ np.diag([1.05, 0.95, 1.1])
    truth[:3, 3] = 5.0, -4.0, 3.0
    grid = places_of(SHAPE, nodes())
    turned = np.einsum("ij,j...->i...", truth[:3, :3], grid) + truth[:3, 3].reshape(3, 1, 1, 1)
    found = fit_affine(blobs(turned), nodes(), blobs(grid), nodes(), np.eye(4), blur=3.0)
    points = np.asarray([[30, 0, 0], [-30, 20, 0], [0, -40, 20], [0, 0, -30]])
    errors = np.linalg.norm(points @ (found - truth)[:3, :3].T + (found - truth)[:3, 3], axis=1)
    assert errors.max() < 0.5, errors  # millimetres; voxels are 4 mm


def test_a_known_deformation_is_found_and_stays_invertible() -> None:
    grid = places_of(SHAPE, nodes())
    x, y, z = grid
    shift = np.stack([5 * np.sin(y / 22), 5 * np.cos(z / 25) - 3, 4 * np.sin(x / 24)])
    fixed = blobs(grid + shift)
    start = identity(SHAPE, nodes(), np.eye(4))
    found = fit_displacement(
        fixed, blobs(grid), nodes(), start, n_steps=60, blur=0.0, fluid=SPACING, elastic=SPACING / 2
    )
    inside = ndimage.binary_erosion(fixed.sum(axis=0) > 0.5, iterations=2)
    errors = np.linalg.norm(found.points(grid) - (grid + shift), axis=0)[inside]
    before = np.linalg.norm(shift, axis=0)[inside]
    assert errors.mean() < 0.35 * before.mean(), (errors.mean(), before.mean())
    assert found.jacobian()[inside].min() > 0.3


@pytest.mark.parametrize("turn", [0.0, 25.0])
def test_the_jacobian_of_a_swelling_is_its_volume(turn: float) -> None:
    """In nodes whose axes are oblique too."""
    oblique = nodes()
    oblique[:3] = Rotation.from_euler("z", turn, degrees=True).as_matrix() @ oblique[:3]
    grid = places_of(SHAPE, oblique)
    swelling = np.asarray([0.1, 0.2, -0.1]).reshape(3, 1, 1, 1)
    warp = Warp(affine=np.eye(4), displacement=(grid * swelling).astype(np.float32), nodes=oblique)
    np.testing.assert_allclose(warp.jacobian(), 1.1 * 1.2 * 0.9, rtol=1e-3)


def test_a_warp_says_the_same_at_other_nodes() -> None:
    grid = places_of(SHAPE, nodes())
    shift = (grid[[1, 2, 0]] * 0.05).astype(np.float32)
    warp = Warp(affine=np.diag([1.0, 1.1, 1.0, 1.0]), displacement=shift, nodes=nodes())
    finer = np.diag([2.0, 2.0, 3.0, 1.0])
    finer[:3, 3] = -20.0, -20.0, -20.0
    points = np.random.default_rng(0).uniform(-15, 15, (3, 50))
    expected = np.diag([1.0, 1.1, 1.0]) @ (points + 0.05 * points[[1, 2, 0]])
    np.testing.assert_allclose(warp.points(points), expected, atol=1e-3)
    np.testing.assert_allclose(on_nodes(warp, (14, 20, 20), finer).points(points), expected, atol=1e-3)


def test_values_are_sampled_where_the_affine_says_and_are_zero_beyond() -> None:
    grid = places_of(SHAPE, nodes())
    maps = np.stack([grid[0], grid[2]])
    points = np.asarray([[3.0, 500.0], [1.0, 0.0], [-7.0, 0.0]])
    np.testing.assert_allclose(sampled(maps, nodes(), points), [[3.0, 0.0], [-7.0, 0.0]], atol=1e-3)


def test_overlap_of_a_map_with_itself_and_with_nothing() -> None:
    one = np.asarray([0.0, 0.5, 1.0])
    assert overlap(one, one) == 1.0
    assert overlap(one, one[::-1]) == pytest.approx(2 * 0.5 / 3.0)
    assert np.isnan(overlap(np.zeros(3), np.zeros(3)))


def test_a_warp_goes_back() -> None:
    """There and back is where it began, under a turned affine and a displacement of up to 9 mm."""
    grid = places_of(SHAPE, nodes())
    x, y, z = grid
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("xyz", [6, -4, 8], degrees=True).as_matrix() * 1.1
    turn[:3, 3] = 5.0, -4.0, 3.0
    displacement = np.stack([5 * np.sin(y / 22), 5 * np.cos(z / 25) - 3, 4 * np.sin(x / 24)]).astype(np.float32)
    warp = Warp(affine=turn, displacement=displacement, nodes=nodes())
    assert np.linalg.norm(displacement, axis=0).max() > 8
    inside = grid[:, 6:-6, 6:-6, 6:-6].reshape(3, -1)
    back = warp.back(warp.points(inside))
    assert np.linalg.norm(back - inside, axis=0).max() < 0.05  # millimetres
