"""Named effects: what each does, and that nothing else changes."""

from __future__ import annotations

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from qmri_core.physics.registry import signal
from qmri_core.series.acquisition import Contrast
from qmri_core.simulation.anatomies import make_anatomy
from qmri_core.simulation.effects import DEFAULT_EFFECTS, Effect, effects_of
from qmri_core.simulation.kspace import Distortion, draw_distortion
from qmri_core.simulation.protocols import protocol_table
from qmri_core.simulation.sessions import _as_run, _mt_power
from qmri_core.simulation.signals import bound_pool_factor, head_signal, ideal_signal, spoiling_correction
from qmri_core.simulation.subjects import draw_subject
from tests.phantoms import phantom_anatomy, phantom_atlas
from tests.simulated import plan_of, quick_session

WHITE, GREY = {"t1": 0.85, "t2": 0.070, "pd": 0.69}, {"t1": 1.35, "t2": 0.095, "pd": 0.82}


def test_names_of_effects() -> None:
    assert effects_of("default") == DEFAULT_EFFECTS
    assert effects_of("none") == frozenset()
    assert effects_of("all") == set(Effect) - {Effect.VESSELS, Effect.CONTRAST_AGENT}
    assert effects_of("+ringing,-noise") == DEFAULT_EFFECTS - {Effect.NOISE} | {Effect.RINGING}
    assert effects_of("noise,ghosts") == {Effect.NOISE, Effect.GHOSTS}
    with pytest.raises(ValueError, match="'blur' is none of default, all, none, noise"):
        effects_of("blur")


@given(st.frozensets(st.sampled_from(Effect)))
@settings(max_examples=30, deadline=None)
def test_names_of_effects_are_read(effects: frozenset[Effect]) -> None:
    assert effects_of(",".join(effects) or "none") == effects


def test_magnetization_transfer_lowers_white_matter_in_2d_trains_alone() -> None:
    head = phantom_anatomy(0)
    losses = {}
    for protocol in protocol_table():
        for series in protocol.series:
            losses[protocol.name, series.contrast] = _mt_power(series)
            if series.header.mr_acquisition_type == "3D" or str(series.acquisition.sequence) == "spin_echo":
                assert _mt_power(series) == 0
    powers = [power for (_, contrast), power in losses.items() if power and contrast is Contrast.T2W]
    loss = [1 - float(bound_pool_factor(torch.ones(()), power)) for power in powers]
    assert min(loss) >= 0.10  # 10 to 25 %: physics notes, section 1
    assert max(loss) <= 0.25
    series = protocol_table()[0].series[1]
    plain, saturated = (np.abs(head_signal(head, series.acquisition, mt_power=power)) for power in (0.0, 1.0))
    kept = [np.median((saturated / np.maximum(plain, 1e-9))[head.fractions[k] > 0.97]) for k in range(3)]
    assert_allclose(kept[0], 1.0, atol=5e-3)  # CSF has no bound pool
    assert_allclose(kept[2], float(bound_pool_factor(torch.ones(()), 1.0)), rtol=0.01)
    assert kept[2] < kept[1] < 0.95


@pytest.mark.parametrize("angle", [120, 150])
def test_slice_profile_changes_contrast_as_the_bloch_integral_does(angle: int) -> None:
    from tests.qmri_core.simulation.test_protocols import SOURCE

    path = SOURCE.with_name("slice_profile_2d.csv")
    if not path.exists():
        pytest.skip("needs ../shared/physics/slice_profile_2d.csv")
    with path.open(encoding="utf-8") as file:
        rows = [
            row for row in csv.DictReader(file)
            if (row["family"], row["tissue"], row["refocus_deg"]) == ("tse2d_t2w", "wm", str(angle))
        ]  # fmt: skip
    low, high = (f(float(row["rel_to_gm"]) for row in rows) for f in (min, max))
    plan = plan_of("G13")
    changes = []
    for protocol in protocol_table():
        series = protocol.series[1]
        if series.acquisition.flip_train or round(math.degrees(series.acquisition.refocusing_angle or 0)) != angle:
            continue
        with_profile = _as_run(plan, series).acquisition
        without = _as_run(replace(plan, effects=DEFAULT_EFFECTS - {Effect.SLICE_PROFILE}), series).acquisition
        assert without.refocusing_factor == 1
        ratios = [ideal_signal(a, **WHITE) / ideal_signal(a, **GREY) for a in (with_profile, without)]
        changes.append(ratios[0] / ratios[1])
    assert low - 0.015 < min(changes) <= max(changes) < high + 0.015


