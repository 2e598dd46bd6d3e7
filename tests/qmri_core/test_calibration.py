"""Scales of groups and sessions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmri_core.acquisition import Contrast
from qmri_core.calibration import (
    CalibrationError,
    biological_spread,
    calibrate_scale,
    reference_signal,
    white_matter_signal,
)
from qmri_core.population import FieldStrengthError, population
from tests.protocols import plain_protocol

T1W = plain_protocol()[Contrast.T1W]


def signals(scale: float, spread: float, n: int = 400, seed: int = 0) -> list[float]:
    """White-matter signals of sessions with this log standard deviation."""
    noise = np.random.default_rng(seed).standard_normal(n)
    return list(scale * reference_signal(T1W, population(3.0)) * np.exp(spread * noise))


def test_the_group_scale_brings_the_mean_white_matter_to_the_reference() -> None:
    assert calibrate_scale(signals(120.0, 0.0), T1W).scale == pytest.approx(120.0)


def test_differences_that_biology_explains_stay() -> None:
    biology = biological_spread(T1W, population(3.0))
    found = calibrate_scale(signals(120.0, 0.5 * biology), T1W)
    assert found.shrinkage == 0.0
    assert found.session_scale(2 * 120.0 * found.reference_signal) == found.scale


def test_differences_far_beyond_biology_are_scale() -> None:
    found = calibrate_scale(signals(120.0, 0.5), T1W)
    assert found.shrinkage > 0.98
    measured = 200.0 * found.reference_signal
    assert found.session_scale(measured) == pytest.approx(200.0, rel=0.03)


@given(spread=st.floats(0.0, 0.4), deviation=st.floats(0.3, 3.0))
def test_a_session_scale_lies_between_the_group_and_the_session(spread: float, deviation: float) -> None:
    found = calibrate_scale(signals(50.0, spread, n=30), T1W)
    own = deviation * found.scale
    scale = found.session_scale(own * found.reference_signal)
    assert min(found.scale, own) * (1 - 1e-9) <= scale <= max(found.scale, own) * (1 + 1e-9)


def test_one_session_alone_keeps_its_group_scale_and_says_that_the_spread_is_unknown() -> None:
    found = calibrate_scale([3.0, float("nan")], T1W)
    assert found.n_sessions == 1
    assert found.shrinkage == 0.0
    assert np.isnan(found.spread)
    assert found.session_scale(float("nan")) == found.scale


def test_nothing_to_go_by_is_an_error() -> None:
    with pytest.raises(CalibrationError, match="T1w"):
        calibrate_scale([float("nan"), 0.0], T1W)
    with pytest.raises(FieldStrengthError):
        calibrate_scale([1.0], plain_protocol(7.0)[Contrast.T1W])


def test_biological_spread_agrees_with_finite_differences() -> None:
    """First order in T1 and T2 and PD, each taken alone: their quadrature is the spread to a few per cent."""
    values = population(3.0)
    wm = values.white_matter
    import torch

    from qmri_core.physics.registry import signal

    def log_signal(t1: float, t2: float, pd: float) -> float:
        tensors = (torch.tensor(v, dtype=torch.float64) for v in (pd, t1, t2))
        return float(np.log(abs(float(signal(T1W, *tensors)))))

    step = 1e-4
    slopes = [
        (log_signal(wm.t1 * (1 + step), wm.t2, wm.pd) - log_signal(wm.t1 * (1 - step), wm.t2, wm.pd)) / (2 * step),
        (log_signal(wm.t1, wm.t2 * (1 + step), wm.pd) - log_signal(wm.t1, wm.t2 * (1 - step), wm.pd)) / (2 * step),
        1.0,
    ]
    expected = np.hypot.reduce(np.array(slopes) * [wm.t1_spread, wm.t2_spread, wm.pd_spread])
    assert biological_spread(T1W, values) == pytest.approx(expected, rel=0.1)  # 512 samples: 3 % statistical error


def test_white_matter_signal_is_the_median_of_its_core() -> None:
    tissue = np.full((12, 12, 12), 3, dtype=np.uint8)
    tissue[6:] = 2
    image = np.where(tissue == 3, 5.0, 100.0).astype(np.float32)
    assert white_matter_signal({Contrast.T1W: image}, tissue) == {Contrast.T1W: 5.0}
    few = np.zeros((12, 12, 12), dtype=np.uint8)
    few[4:7, 4:7, 4:7] = 3
    assert np.isnan(white_matter_signal({Contrast.T1W: image}, few)[Contrast.T1W])
