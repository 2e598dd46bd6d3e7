"""Echo trains against an isochromat sum that shares no code with the phase graph, and against limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qmri_core.physics.phase_graph import echo_amplitude, echo_train, longitudinal_after_train
from qmri_core.physics.steady_state import spin_echo

DOUBLE = torch.float64


def isochromat_train(
    t1: float, t2: float, *, start: float, excitation: float, angles: list[float], spacing: float
) -> tuple[NDArray[np.float64], float]:
    """Echoes and final mean Mz of Bloch vectors spread evenly over the dephasing of half a spacing."""
    n = 4 * len(angles) + 8
    turn = 2 * np.pi * np.arange(n) / n
    vectors = np.tile(np.array([0.0, 0.0, start]), (n, 1))
    vectors = vectors @ about_y(excitation).T
    half1, half2 = math.exp(-spacing / 2 / t1), math.exp(-spacing / 2 / t2)

    def half() -> None:
        x, y = vectors[:, 0].copy(), vectors[:, 1].copy()
        vectors[:, 0] = half2 * (np.cos(turn) * x - np.sin(turn) * y)
        vectors[:, 1] = half2 * (np.sin(turn) * x + np.cos(turn) * y)
        vectors[:, 2] = 1 + (vectors[:, 2] - 1) * half1

    echoes = []
    for angle in angles:
        half()
        vectors = vectors @ about_x(angle).T
        half()
        echoes.append(vectors[:, 0].mean())
    return np.array(echoes), float(vectors[:, 2].mean())


def about_x(angle: float) -> NDArray[np.float64]:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def about_y(angle: float) -> NDArray[np.float64]:
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


TRAIN = st.lists(st.floats(0.3, 3.5), min_size=1, max_size=12)


@settings(deadline=None, max_examples=40)
@given(
    t1=st.floats(0.2, 5.0),
    t2=st.floats(0.02, 2.0),
    spacing=st.floats(0.003, 0.02),
    excitation=st.floats(0.3, 2.5),
    start=st.floats(-1.0, 1.0),
    angles=TRAIN,
)
def test_train_agrees_with_isochromats(
    t1: float, t2: float, spacing: float, excitation: float, start: float, angles: list[float]
) -> None:
    echoes, end = isochromat_train(t1, t2, start=start, excitation=excitation, angles=angles, spacing=spacing)
    one, two = torch.tensor(t1, dtype=DOUBLE), torch.tensor(t2, dtype=DOUBLE)
    found = [
        float(echo_amplitude(one, two, refocusing_angles=angles, echo_spacing=spacing, centre_index=index + 1))
        * start
        * math.sin(excitation)
        for index in range(len(angles))
    ]
    np.testing.assert_allclose(found, echoes, rtol=0, atol=1e-12)
    offset, gain = longitudinal_after_train(one, two, refocusing_angles=angles, echo_spacing=spacing)
    np.testing.assert_allclose(float(offset + gain * start * math.cos(excitation)), end, rtol=0, atol=1e-12)


@pytest.mark.parametrize("inversion_time", [None, 0.8])
@pytest.mark.parametrize("second", [None, 0.3])
def test_steady_state_is_what_cycles_converge_to(inversion_time: float | None, second: float | None) -> None:
    if inversion_time is None and second is not None:
        pytest.skip("no second inversion without a first")
    t1, t2, cycle, spacing, efficiency, preparation = 1.4, 0.15, 2.0, 0.012, 0.93, 0.05
    angles = [2.2, 1.9, 1.7, 2.4]
    start = 0.3
    echo = 0.0
    for _ in range(60):
        echoes, end = isochromat_train(t1, t2, start=start, excitation=1.4, angles=angles, spacing=spacing)
        echo = float(echoes[2])
        rest = cycle - len(angles) * spacing - preparation - (inversion_time or 0.0)
        start = (1 + (end - 1) * math.exp(-rest / t1)) * math.exp(-preparation / t2)
        if inversion_time is not None:
            delay = inversion_time - (second or 0.0)
            start = 1 + (-efficiency * start - 1) * math.exp(-delay / t1)
            if second is not None:
                start = 1 + (-efficiency * start - 1) * math.exp(-second / t1)
    found = echo_train(
        torch.tensor(1.0, dtype=DOUBLE),
        torch.tensor(t1, dtype=DOUBLE),
        torch.tensor(t2, dtype=DOUBLE),
        repetition_time=cycle,
        echo_spacing=spacing,
        centre_index=3,
        refocusing_angles=angles,
        flip_angle=1.4,
        inversion_time=inversion_time,
        second_inversion_time=second,
        inversion_efficiency=efficiency,
        t2_preparation_time=preparation,
    )
    assert float(found) == pytest.approx(echo, abs=1e-12)


@given(t2=st.floats(0.01, 3.0), spacing=st.floats(0.002, 0.02), centre=st.integers(1, 20))
@settings(deadline=None, max_examples=30)
def test_perfect_refocusing_decays_with_t2_alone(t2: float, spacing: float, centre: int) -> None:
    found = echo_amplitude(
        torch.tensor(0.9, dtype=DOUBLE),
        torch.tensor(t2, dtype=DOUBLE),
        refocusing_angles=[math.pi] * 20,
        echo_spacing=spacing,
        centre_index=centre,
    )
    assert float(found) == pytest.approx(math.exp(-centre * spacing / t2), rel=1e-12)


@given(t1=st.floats(0.2, 5.0), t2=st.floats(0.02, 2.0), angle=st.floats(1.0, 3.6), scale=st.floats(0.7, 1.3))
@settings(deadline=None, max_examples=30)
def test_one_pulse_is_the_spin_echo(t1: float, t2: float, angle: float, scale: float) -> None:
    maps = [torch.tensor(value, dtype=DOUBLE) for value in (0.8, t1, t2)]
    train = echo_train(
        *maps, repetition_time=0.6, echo_spacing=0.012, centre_index=1, refocusing_angles=[angle], transmit_scale=scale
    )
    echo = spin_echo(
        *maps,
        repetition_time=0.6,
        echo_time=0.012,
        flip_angle=math.pi / 2,
        refocusing_angle=angle,
        transmit_scale=scale,
    )
    assert float(train) == pytest.approx(float(echo), rel=1e-10, abs=1e-14)


def test_refocusing_factor_scales_the_refocusing_angles_only() -> None:
    maps = [torch.tensor(value, dtype=DOUBLE) for value in (1.0, 0.9, 0.08)]
    settings_ = {"repetition_time": 3.0, "echo_spacing": 0.01, "centre_index": 4}
    scaled = echo_train(*maps, refocusing_angles=[2.0] * 8, refocusing_factor=0.8, **settings_)  # type: ignore[arg-type]
    nominal = echo_train(*maps, refocusing_angles=[1.6] * 8, **settings_)  # type: ignore[arg-type]
    torch.testing.assert_close(scaled, nominal)
