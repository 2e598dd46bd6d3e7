"""Scales of groups and sessions."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qmri_core.calibration.population import FieldStrengthError, Tissue, pd_relation, population
from qmri_core.calibration.scales import (
    PRIOR_SPREADS,
    CalibrationError,
    ScaleCalibration,
    Signals,
    calibrate_group,
    reference_signal,
    scale_spreads,
    session_person,
    session_scales,
    tissue_signals,
)
from qmri_core.calibration.session_model import (
    FURTHEST_LEVEL,
    LEVELS,
    MOST_WIDENED,
    Spreads,
    expected_slopes,
    is_likely,
    measurement_error,
    observations,
    posterior,
)
from qmri_core.mapping.checkpoint import UNDETERMINED_OF_VERSION_2
from qmri_core.physics.registry import signal
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.tissues import MEMBERS
from tests.protocols import plain_protocol

PROTOCOL = plain_protocol()
VALUES = population(3.0)
LEFT = UNDETERMINED_OF_VERSION_2


def draw(
    n: int, spread: float, *, common: float = 0.05, people: float = 1.0, seed: int = 0
) -> tuple[list[Signals], NDArray[np.float64]]:
    """As `drawn`, without the people."""
    sessions, true, _ = drawn(n, spread, common=common, people=people, seed=seed)
    return sessions, true


def drawn(
    n: int, spread: float, *, common: float = 0.05, people: float = 1.0, seed: int = 0
) -> tuple[list[Signals], NDArray[np.float64], dict[str, tuple[NDArray[np.float64], ...]]]:
    """Signals of people by the accurate models, the true log scales of their series about log 100; PD, T1, T2."""
    rng = np.random.default_rng(seed)
    true = spread * rng.standard_normal((n, 3)) + common * rng.standard_normal((n, 1))
    both = rng.standard_normal((n, 2))
    offset, slope = pd_relation(VALUES)
    values: dict[str, tuple[NDArray[np.float64], ...]] = {}
    for tissue, member in MEMBERS.items():
        one: Tissue = getattr(VALUES, member)
        own = rng.standard_normal((n, 3))
        mixed = own[:, :2] if tissue == "CSF" else math.sqrt(0.5) * (both + own[:, :2])
        t1 = one.t1 * np.exp(people * one.t1_spread * mixed[:, 0])
        t2 = one.t2 * np.exp(people * one.t2_spread * mixed[:, 1])
        pd = one.pd * (1 if tissue == "CSF" else (offset + slope / one.t1) / (offset + slope / t1))
        values[tissue] = (pd * np.exp(people * 0.015 * own[:, 2]), t1, t2)
    sessions: list[Signals] = []
    found = {
        (contrast, tissue): signal(PROTOCOL[contrast], *(torch.from_numpy(v) for v in values[tissue])).abs().numpy()
        for contrast in PROTOCOL
        for tissue in MEMBERS
    }
    for row in range(n):
        sessions.append(
            {
                contrast: {
                    tissue: float(
                        100
                        * found[contrast, tissue][row]
                        * np.exp(true[row, k] + _error(contrast, tissue) * rng.standard_normal())
                    )
                    for tissue in MEMBERS
                }
                for k, contrast in enumerate(PROTOCOL)
            }
        )
    return sessions, true, values


def _error(contrast: Contrast, tissue: str) -> float:
    return measurement_error(contrast, tissue) if (contrast, tissue) in observations(PROTOCOL) else 0.0


def scaled(session: Signals, factors: dict[Contrast, float]) -> Signals:
    return {c: {tissue: value * factors[c] for tissue, value in own.items()} for c, own in session.items()}


def errors(
    found: dict[Contrast, ScaleCalibration], sessions: list[Signals], true: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Standard deviation of estimated over true log scales, by contrast."""
    estimated = np.log([list(session_scales(found, session, PROTOCOL).values()) for session in sessions])
    result: NDArray[np.float64] = (estimated - np.log([one.scale for one in found.values()]) - true).std(axis=0)
    return result


def test_the_group_scale_brings_the_mean_white_matter_to_the_reference() -> None:
    sessions, _ = draw(40, 0.05)
    found = calibrate_group(sessions, PROTOCOL, PRIOR_SPREADS)
    for contrast, one in found.items():
        mean = np.exp(np.mean([np.log(session[contrast]["WM"]) for session in sessions]))
        assert one.scale * reference_signal(PROTOCOL[contrast], VALUES) == pytest.approx(mean)
        assert one.n_sessions == 40


