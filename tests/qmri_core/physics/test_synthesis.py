"""Magnitude, noise floor and synthetic contrasts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qmri_core.physics.magnitude import magnitude
from qmri_core.physics.registry import signal
from qmri_core.physics.synthesis import synthesise
from tests.qmri_core.physics.acquisitions import EXAMPLES

MAPS = tuple(
    np.asarray(values, dtype=np.float32).reshape(1, 2, 2)
    for values in ([0.7, 0.83, 1.0, np.nan], [0.85, 1.35, 4.3, 1.0], [0.07, 0.095, 2.0, 0.1])
)


@given(size=st.floats(-0.2, 0.2), noise=st.floats(0.005, 0.1))
@settings(deadline=None, max_examples=10)
def test_noise_floor_is_the_mean_of_noisy_magnitudes(size: float, noise: float) -> None:
    rng = np.random.default_rng(1)
    draws = np.abs(size + noise * (rng.standard_normal(50_000) + 1j * rng.standard_normal(50_000))).mean()
    found = float(magnitude(torch.tensor(size, dtype=torch.float64), noise=noise))
    assert found == pytest.approx(draws, abs=5 * noise / math.sqrt(50_000))


def test_magnitude_without_noise_is_the_absolute_value_with_its_gradient() -> None:
    value = torch.tensor([-0.3, 0.2], dtype=torch.float64, requires_grad=True)
    magnitude(value).sum().backward()  # type: ignore[no-untyped-call]
    assert magnitude(value).tolist() == [0.3, 0.2]
    assert value.grad is not None
    assert value.grad.tolist() == [-1.0, 1.0]
    assert torch.autograd.gradcheck(lambda x: magnitude(x, noise=0.05), [value])


@pytest.mark.parametrize("name", EXAMPLES)
def test_synthesis_is_the_magnitude_of_the_model(name: str) -> None:
    exact = synthesise(EXAMPLES[name], *MAPS, transmit_scale=0.95, is_exact=True)
    fast = synthesise(EXAMPLES[name], *MAPS, transmit_scale=0.95)
    maps = [torch.from_numpy(each).double() for each in MAPS]
    expected = signal(EXAMPLES[name], *maps, transmit_scale=0.95).abs().numpy()
    assert exact.dtype == np.float32
    assert exact.shape == (1, 2, 2)
    assert np.isnan(exact[0, 1, 1])
    np.testing.assert_allclose(exact, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(fast, exact, rtol=2e-3, atol=2e-5)


def test_double_inversion_nulls_fluid_and_white_matter() -> None:
    first, second = 3.710, 0.556  # null Mz of T1 4.3 and 0.85 s after 10.86 s, by its recovery between the pulses
    acquisition = replace(
        EXAMPLES["inversion_recovery_tse"],
        repetition_time=11.0,
        inversion_time=first,
        second_inversion_time=second,
        refocusing_angle=math.pi,
    )
    white, grey, fluid = synthesise(acquisition, *MAPS, is_exact=True).ravel()[:3]
    assert white < 0.02 * grey
    # the train leaves a little of fluid's magnetisation, which the rule neglects
    assert fluid < 0.2 * grey