def test_spoiling_correction_is_the_phase_graph_between_its_nodes() -> None:
    acquisition = next(p for p in protocol_table() if p.name == "G15").series[0].acquisition
    acquisition = replace(acquisition, repetition_time=0.05, flip_angle=math.radians(25))  # few states, much left over
    spoiled = replace(acquisition, spoiling_increment=math.radians(50))
    t1, t2, scale = torch.tensor([0.83, 1.31, 0.6]), torch.tensor([0.074, 0.11, 0.05]), torch.tensor([0.93, 1.07, 1.21])
    one = torch.ones(3)
    expected = signal(spoiled, one, t1, t2, transmit_scale=scale) / signal(
        acquisition, one, t1, t2, transmit_scale=scale
    )
    assert_allclose(spoiling_correction(spoiled, t1, t2, scale), expected, rtol=1e-2)
    assert float((expected - 1).abs().max()) > 1e-3


def test_truncation_is_the_fourier_series_without_its_outer_terms() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 1, (2, 24, 3)).astype(np.float32)
    got, imaginary = Distortion(kept=0.5).apply(image)
    assert imaginary is None
    n = np.arange(24)
    kernel = np.ones(24) + 2 * sum(np.cos(2 * np.pi * k * n / 24) for k in range(1, 7))
    expected = np.stack([sum(kernel[(m - j) % 24] * image[:, j] for j in range(24)) / 24 for m in range(24)], axis=1)
    assert_allclose(got, expected, atol=1e-5)
    assert_allclose(got.mean(axis=1), image.mean(axis=1), atol=1e-5)
    edge = np.repeat(np.where(np.abs(np.arange(64) - 32) < 16, 1.0, 0.0)[None, :, None], 2, axis=2).astype(np.float32)
    assert 1.07 < Distortion(kept=0.7).apply(edge)[0].max() < 1.12  # Gibbs: 9 %


def test_motion_moves_what_it_moves_and_makes_ghosts_without_losing_signal() -> None:
    image = np.zeros((1, 64, 4), dtype=np.float32)
    image[0, 20:40] = 1.0
    real, imaginary = Distortion(displacement=3.0, period=1e9, start=math.pi / 2).apply(image)
    assert imaginary is not None
    assert_allclose(np.hypot(real, imaginary), np.roll(image, 3, axis=1), atol=1e-3)  # the same place for all lines
    real, imaginary = Distortion(displacement=0.5, period=4.0).apply(image)
    assert imaginary is not None
    power = (real.astype(float) ** 2 + imaginary.astype(float) ** 2).sum()
    assert_allclose(power, image.sum(), rtol=1e-5)
    outside = np.hypot(real, imaginary)[0, np.r_[0:16, 44:64]]
    assert 0.01 < outside.max() < 0.5


def test_ringing_is_on_half_of_the_series_and_ghosts_on_a_quarter() -> None:
    drawn = [draw_distortion(np.random.default_rng(k), has_ringing=True, has_ghosts=True) for k in range(400)]
    assert 0.42 < np.mean([one is not None and one.kept < 1 for one in drawn]) < 0.58
    assert 0.18 < np.mean([one is not None and one.displacement > 0 for one in drawn]) < 0.32
    assert draw_distortion(np.random.default_rng(0), has_ringing=False, has_ghosts=False) is None


def test_age_widens_ventricles_and_a_tumour_is_large_and_bright() -> None:
    young, old, any_age = (draw_subject(5, age=age) for age in (25.0, 85.0, None))
    assert young.ventricles < any_age.ventricles < old.ventricles
    assert young.atrophy < old.atrophy
    assert old.values["wm"].t1 > young.values["wm"].t1
    assert old.values["putamen"].t2 < young.values["putamen"].t2
    assert old.scale == young.scale
    atlas = phantom_atlas(6.0)
    healthy, ill = (make_anatomy(atlas, seed=5, resolution=6.0, has_tumour=has) for has in (False, True))
    changed = np.abs(ill.t2 - healthy.t2) > 0.02
    millilitres = changed.sum() * 0.216
    assert 3 < millilitres < 120
    assert_allclose(ill.fractions.sum(axis=0), healthy.fractions.sum(axis=0), atol=1e-4)


def test_without_effects_a_session_is_still_and_clean() -> None:
    plan = replace(plan_of("G13"), effects=frozenset())
    session = quick_session(plan)
    assert {tuple(series.pose.ravel()) for series in session.images} == {tuple(session.pose.ravel())}
    for series in session.images:
        values = series.volumes[0].array
        assert np.mean(values == 0) > 0.1  # air without noise
    other = quick_session(replace(plan, effects=DEFAULT_EFFECTS))
    assert other.images[0].volumes[0].array.min() > 0