def test_the_spread_of_scales_is_told_from_that_of_people() -> None:
    for spread, common in ((0.02, 0.05), (0.03, 0.08), (0.10, 0.02)):
        sessions, _ = draw(600, spread, common=common, seed=3)
        found = scale_spreads([(sessions[:300], PROTOCOL), (sessions[300:], PROTOCOL)])
        for contrast in PROTOCOL:
            assert found.own[contrast] == pytest.approx(spread, abs=0.006, rel=0.15)
        assert found.common == pytest.approx(common, abs=0.01, rel=0.2)


def test_session_scales_are_nearer_to_the_truth_than_the_group_and_than_white_matter_alone() -> None:
    """Drawn from the accurate models, not from the linear model that the estimate uses."""
    sessions, true = draw(400, 0.03, seed=5)
    found = calibrate_group(sessions, PROTOCOL, PRIOR_SPREADS)
    white = np.log([[session[contrast]["WM"] for contrast in PROTOCOL] for session in sessions])
    white -= white.mean(axis=0)
    for k in range(3):
        error = errors(found, sessions, true)[k]
        slope = np.polyfit(true[:, k], white[:, k], 1)[0]
        by_white_matter = np.std(white[:, k] * slope * np.var(true[:, k]) / np.var(white[:, k]) - true[:, k])
        assert error < 0.5 * np.std(true[:, k])
        assert error < 0.95 * by_white_matter


def test_the_stated_share_is_what_the_signals_determine() -> None:
    sessions, true = draw(800, 0.03, seed=6)
    found = calibrate_group(sessions, PROTOCOL, PRIOR_SPREADS)
    for one, error in zip(found.values(), errors(found, sessions, true), strict=True):
        left = error**2 / (0.03**2 + 0.05**2)
        assert 1 - one.determined == pytest.approx(left, abs=0.08)


def test_deviations_far_beyond_biology_are_scale() -> None:
    sessions, true = draw(60, 0.5, people=0.5)
    found = calibrate_group(sessions, PROTOCOL, PRIOR_SPREADS)
    for session, row in zip(sessions[:10], true[:10], strict=True):
        for scale, log_scale in zip(session_scales(found, session, PROTOCOL).values(), row, strict=True):
            assert scale == pytest.approx(100 * math.exp(log_scale), rel=0.15)


@settings(max_examples=15, deadline=None)
@given(factors=st.tuples(*[st.floats(0.01, 100.0)] * 3))
def test_the_unit_of_a_series_does_not_matter(factors: tuple[float, float, float]) -> None:
    sessions, _ = draw(6, 0.05)
    by = dict(zip(PROTOCOL, factors, strict=True))
    found = calibrate_group(sessions, PROTOCOL, PRIOR_SPREADS)
    other = calibrate_group([scaled(session, by) for session in sessions], PROTOCOL, PRIOR_SPREADS)
    for contrast in PROTOCOL:
        assert other[contrast].spread == pytest.approx(found[contrast].spread)
        assert other[contrast].scale == pytest.approx(found[contrast].scale * by[contrast])
    one, two = session_scales(found, sessions[0], PROTOCOL), session_scales(other, scaled(sessions[0], by), PROTOCOL)
    for contrast in PROTOCOL:
        assert two[contrast] == pytest.approx(one[contrast] * by[contrast])


def test_one_session_alone_keeps_the_cohort_spread_and_its_group_scale() -> None:
    (session,), _ = draw(1, 0.05)
    nothing: Signals = {contrast: dict.fromkeys(MEMBERS, math.nan) for contrast in PROTOCOL}
    found = calibrate_group([session, nothing], PROTOCOL, PRIOR_SPREADS)
    for contrast, one in found.items():
        assert one.n_sessions == 1
        assert (one.spread, one.common_spread) == (pytest.approx(0.05), pytest.approx(0.05))
        assert session_scales(found, session, PROTOCOL)[contrast] == pytest.approx(one.scale)
        assert session_scales(found, nothing, PROTOCOL)[contrast] == pytest.approx(one.scale)


