"""Smooth fields are functions of space, whatever grid they are seen through."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.interpolate import BSpline

from qmri_core.simulation.smooth_fields import random_field


@settings(max_examples=20, deadline=None)
@given(
    x=st.lists(st.floats(-150, 150), min_size=1, max_size=4),
    z=st.lists(st.floats(-150, 150), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)
def test_value_at_a_point_does_not_depend_on_the_other_points(x: list[float], z: list[float], seed: int) -> None:
    field = random_field(np.random.default_rng(seed), spacing=40.0, sd=1.0)
    together = field.evaluate(np.array(x), np.array([3.0]), np.array(z))
    for i, one in enumerate(x):
        for k, other in enumerate(z):
            alone = field.evaluate(np.array([one]), np.array([3.0]), np.array([other]))[0, 0, 0]
            assert_allclose(together[k, 0, i], alone, atol=1e-5)  # single precision


def test_it_is_the_cubic_b_spline_of_its_control_values() -> None:
    field = random_field(np.random.default_rng(3), spacing=50.0, sd=1.0)
    size = field.control.shape[0]
    knots = np.arange(-1.0, size + 3)  # uniform: control value i sits at index i
    spline = BSpline(knots - 1, np.moveaxis(field.control.astype(float), 2, 0), 3)
    x = np.linspace(-120, 120, 9)
    along_x = spline(x / 50.0 + (size - 1) / 2)
    middle = (size - 1) / 2
    assert middle == int(middle)
    weights = np.array([1, 4, 1]) / 6
    centre = int(middle)
    part = along_x[:, centre - 1 : centre + 2, centre - 1 : centre + 2]
    expected = np.einsum("z,y,xzy->x", weights, weights, part)
    assert_allclose(field.evaluate(x, np.zeros(1), np.zeros(1))[0, 0], expected, atol=1e-4)


def test_standard_deviation_is_what_was_asked_for() -> None:
    axis = np.linspace(-140, 140, 60)
    values = [random_field(np.random.default_rng(s), spacing=15.0, sd=2.0).evaluate(axis, axis, axis) for s in range(3)]
    assert_allclose(np.std(values), 2.0, rtol=0.08)  # about 6,000 independent values per field
