"""Distances from a mask against the exact ones over the whole array."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from qmri_core.preprocessing.distances import depth, grown

SPACINGS = [(1.0, 1.0, 1.0), (4.4, 0.6, 0.7)]


def blob(spacing: tuple[float, ...], centre: tuple[float, ...] = (20.0, 20.0, 20.0)) -> NDArray[np.bool_]:
    """A ball with a dent in an array of 50 mm."""
    places = np.indices([round(50 / step) for step in spacing]) * np.reshape(spacing, (3, 1, 1, 1))
    radius = np.linalg.norm(places - np.reshape(centre, (3, 1, 1, 1)), axis=0)
    return np.asarray((radius < 11) & (places[1] < 26))


@pytest.mark.parametrize("spacing", SPACINGS)
def test_depth_is_exact_in_the_box_that_it_holds(spacing: tuple[float, ...]) -> None:
    mask = blob(spacing)
    affine = np.diag([*spacing[::-1], 1.0])
    affine[:3, 3] = [3.0, -5.0, 7.0]
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing) - min(spacing) / 2
    inside = min(spacing) / 2 - ndimage.distance_transform_edt(mask, sampling=spacing)
    expected = np.where(mask, inside, outside)
    found = depth(mask, affine, 5.0)
    start = np.linalg.solve(affine, found.affine[:, 3])[2::-1].round().astype(int)
    box = tuple(slice(one, one + size) for one, size in zip(start, found.array.shape, strict=True))
    np.testing.assert_allclose(found.array, expected[box], atol=1e-4)
    everywhere = np.ones(mask.shape, dtype=bool)
    everywhere[box] = False
    assert expected[everywhere].min() > 5.0 - min(spacing) / 2


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("centre", [(20.0, 20.0, 20.0), (2.0, 20.0, 45.0)])
def test_a_grown_mask_holds_all_within_the_distance(spacing: tuple[float, ...], centre: tuple[float, ...]) -> None:
    mask = blob(spacing, centre)
    expected = ndimage.distance_transform_edt(~mask, sampling=spacing) <= 7.3
    np.testing.assert_array_equal(grown(mask, spacing, 7.3), expected)