def mistaken(session: Signals) -> Signals:
    """As if fluid had been segmented as white matter; seen: T1w half as bright, T2w twice, FLAIR a third."""
    factors = dict(zip(PROTOCOL, (0.62, 2.4, 0.42), strict=True))
    return {c: {**own, "WM": own["WM"] * factors[c]} for c, own in session.items()}


def test_a_session_whose_tissues_were_mistaken_moves_no_other() -> None:
    sessions, _ = draw(8, 0.03, seed=12)
    found, without = (
        calibrate_group(some, PROTOCOL, PRIOR_SPREADS)
        for some in ([*sessions[1:], mistaken(sessions[0])], sessions[1:])
    )
    for contrast, one in found.items():
        expected = asdict(without[contrast]) | {"n_left_out": 1}
        np.testing.assert_equal(asdict(one), expected)  # NaN, of an unknown signal, is as NaN
        assert (one.n_sessions, without[contrast].n_left_out) == (7, 0)
    assert scale_spreads([([*sessions[1:], mistaken(sessions[0])], PROTOCOL)]) == scale_spreads(
        [(sessions[1:], PROTOCOL)]
    )
    of_group = {contrast: one.scale for contrast, one in found.items()}
    assert session_scales(found, mistaken(sessions[0]), PROTOCOL) == pytest.approx(of_group)
    assert not session_person(found, mistaken(sessions[0]), PROTOCOL).determined.any()
    assert session_person(found, sessions[1], PROTOCOL).determined.all()


def test_of_two_sessions_that_disagree_none_is_left_out() -> None:
    sessions, _ = draw(2, 0.03, seed=12)
    found = calibrate_group([mistaken(sessions[0]), sessions[1]], PROTOCOL, PRIOR_SPREADS)
    assert all(one.n_sessions == 2 for one in found.values())


def test_people_as_the_population_has_them_are_likely_in_any_scale() -> None:
    sessions, _ = draw(2000, 3.0, seed=13)
    logs = np.asarray([[math.log(session[c][tissue]) for c, tissue in observations(PROTOCOL)] for session in sessions])
    deviations = logs - np.median(logs, axis=0)
    assert is_likely(deviations, PROTOCOL).sum() >= 1998  # one in a million by the linear model; drawn by the accurate
    deviations[:, 0] = np.nan
    assert is_likely(deviations, PROTOCOL).sum() >= 1998
    assert is_likely(np.full((1, 8), np.nan), PROTOCOL).all()


def test_inverted_fluid_is_no_measure() -> None:
    """Of T1-FLAIR: the sign is lost, and tissue in the voxels cancels it."""
    flair = replace(PROTOCOL[Contrast.FLAIR], contrast=Contrast.T1W, repetition_time=2.5, inversion_time=0.9)
    protocol = {**PROTOCOL, Contrast.T1W: flair}
    sessions, _ = draw(6, 0.03)
    wild = [{**session, Contrast.T1W: {**session[Contrast.T1W], "CSF": 3.0**k}} for k, session in enumerate(sessions)]
    found, other = (calibrate_group(some, protocol, PRIOR_SPREADS) for some in (wild, sessions))
    assert found[Contrast.T1W].n_sessions == 6
    assert math.isnan(found[Contrast.T1W].csf_signal)
    assert found[Contrast.T1W].scale == other[Contrast.T1W].scale


def test_signals_that_are_missing_are_left_out() -> None:
    sessions, true = draw(200, 0.03)
    without = [{c: {**own, "CSF": math.nan, "GM": 0.0} for c, own in session.items()} for session in sessions]
    found = calibrate_group(without, PROTOCOL, PRIOR_SPREADS)
    assert all(math.isnan(one.csf_signal) and math.isnan(one.grey_matter_signal) for one in found.values())
    assert all(math.isfinite(scale) for scale in session_scales(found, without[0], PROTOCOL).values())
    full = calibrate_group(sessions, PROTOCOL, PRIOR_SPREADS)
    assert errors(full, sessions, true).mean() < 0.95 * errors(found, without, true).mean()


