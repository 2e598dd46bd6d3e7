"""Magnetization transfer between slices: against people, another way of integration, limits and measured pools."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp

from qmri_core.physics.magnetization_transfer import (
    GREY_MATTER,
    REALISED,
    SLICE_OFFSET,
    WHITE_MATTER,
    TwoPools,
    share_of_shift,
    signal_left,
    simulated_shift,
)
from qmri_core.physics.registry import fast_signal, signal
from qmri_core.series.acquisition import Acquisition, AcquisitionError, Contrast
from qmri_core.tissues import REFERENCE_VALUES, SIMULATED, numbers_of
from tests.protocols import plain_protocol

T2W = plain_protocol()[Contrast.T2W]


def train(slices: int | None, angle: float = 120.0, **changes: float) -> Acquisition:
    """Fifteen echoes of 11 ms every 5 s."""
    usual = {"repetition_time": 5.0, "echo_train_length": 15, "echo_spacing": 0.011, "centre_index": 8}
    one = replace(T2W, slices=slices, refocusing_angle=math.radians(angle), **(usual | changes))
    return replace(one, echo_time=0.088)


def expected(acquisition: Acquisition) -> float:
    shift = simulated_shift(acquisition)
    assert shift is not None
    return REALISED[0] * shift


@pytest.mark.parametrize(("angle", "white", "caudate"), [(180, 0.701, 0.754), (120, 0.800, 0.838)])
def test_signals_of_a_person_in_15_slices_over_one(angle: float, white: float, caudate: float) -> None:
    """Measured by Malik 2018 every 5 s with 25 echoes; its slices lie apart, which the offset stands for."""
    logs = []
    for pools, measured in ((WHITE_MATTER, white), (GREY_MATTER, caudate)):
        left = signal_left(pools, 15, 5.0, 25, 0.0077, math.radians(angle), slice_offset=3200.0)
        assert left == pytest.approx(measured, rel=0.045)
        logs.append(math.log(left))
    simulated, true = logs[1] - logs[0], math.log(caudate / white)
    assert abs(true - REALISED[0] * simulated) < REALISED[1] * simulated


@pytest.mark.parametrize("inversion_time", [None, 0.9])
@pytest.mark.parametrize("pools", [WHITE_MATTER, GREY_MATTER])
def test_it_is_what_integration_over_many_cycles_gives(pools: TwoPools, inversion_time: float | None) -> None:
    slices, cycle, echoes, spacing, angle = 5, 2.0, 8, 0.01, 2.2
    energy = 0.0216 * (echoes * angle**2 + (math.pi / 2) ** 2)  # uT^2 s
    field = energy / (echoes * spacing)
    absorbed = [_absorption(SLICE_OFFSET * k) for k in (1, 2)]
    rate = math.pi * 267.5221**2 * field * float(np.mean(absorbed))
    own = math.pi * 267.5221**2 * field * 15.1e-6
    waters = [_integrated(pools, slices, cycle, echoes * spacing, own, w, inversion_time) for w in (rate, 0.0)]
    found = signal_left(pools, slices, cycle, echoes, spacing, angle, inversion_time=inversion_time)
    assert found == pytest.approx(waters[0] / waters[1], rel=3e-3)


def _absorption(offset: float) -> float:
    def integrand(u: float) -> float:
        width = 12e-6 / abs(3 * u * u - 1)
        return math.sqrt(2 / math.pi) * width * math.exp(-2 * (2 * math.pi * offset * width) ** 2)

    return sum(quad(integrand, *ends, limit=400)[0] for ends in ((0, 3**-0.5), (3**-0.5, 1)))


def _integrated(
    pools: TwoPools, slices: int, cycle: float, train: float, own: float, other: float, inversion: float | None
) -> float:
    """Water before the fifth excitation, by steps of a solver of ordinary differential equations."""
    free, bound = 1 - pools.bound, pools.bound
    back = pools.exchange * free / bound

    def change(_: float, m: list[float], rate: float, held: bool) -> list[float]:
        to_free = (free - m[0]) / pools.t1 - pools.exchange * m[0] + back * m[1]
        to_bound = (bound - m[1]) / pools.t1 + pools.exchange * m[0] - back * m[1] - rate * m[1]
        return [0.0 if held else to_free, to_bound]

    state, slot = [free, bound], cycle / slices
    edges = sorted({k * slot for k in range(slices + 1)} | {k * slot + train for k in range(slices)})
    flip = None if inversion is None else cycle - inversion
    edges = sorted({*edges, *([] if flip is None else [flip])})
    for _ in range(4):
        state[0] = 0.0
        for start, end in pairwise(edges):
            if start == flip:
                state[0] = -state[0]
            number, into = divmod((start + end) / 2, slot)
            rate = (own if number == 0 else other) if into < train else 0.0
            held = number == 0 and into < train
            state = list(solve_ivp(change, (start, end), state, args=(rate, held), rtol=1e-6, atol=1e-8).y[:, -1])
        before = state[0]
    return float(before)


def test_protocols_of_clinics_have_what_is_known_of_them() -> None:
    """Values of a simulation by somebody else, times what people have of it: .044 to .08, more with more power."""
    assert expected(train(30)) == pytest.approx(0.058, abs=0.006)
    assert expected(train(30, 150)) == pytest.approx(0.080, abs=0.008)
    assert expected(train(15)) == pytest.approx(0.044, abs=0.006)


def test_one_slice_and_pulses_without_power_change_nothing() -> None:
    assert simulated_shift(train(1)) == 0
    assert signal_left(WHITE_MATTER, 1, 5.0, 15, 0.011, 2.0) == pytest.approx(1)
    assert signal_left(WHITE_MATTER, 30, 5.0, 15, 0.011, 1e-3, 1e-3) == pytest.approx(1, abs=1e-4)
    assert abs(expected(train(30, b1_rms=1e-9))) < 1e-6


def test_more_slices_and_larger_angles_shift_more() -> None:
    """From four slices on: beside two or three, white matter has time to recover; until trains fill the cycle."""
    by_slices = [expected(train(slices)) for slices in range(4, 27, 2)]
    assert by_slices == sorted(by_slices)
    assert by_slices[0] > 0.002
    by_angle = [expected(train(24, angle)) for angle in range(60, 181, 15)]
    assert by_angle == sorted(by_angle)
    assert by_angle[-1] < 0.12


def test_slices_that_do_not_fit_into_a_cycle_are_acquired_in_turns() -> None:
    """At most 30 trains of 165 ms in 5 s: 60 slices are two packages of 30."""
    assert simulated_shift(train(60)) == simulated_shift(train(30))


def test_the_field_of_a_header_stands_for_the_energy_of_its_angles() -> None:
    one = train(30)
    energy = 30 * 0.0216e-12 * (15 * math.radians(120) ** 2 + (math.pi / 2) ** 2)
    same = replace(one, b1_rms=math.sqrt(energy / 5.0))
    assert expected(same) == pytest.approx(expected(one), rel=1e-6)
    assert expected(replace(one, b1_rms=1e-6)) < 0.7 * expected(one)


def test_only_trains_in_slices_whose_number_is_known_have_an_expectation() -> None:
    assert simulated_shift(train(None)) is None
    assert simulated_shift(replace(plain_protocol()[Contrast.T1W], slices=40)) == 0


def test_tissues_have_the_share_that_their_bound_pools_let_expect() -> None:
    """By measured bound fractions, and by simulation; grey matter and white matter are the ends."""
    simulated = {"caudate": 1.0, "putamen": 1.0, "pallidum": 0.6, "thalamus": 0.33}
    bound = {"caudate": 0.113, "putamen": 0.118, "thalamus": 0.158, "pallidum": 0.164}
    found = {}
    for name, entries in SIMULATED.items():
        values = numbers_of(entries)
        found[name] = float(share_of_shift(*map(torch.tensor, (values["t1"], values["t2"])), 3.0))
    assert found["wm"] == pytest.approx(0, abs=1e-6)
    assert found["gm"] == pytest.approx(1, abs=1e-6)
    for name, fraction in bound.items():
        measured = (0.212 - fraction) / (0.212 - 0.098)
        low, high = sorted((measured, simulated[name]))
        assert low - 0.1 < found[name] < high + 0.21, name
    assert found["csf"] > 1.5
    for field, tissues in REFERENCE_VALUES.items():
        grey = numbers_of(tissues["GM"])
        assert float(share_of_shift(*map(torch.tensor, (grey["t1"], grey["t2"])), field)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("model", [signal, fast_signal])
def test_signals_have_it_by_the_share_of_each_tissue(model: object) -> None:
    assert callable(model)
    t1, t2 = torch.tensor([0.85, 1.40, 1.15, 4.3]), torch.tensor([0.070, 0.095, 0.082, 2.0])
    pd = torch.ones(4)
    plain = model(T2W, pd, t1, t2)
    with_it = model(replace(T2W, magnetization_transfer=0.06), pd, t1, t2)
    np.testing.assert_allclose((with_it / plain).log(), 0.06 * share_of_shift(t1, t2, 3.0), atol=1e-5)


def test_what_is_no_shift_is_refused() -> None:
    with pytest.raises(AcquisitionError, match="logarithm"):
        replace(T2W, magnetization_transfer=1.06)
    with pytest.raises(AcquisitionError, match="microtesla"):
        replace(T2W, b1_rms=2.9)
