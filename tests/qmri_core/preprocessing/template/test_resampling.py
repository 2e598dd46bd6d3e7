"""Maps of a session on the template's grid: what is there, where it is, and nothing of fluid."""

from __future__ import annotations

import numpy as np

from qmri_core.preprocessing.template.deformable import Warp, identity, places_of
from qmri_core.preprocessing.template.resampling import in_space, space

SHAPE = (40, 48, 40)


def nodes() -> np.ndarray:
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    affine[:3, 3] = -100.0, -130.0, -80.0
    return affine


def shifted(by: tuple[float, float, float]) -> Warp:
    affine = np.eye(4)
    affine[:3, 3] = by
    return identity(SHAPE, nodes(), affine)


def test_a_map_is_where_the_warp_says() -> None:
    """A map that is linear in place is itself at other places, under a shift."""
    to = space(4)
    grid = places_of(SHAPE, nodes())
    values = 1 + 0.01 * grid[0] - 0.02 * grid[2]
    (found,) = in_space(values[None], np.ones(SHAPE, bool), nodes(), shifted((7.0, 0.0, -3.0)), to)
    x, _, z = to.places - np.asarray([[7.0], [0.0], [-3.0]])
    np.testing.assert_allclose(found, 1 + 0.01 * x - 0.02 * z, atol=1e-4)
    volume = to.volume(found)
    assert np.isfinite(volume).sum() == to.places.shape[1]
    np.testing.assert_array_equal(volume[to.where], found)


def test_fluid_is_not_mixed_into_tissue() -> None:
    """One half of a head is fluid of another value: tissue reads as tissue, or as nothing."""
    grid = places_of(SHAPE, nodes())
    solid = grid[0] < 10.0  # its last plane lies at 5 mm
    values = np.where(solid, 1.0, 4.0)
    values[0, 0, 0] = np.nan
    to = space(4)
    found = in_space(np.stack([values, 2 * values]), solid, nodes(), shifted((0.0, 0.0, 0.0)), to)
    x = to.places[0]
    near = x < 7.4
    np.testing.assert_allclose(found[:, near], [[1.0], [2.0]] * np.ones(int(near.sum())), rtol=1e-6)
    assert np.isnan(found[:, x > 7.6]).all()