def test_people_are_told_apart_as_far_as_stated_and_widened_to_true_differences() -> None:
    """Drawn from the accurate models; regressions over people are the oracle."""
    sessions, _, values = drawn(1500, 0.03, seed=8)
    found = calibrate_group(sessions, PROTOCOL, PRIOR_SPREADS)
    people = [session_person(found, session, PROTOCOL) for session in sessions]
    for level, (tissue, quantity) in enumerate(LEVELS):
        true = np.log(values[tissue][1 if quantity == "t1" else 2])
        mean = np.asarray([one.mean[level] for one in people])
        widened = np.asarray([one.widened[level] for one in people])
        share, spread = people[0].determined[level], people[0].spread[level]
        assert np.polyfit(true, mean, 1)[0] == pytest.approx(share, abs=0.06)
        assert np.polyfit(mean, true, 1)[0] == pytest.approx(1, abs=0.1)  # a posterior mean
        assert np.polyfit(true, widened, 1)[0] == pytest.approx(min(1, MOST_WIDENED * share), abs=0.1)
        error = np.std(widened - true)
        assert error < 1.05 * np.std(true)  # no worse than the group's mean for everyone
        of_network = spread * math.sqrt(min(1 - share, LEFT[level]))
        stated = math.hypot(of_network, people[0].widened_sd(LEFT)[level])
        assert stated == pytest.approx(error, rel=0.08)


def test_a_person_who_comes_often_counts_as_one() -> None:
    """The oracle is the variance of the mean: of visits alone it does not fall."""
    sessions, _ = draw(12, 0.05)
    people = ["a"] * 10 + ["b", "c"]
    alone, often = (calibrate_group(sessions, PROTOCOL, PRIOR_SPREADS, people=who) for who in (None, people))
    assert alone[Contrast.T1W].n_people == pytest.approx(len(sessions), rel=2e-3)  # one of them counts 0.9
    shares = np.array([10, 1, 1]) / 12
    assert often[Contrast.T1W].n_people == pytest.approx(1 / np.sum(shares**2), rel=0.03)
    assert often[Contrast.T1W].scale == alone[Contrast.T1W].scale
    few, many = (session_person(found, sessions[0], PROTOCOL) for found in (often, alone))
    is_unbiased = few.determined > 1 / MOST_WIDENED  # else the error is that of the group's mean, of few or of many
    assert is_unbiased.any()
    assert np.all((few.widened_sd(LEFT) > 1.01 * many.widened_sd(LEFT)) == is_unbiased)
    nothing: Signals = {contrast: dict.fromkeys(MEMBERS, math.nan) for contrast in PROTOCOL}
    unusable = calibrate_group([*sessions, nothing], PROTOCOL, PRIOR_SPREADS, people=[*people, "d"])
    assert unusable[Contrast.T1W].n_people == often[Contrast.T1W].n_people


def test_of_one_session_alone_nothing_is_known_of_its_person() -> None:
    (session,), _ = draw(1, 0.05)
    one = session_person(calibrate_group([session], PROTOCOL, PRIOR_SPREADS), session, PROTOCOL)
    np.testing.assert_allclose(one.mean, 0, atol=1e-12)
    of_network = one.spread**2 * np.minimum(1 - one.determined, LEFT)
    np.testing.assert_allclose(of_network + one.widened_sd(LEFT) ** 2, one.spread**2)


def test_a_series_in_another_unit_makes_no_other_person() -> None:
    sessions, _ = draw(40, 0.03, seed=9)
    found = calibrate_group(sessions, PROTOCOL, PRIOR_SPREADS)
    one = session_person(found, scaled(sessions[0], dict.fromkeys(PROTOCOL, 4096.0)), PROTOCOL)
    assert np.all(np.abs(one.mean) <= FURTHEST_LEVEL * one.spread)
    nothing: Signals = {contrast: dict.fromkeys(MEMBERS, math.nan) for contrast in PROTOCOL}
    none = session_person(found, nothing, PROTOCOL)
    assert not none.mean.any()
    assert not none.determined.any()


def test_what_signals_hardly_determine_is_widened_no_further_than_twice() -> None:
    sessions, _ = draw(50, 0.3, common=0.3, seed=9)
    found = calibrate_group(sessions, PROTOCOL, Spreads(own=dict.fromkeys(PROTOCOL, 0.3), common=0.3))
    dark: Signals = {c: {"WM": own["WM"], "GM": math.nan, "CSF": math.nan} for c, own in sessions[0].items()}
    one = session_person(found, dark, PROTOCOL)
    assert one.determined.min() < 1 / MOST_WIDENED**2
    assert np.all(np.abs(one.widened) <= MOST_WIDENED * np.abs(one.mean) * (1 + 1e-12))


