"""Jacobian, condition number and Cramer-Rao bound against finite differences and Monte Carlo estimates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from qmri_core.physics.information import condition_number, cramer_rao_bound, jacobian, scale_gain
from qmri_core.physics.registry import signal
from tests.qmri_core.physics.acquisitions import EXAMPLES

PROTOCOL = (EXAMPLES["mprage"], EXAMPLES["turbo_spin_echo"], EXAMPLES["inversion_recovery_tse"])


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


GREY = (double(0.83), double(1.35), double(0.095))


def test_jacobian_agrees_with_finite_differences() -> None:
    pd, t1, t2 = GREY
    signals, derivatives = jacobian(PROTOCOL, pd, t1, t2, transmit_scale=0.95)
    step = 1e-5
    for column, maps in enumerate(
        [
            ((pd, t1 * (1 + step), t2), (pd, t1 * (1 - step), t2)),
            ((pd, t1, t2 * (1 + step)), (pd, t1, t2 * (1 - step))),
            ((pd * (1 + step), t1, t2), (pd * (1 - step), t1, t2)),
        ]
    ):
        for row, acquisition in enumerate(PROTOCOL):
            up, down = (signal(acquisition, *each, transmit_scale=0.95) for each in maps)
            assert float(derivatives[0, row, column]) == pytest.approx(float((up - down) / (2 * step)), rel=1e-6)
    assert signals.shape == (1, 3)


def test_bound_is_the_spread_of_the_best_estimates() -> None:
    pd, t1, t2 = GREY
    signals, derivatives = jacobian(PROTOCOL, pd, t1, t2)
    noise = signals.abs()[0] / 2000  # so small that the models are linear over it
    bound = cramer_rao_bound(derivatives, noise)[0].numpy()
    rng = np.random.default_rng(0)
    errors = np.linalg.solve(derivatives[0].numpy(), rng.standard_normal((3, 20000)) * noise.numpy()[:, None])
    # standard error of a standard deviation from 20000 samples is 0.5 %
    np.testing.assert_allclose(errors.std(axis=1), bound, rtol=0.02)


def test_noise_scales_the_bound_and_a_prior_limits_it() -> None:
    signals, derivatives = jacobian(PROTOCOL, double(0.7), double(0.85), double(0.07))
    noise = signals.abs()[0] / 50
    bound = cramer_rao_bound(derivatives, noise)
    torch.testing.assert_close(cramer_rao_bound(derivatives, noise / 2), bound / 2)
    prior = (0.15, 0.20, 0.05)
    limited = cramer_rao_bound(derivatives, noise, prior_deviation=prior)
    assert (limited < bound).all()
    assert (limited < double(*prior)).all()
    # stated for such protocols: white matter 4.9-174 % alone, 5 / 3 / 4 % with this prior
    assert 0.045 < float(bound[0, 0]) < 0.6
    assert limited[0].tolist() == pytest.approx([0.05, 0.033, 0.045], rel=0.35)


def test_two_series_do_not_determine_three_parameters() -> None:
    signals, derivatives = jacobian(PROTOCOL[:2], *GREY)
    assert cramer_rao_bound(derivatives, signals.abs()[0] / 50).isinf().all()
    with_prior = cramer_rao_bound(derivatives, signals.abs()[0] / 50, prior_deviation=(0.15, 0.2, 0.05))
    assert with_prior.isfinite().all()


def test_repeating_a_series_is_singular() -> None:
    twice = (PROTOCOL[0], PROTOCOL[1], PROTOCOL[1])
    signals, derivatives = jacobian(twice, *GREY)
    assert float(condition_number(signals, derivatives)) > 1e8


def test_scale_gain_is_the_answer_to_a_scaled_image() -> None:
    signals, derivatives = jacobian(PROTOCOL, *GREY)
    gain = scale_gain(signals, derivatives)[0]
    change = torch.zeros(3, dtype=torch.float64)
    change[1] = 1e-6 * signals[0, 1]
    solved = torch.linalg.solve(derivatives[0], change) / 1e-6
    torch.testing.assert_close(gain[:, 1], solved)
    # a common factor on all three is proton density, and nothing else
    torch.testing.assert_close(gain.sum(-1), double(0.0, 0.0, 1.0), rtol=0, atol=1e-9)


def test_condition_number_of_a_perfect_protocol_is_one() -> None:
    eye = torch.eye(3, dtype=torch.float64)[None]
    assert float(condition_number(torch.ones(1, 3, dtype=torch.float64), eye)) == pytest.approx(1.0)
    assert math.isinf(float(condition_number(torch.ones(1, 3, dtype=torch.float64), eye * double(1.0, 1.0, 0.0))))