def test_the_expected_slope_is_that_of_regression_on_drawn_people() -> None:
    """Oracle: ordinary least squares of log T1 and T2 on the log signals of people drawn by the accurate models."""
    sessions, _, people = drawn(3000, 0.03, seed=8)
    for tissues in (("WM",), ("WM", "GM", "CSF")):
        found = expected_slopes(PROTOCOL, 0.03, tissues=tissues)
        names = [(contrast, tissue) for contrast, tissue in observations(PROTOCOL) if tissue in tissues]
        logs = np.log([[session[contrast][tissue] for contrast, tissue in names] for session in sessions])
        logs -= logs.mean(axis=0)
        for (tissue, quantity), expected in found.items():
            truth = np.log(people[tissue][("pd", "t1", "t2").index(quantity)])
            truth -= truth.mean()
            fitted = logs @ np.linalg.lstsq(logs, truth, rcond=None)[0]
            assert expected == pytest.approx(np.var(fitted) / np.var(truth), abs=0.06), (tissues, tissue, quantity)
    stable, loose = (expected_slopes(PROTOCOL, spread)["WM", "t1"] for spread in (0.005, 0.10))
    assert loose < found["WM", "t1"] < stable


def test_a_dimmer_series_is_scale_when_all_its_tissues_are_dimmer_alike() -> None:
    """And less so when only white matter is."""
    zeros = np.zeros(len(observations(PROTOCOL)))
    all_tissues, white = zeros.copy(), zeros.copy()
    for index, (contrast, tissue) in enumerate(observations(PROTOCOL)):
        if contrast is Contrast.T1W:
            all_tissues[index] = -0.06
            white[index] = -0.06 if tissue == "WM" else 0.0
    spreads = Spreads(own=dict.fromkeys(PROTOCOL, 0.04), common=0.01)
    at = list(PROTOCOL).index(Contrast.T1W)
    both, by_white = posterior(np.stack([all_tissues, white]), PROTOCOL, spreads).shifts
    assert -0.06 < both[at] < -0.03
    assert abs(by_white[at]) < 0.8 * abs(both[at])


def test_what_all_series_share_is_common() -> None:
    """Brighter in every series and tissue alike, as by a receive sensitivity."""
    spreads = Spreads(own=dict.fromkeys(PROTOCOL, 0.03), common=0.06)
    brighter = np.full((1, len(observations(PROTOCOL))), 0.06)
    found = posterior(brighter, PROTOCOL, spreads)
    assert found.parts[0, -1] > 0.04
    assert np.abs(found.parts[0, :-1]).max() < 0.01
    np.testing.assert_allclose(found.shifts, found.parts[:, :-1] + found.parts[:, -1:])


def test_nothing_to_go_by_is_an_error() -> None:
    nothing: Signals = {contrast: {"WM": 0.0} for contrast in PROTOCOL}
    with pytest.raises(CalibrationError, match="T1w"):
        calibrate_group([nothing], PROTOCOL, PRIOR_SPREADS)
    other: dict[Contrast, Acquisition] = {c: replace(a, field_strength=7.0) for c, a in PROTOCOL.items()}
    with pytest.raises(FieldStrengthError):
        calibrate_group(draw(2, 0.05)[0], other, PRIOR_SPREADS)


def test_tissue_signals_are_typical_of_their_cores() -> None:
    tissue = np.full((14, 14, 14), 3, dtype=np.uint8)
    tissue[7:] = 2
    image = np.where(tissue == 3, 5.0, 100.0).astype(np.float32)
    image[:, 0] = np.nan
    found = tissue_signals({Contrast.T1W: image}, tissue)[Contrast.T1W]
    assert (found["WM"], found["GM"]) == (5.0, pytest.approx(100.0))
    assert math.isnan(found["CSF"])
    few = np.zeros((14, 14, 14), dtype=np.uint8)
    few[4:7, 4:7, 4:7] = 3
    assert math.isnan(tissue_signals({Contrast.T1W: image}, few)[Contrast.T1W]["WM"])
