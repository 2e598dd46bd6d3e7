"""Sessions on another scale: they are found, and become nothing to the others. Signals of drawn people, no images."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from qmri_core.calibration.estimation import COMMON, Prior, estimate, weighted_means
from qmri_core.calibration.levels import LevelGroup
from qmri_core.calibration.odd_scales import Part, odd_parts, session_weights, with_odd
from qmri_core.calibration.scales import (
    PRIOR_SPREADS,
    ScaleCalibration,
    Signals,
    calibrate_group,
    is_nobodys,
    level_group,
    odd_scales,
    scale_spreads,
    session_person,
    session_scales,
)
from qmri_core.calibration.session_model import Spreads, observations
from qmri_core.mapping.inference import session_maps
from qmri_core.series.acquisition import CONTRASTS, Contrast
from qmri_core.tissues import MEMBERS
from tests.qmri_core.calibration.test_scales import PROTOCOL, draw, mistaken, scaled

T2W = {Contrast.T2W}
ALL = set(CONTRASTS)
FACTORS = (0.1, 1.5, 2.0)
SPREAD = 0.03
MOST_BEYOND = 0.025
"""Most that mild factors that are not found do to the others, beyond what leaving the odd ones out does."""


def planted(
    sessions: Sequence[Signals], odd: Collection[int], series: Collection[Contrast], by: float
) -> list[Signals]:
    """The sessions, those of ``odd`` with some series times a factor."""
    factors = {contrast: by if contrast in series else 1.0 for contrast in PROTOCOL}
    return [scaled(one, factors) if number in odd else one for number, one in enumerate(sessions)]


def calibrated(
    sessions: Sequence[Signals], suspects: Sequence[bool] | None = None, others: Sequence[Sequence[Signals]] = ()
) -> dict[Contrast, ScaleCalibration]:
    """As in a store of this group, alone or beside others."""
    doubts = None if suspects is None else [suspects, *([False] * len(one) for one in others)]
    cohort = scale_spreads([(one, PROTOCOL) for one in (sessions, *others)], suspects=doubts)
    return calibrate_group(sessions, PROTOCOL, cohort, suspects=suspects)


def as_level_group(sessions: Sequence[Signals], people: Sequence[str]) -> LevelGroup:
    return level_group(
        sessions,
        PROTOCOL,
        people,
        clinics=["a"] * len(sessions),
        covariates=np.zeros((len(sessions), 3)),
        scanner="a",
    )


def found(calibration: Mapping[Contrast, ScaleCalibration], sessions: Sequence[Signals]) -> set[int]:
    return {number for number, one in enumerate(sessions) if odd_scales(calibration, one, PROTOCOL)}


def levels(calibration: Mapping[Contrast, ScaleCalibration], sessions: Sequence[Signals]) -> NDArray[np.float64]:
    """T1, T2 and PD of white and grey matter by the voxelwise estimate, shape (map, session, tissue)."""
    scales = [session_scales(calibration, one, PROTOCOL) for one in sessions]
    images = {
        contrast: np.asarray(
            [
                [
                    [one[contrast][name] / of[contrast] for name in ("WM", "GM")]
                    for one, of in zip(sessions, scales, strict=True)
                ]
            ],
            dtype=np.float32,
        )
        for contrast in PROTOCOL
    }
    mask = np.ones((1, len(sessions), 2), dtype=np.uint8)
    maps = session_maps(None, images, mask, PROTOCOL, dict.fromkeys(PROTOCOL, 1.0))
    return np.asarray([maps.t1[0], maps.t2[0], maps.pd[0]], dtype=np.float64)


@dataclass
class Trial:
    """What odd sessions do to the others' maps, and which were found."""

    moved: float
    """Largest change of a map of the others, beside leaving the odd ones out."""
    beyond: float
    """By how much a map changes more, beside the same group with all scales right, than by leaving the odd ones out."""
    by_leaving_out: float
    """Largest change by leaving them out, of a group with all scales right."""
    found: set[int]
    hits: float
    """Share of the odd sessions that were found; where half is odd, of the half that is called so."""
    false: float
    """Share of the others that were taken for odd ones."""
    error: float
    """Largest, of the log scale of an odd series."""


def trial(n: int, odd: Collection[int], series: Collection[Contrast], by: float, *, seed: int) -> Trial:
    [one] = trials(n, odd, series, [by], seed=seed)
    return one


def trials(
    n: int,
    odd: Collection[int],
    series: Collection[Contrast],
    factors: Sequence[float],
    *,
    seed: int,
    others: Sequence[Sequence[Signals]] = (),
) -> list[Trial]:
    """Of each factor; ``others`` are the right groups of the cohort beside it."""
    sessions, true = draw(n, SPREAD, seed=seed)
    right = calibrated(sessions, others=others)
    halves = {tuple(sorted(some)): some for some in (set(odd), set(range(n)) - set(odd))}
    # of two halves, either may stand for the group
    rests = {key: [sessions[k] for k in range(n) if k not in some] for key, some in halves.items()}
    alone = {
        key: levels(calibrated(rest, others=others), rest)
        for key, rest in rests.items()
        if set(key) == set(odd) or 2 * len(odd) == n
    }
    result = []
    for by in factors:
        now = planted(sessions, odd, series, by)
        calibration = calibrated(now, others=others)
        named = found(calibration, now)
        key = max(alone, key=lambda key: len(named & set(key)))
        kept = [now[k] for k in range(n) if k not in key]
        without, before, after = alone[key], levels(right, rests[key]), levels(calibration, kept)
        moved, natural = np.abs(after / without - 1), np.abs(without / before - 1)
        beyond = np.minimum(moved, np.maximum(np.abs(after / before - 1) - natural, 0.0))
        errors = [
            math.log(session_scales(calibration, now[number], PROTOCOL)[contrast] / (100 * by)) - true[number, column]
            for number in odd
            for column, contrast in enumerate(PROTOCOL)
            if contrast in series
        ]
        hits = len(named & set(key)) / len(key)
        result.append(
            Trial(
                moved=float(moved.max()),
                beyond=float(beyond.max()),
                by_leaving_out=float(natural.max()),
                found=named,
                hits=hits,
                false=len(named - set(key)) / (n - len(key)),
                error=max(map(abs, errors)),
            )
        )
    return result


@pytest.mark.parametrize("by", FACTORS)
@pytest.mark.parametrize(
    ("n", "odd", "series"),
    [
        (6, {2}, T2W),
        (6, {0, 5}, T2W),
        (40, {7}, T2W),
        (6, {1}, {Contrast.T1W, Contrast.T2W}),
        (6, {3}, ALL),
        (3, {1}, ALL),
    ],
)
def test_odd_sessions_move_no_other(n: int, odd: set[int], series: set[Contrast], by: float) -> None:
    if n < 6 and 0.5 < by < 2:
        pytest.skip("of three sessions none is odd by half as much")
    one = trial(n, odd, series, by, seed=4)
    assert one.found == odd
    assert one.moved < 1e-6  # the others are calibrated by themselves
    assert one.error < 0.12


@pytest.mark.parametrize("by", [0.1, 2.0, 10.0])
def test_of_two_halves_of_a_group_one_stands_for_it(by: float) -> None:
    """The T2w of half the sessions on another scale: which half is right is unknown, but each agrees in itself."""
    for n in (6, 24):
        half = set(range(n // 2))
        sessions, _ = draw(n, SPREAD, seed=9)
        now = planted(sessions, half, T2W, by)
        calibration = calibrated(now)
        odd = found(calibration, now)
        assert odd in (half, set(range(n)) - half)
        kept = [one for number, one in enumerate(now) if number not in odd]
        np.testing.assert_array_equal(levels(calibration, kept), levels(calibrated(kept), kept))


@pytest.mark.parametrize(("n", "odd"), [(24, range(12)), (24, range(3, 11))])
@pytest.mark.parametrize(("series", "by"), [(T2W, 1.3), ({Contrast.FLAIR}, 1 / 1.3)])
def test_a_mild_factor_that_many_share_is_found(n: int, odd: range, series: set[Contrast], by: float) -> None:
    """None is odd for itself: it lies as close to the mean of all as the others do."""
    one = trial(n, set(odd), series, by, seed=3)
    rest = set(range(n)) - set(odd)
    assert one.moved < 1e-6  # those that count are one half
    assert len(one.found) >= 0.8 * len(odd)
    assert not one.found & set(odd) or not one.found & rest


@pytest.mark.parametrize("n", [4, 6, pytest.param(12, marks=pytest.mark.walk)])
def test_where_every_scale_is_arbitrary_none_is_odd(n: int) -> None:
    """Of 6 groups of as many sessions, whose scales vary by 30 %, few are marked; all count."""
    marked = 0
    for seed in range(6):
        sessions, _ = draw(n, 0.3, common=0.3, seed=50 + seed)
        calibration = calibrated(sessions)
        marked += len(found(calibration, sessions))
    assert marked <= 0.1 * 6 * n


@pytest.mark.parametrize(("n", "odd"), [(6, {2}), (90, {2, 80})])
def test_the_order_of_sessions_does_not_matter(n: int, odd: set[int]) -> None:
    sessions, _ = draw(n, SPREAD, seed=21)
    now = planted(sessions, odd, T2W, 1.35)
    people = [f"sub-{number // 2}" for number in range(n)]
    order = np.random.default_rng(0).permutation(n).tolist()
    one, other = (
        calibrate_group(
            [now[k] for k in each],
            PROTOCOL,
            PRIOR_SPREADS,
            people=[people[k] for k in each],
            suspects=[k < 2 for k in each],
        )
        for each in (range(n), order)
    )
    for contrast in PROTOCOL:
        assert numbers(one[contrast]) == pytest.approx(numbers(other[contrast]), rel=1e-10, nan_ok=True)
    prior = Prior(spreads=PRIOR_SPREADS, weight=12.0)
    logs = np.log([[own[c][tissue] for c, tissue in observations(PROTOCOL)] for own in now])
    weights = session_weights(logs, PROTOCOL, prior)
    np.testing.assert_array_equal(session_weights(logs[order], PROTOCOL, prior), weights[order])


def test_who_may_be_odd_counts_less_the_more_it_is() -> None:
    """The weight falls from 1 to 0 without a step as the factor grows, and no other's does."""
    sessions, _ = draw(6, SPREAD, seed=4)
    names, prior = observations(PROTOCOL), Prior(spreads=PRIOR_SPREADS, weight=12.0)
    seen = []
    for by in np.exp(np.linspace(0, 0.6, 61)).tolist():
        logs = np.log([[own[c][tissue] for c, tissue in names] for own in planted(sessions, {2}, T2W, by)])
        weights = session_weights(logs, PROTOCOL, prior)
        assert set(np.delete(weights, 2)) == {1.0}
        seen.append(weights[2])
    assert (seen[0], seen[-1]) == (1.0, 0.0)
    assert np.all(np.diff(seen) <= 0)
    assert sum(0 < one < 1 for one in seen) >= 3


def test_weights_are_those_of_sessions_that_are_there_in_part() -> None:
    """Oracle: a session of weight two is there twice; one of weight nothing is not there."""
    sessions, _ = draw(5, SPREAD, seed=2)
    logs = np.log([[own[c][tissue] for c, tissue in observations(PROTOCOL)] for own in sessions])
    logs[1, 2] = np.nan
    weights = np.asarray([1.0, 2.0, 1.0, 0.0, 1.0])
    np.testing.assert_allclose(weighted_means(logs, weights), np.nanmean(logs[[0, 1, 1, 2, 4]], axis=0), rtol=1e-12)
    prior = Prior(spreads=PRIOR_SPREADS, weight=4.0)
    none = np.asarray([1.0, 1.0, 1.0, 0.0, 1.0])
    (means, spreads), (other, same) = (
        estimate(logs, PROTOCOL, prior, none),
        estimate(logs[[0, 1, 2, 4]], PROTOCOL, prior, np.ones(4)),
    )
    np.testing.assert_allclose(means, other, rtol=1e-12)
    assert spreads.common == pytest.approx(same.common, rel=1e-9)
    assert spreads.own == pytest.approx(same.own, rel=1e-9)


def test_headers_say_which_half_is_the_group() -> None:
    sessions, _ = draw(6, SPREAD, seed=9)
    for half in ({0, 1, 2}, {1, 3, 5}):
        now = planted(sessions, half, T2W, 0.04)
        assert found(calibrated(now, [number in half for number in range(6)]), now) == half
    more, _ = draw(9, SPREAD, seed=9)
    for series, by in ((T2W, 0.04), ({Contrast.T1W}, 1.6)):  # most lack the factor; those that have it are the group
        now = planted(more, range(6), series, by)
        assert found(calibrated(now, [number < 6 for number in range(9)]), now) == set(range(6))
    pair = planted(sessions[:2], {1}, T2W, 0.04)
    assert found(calibrated(pair, [False, True]), pair) == {1}
    assert found(calibrated(pair), pair) == set()  # of two nobody can say


def numbers(calibration: ScaleCalibration) -> dict[str, float]:
    left = ("hidden", "level", "n_left_out")
    return {name: value for name, value in asdict(calibration).items() if name not in left}


def test_a_suspect_that_agrees_is_one_of_the_group() -> None:
    sessions, _ = draw(6, SPREAD, seed=9)
    plain = calibrated(sessions)
    for suspects in ([True] * 6, [True] + [False] * 5):
        for contrast, one in calibrated(sessions, suspects).items():
            assert numbers(one) == pytest.approx(numbers(plain[contrast]), rel=1e-12, nan_ok=True)


def test_without_an_odd_session_nothing_changes() -> None:
    """Spreads from 1 to 50 %: the means are those of all, to the last bit."""
    for seed, (n, spread) in enumerate([(3, 0.01), (6, 0.02), (6, 0.03), (12, 0.03), (40, 0.05), (60, 0.1), (60, 0.5)]):
        sessions, _ = draw(n, spread, seed=seed)
        for contrast, one in calibrated(sessions).items():
            logs = np.log([session[contrast]["WM"] for session in sessions])
            assert one.n_sessions == n
            assert math.log(one.white_matter_signal) == pytest.approx(logs.mean(), abs=1e-12)


def test_right_sessions_are_rarely_odd() -> None:
    """Of 600 in groups of 40, drawn by the accurate models, at most 2."""
    taken = 0
    for seed in range(15):
        sessions, _ = draw(40, SPREAD, seed=100 + seed)
        taken += len(found(calibrated(sessions), sessions))
    assert taken <= 2


def test_an_odd_session_is_no_one_in_hidden_parameters_and_spreads() -> None:
    sessions, _ = draw(6, SPREAD, seed=4)
    people = list("abcdef")
    now = planted(sessions, {2}, T2W, 0.04)
    rest = [one for number, one in enumerate(sessions) if number != 2]
    one, other = (as_level_group(some, who) for some, who in ((now, people), (rest, list("abdef"))))
    assert (one.people, one.spreads) == (other.people, other.spreads)
    np.testing.assert_array_equal(one.logs, other.logs)
    assert scale_spreads([(now, PROTOCOL)]) == scale_spreads([(rest, PROTOCOL)])
    fluid = [{c: {**own, "CSF": math.nan} for c, own in one.items()} if k % 2 else one for k, one in enumerate(now)]
    assert found(calibrated(fluid), fluid) == {2}  # where few sessions have a tissue, its mean is of those few
    assert not any(is_nobodys(calibrated(fluid), one, PROTOCOL) for one in fluid)


def test_the_factor_is_told_and_the_person_is_known_less() -> None:
    sessions, _ = draw(12, SPREAD, seed=6)
    for series, by, part in ((T2W, 0.1, Contrast.T2W), ({Contrast.FLAIR}, 3.0, Contrast.FLAIR), (ALL, 10.0, COMMON)):
        now = planted(sessions, {4}, series, by)
        calibration = calibrated(now)
        factors: Mapping[Part, float] = odd_scales(calibration, now[4], PROTOCOL)
        assert list(factors) == [part]
        assert factors[part] == pytest.approx(by, rel=0.15)
        right, odd = (session_person(calibration, one, PROTOCOL) for one in (sessions[4], now[4]))
        assert np.all(odd.determined <= right.determined)


def test_nobodys_signals_are_no_odd_scale() -> None:
    sessions, _ = draw(8, SPREAD, seed=12)
    now = [mistaken(sessions[0]), *sessions[1:]]
    calibration = calibrated(now)
    assert is_nobodys(calibration, now[0], PROTOCOL)
    assert not odd_scales(calibration, now[0], PROTOCOL)
    dark: Signals = {contrast: dict.fromkeys(MEMBERS, math.nan) for contrast in PROTOCOL}
    assert is_nobodys(calibration, dark, PROTOCOL)


def test_the_most_probable_set_is_named() -> None:
    spreads = Spreads(own=dict.fromkeys(PROTOCOL, SPREAD), common=0.05)
    names = observations(PROTOCOL)
    for parts in ((), (Contrast.T1W,), (Contrast.T2W, Contrast.FLAIR), (COMMON,)):
        shifts = [
            sum({Contrast.FLAIR: -2.0, COMMON: 1.0}.get(p, 2.0) for p in parts if p in (c, COMMON)) for c, _ in names
        ]
        [got] = odd_parts(np.asarray([shifts]), PROTOCOL, spreads)
        assert got == parts
    assert with_odd(spreads, ()) == spreads


PLACES: Mapping[str, tuple[int, set[int], set[Contrast]]] = {
    "T2w of one of 3": (3, {1}, T2W),
    "T2w of one of 4": (4, {1}, T2W),
    "T2w of one of 6": (6, {2}, T2W),
    "T1w of one of 6": (6, {2}, {Contrast.T1W}),
    "FLAIR of one of 6": (6, {2}, {Contrast.FLAIR}),
    "two series of one of 6": (6, {1}, {Contrast.T1W, Contrast.T2W}),
    "all series of one of 6": (6, {3}, ALL),
    "T2w of two of 6": (6, {0, 5}, T2W),
    "T2w of one of 40": (40, {7}, T2W),
    "T2w of 4 of 12": (12, {0, 1, 2, 3}, T2W),
    "T2w of 3 of 6": (6, {0, 1, 2}, T2W),
    "T2w of 12 of 24": (24, set(range(12)), T2W),
}


MILD = (1 / 1.3, 1 / 1.15, 1.15, 1.2, 1.3)
PLAIN = (0.1, 1 / 1.5, 1.5, 2.0, 10.0)


@pytest.mark.soak
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("n_others", [0, 8])
def test_many_cohorts_with_odd_sessions(n_others: int, place: str) -> None:
    """Prints what the documentation shows; mild factors are no surer than the spread of few sessions lets them be."""
    n, odd, series = PLACES[place]
    others = [draw(8, SPREAD, seed=900 + k)[0] for k in range(n_others)]
    factors = (*PLAIN, *MILD) if not others else (1.3, 1.5)
    every = [trials(n, odd, series, factors, seed=seed, others=others) for seed in range(10 if not others else 5)]
    for by, some in zip(factors, zip(*every, strict=True), strict=True):
        figures = {name: np.asarray([getattr(one, name) for one in some]) for name in Trial.__dataclass_fields__}
        moved, beyond = figures["moved"], figures["beyond"]
        print(
            f"{place} x {by:.2f}, beside {n_others} groups: found {figures['hits'].mean():.0%}, others falsely "
            f"{figures['false'].mean():.2%}; maps of the others change by leaving it out "
            f"{np.median(figures['by_leaving_out']):.1%}, {figures['by_leaving_out'].max():.1%}; more than that "
            f"{np.median(beyond):.1%}, {beyond.max():.1%}; beside leaving it out {np.median(moved):.1%}, "
            f"{moved.max():.1%}; own scale off by {np.median(figures['error']):.1%}"
        )
        assert figures["false"].mean() < 0.02
        assert beyond.max() < MOST_BEYOND
        if n > 3 and not 0.5 < by < 2:
            assert figures["hits"].min() == 1
            assert moved.max() < 1e-6


@pytest.mark.soak
@pytest.mark.parametrize(
    "place", ["T2w of one of 6", "T1w of one of 6", "T2w of two of 6", "T2w of 3 of 6", "T2w of 4 of 12"]
)
def test_mild_factors_are_lost_in_spreads_that_are_not_known(place: str) -> None:
    """Prints which share of odd sessions counts for nothing, where spreads are known exactly, and where hardly."""
    n, odd, series = PLACES[place]
    known = Spreads(own=dict.fromkeys(PROTOCOL, SPREAD), common=0.05)
    for by in (1.15, 1.2, 1.3, 1.5):
        shares = []
        for prior in (Prior(spreads=known, weight=1e4), Prior(spreads=PRIOR_SPREADS, weight=4.0)):
            lost = []
            for seed in range(300, 320):
                now = planted(draw(n, SPREAD, seed=seed)[0], odd, series, by)
                logs = np.log([[own[c][tissue] for c, tissue in observations(PROTOCOL)] for own in now])
                weights = session_weights(logs, PROTOCOL, prior)
                halves = [1 - weights[sorted(odd)].mean(), 1 - np.delete(weights, sorted(odd)).mean()]
                lost.append(max(halves) if 2 * len(odd) == n else halves[0])
            shares.append(np.mean(lost))
        print(f"{place} x {by}: spreads known exactly {shares[0]:.0%}, as four sessions {shares[1]:.0%}")
        assert shares[0] >= shares[1] - 0.05
        if by >= 1.3:
            assert shares[0] > 0.8


@pytest.mark.soak
@pytest.mark.parametrize(
    ("n", "spread"), [(3, 0.03), (6, 0.03), (12, 0.03), (24, 0.03), (12, 0.1), (4, 0.3), (6, 0.3), (12, 0.3)]
)
def test_what_becomes_of_right_groups(n: int, spread: float) -> None:
    """Prints how many sessions of right groups count less or are marked, and how far the white matter's means move."""
    changes, less, marked = [], 0, 0
    for seed in range(7000, 7040):
        sessions, _ = draw(n, spread, common=max(spread, 0.05), seed=seed)
        calibration = calibrated(sessions)
        logs = np.log([[one[contrast]["WM"] for contrast in PROTOCOL] for one in sessions]).mean(axis=0)
        now = np.log([one.white_matter_signal for one in calibration.values()])
        changes.append(float(np.abs(now - logs).max()))
        less += calibration[Contrast.T1W].n_people < n - 1e-9
        marked += len(found(calibration, sessions))
    print(
        f"{n} sessions, {spread:.0%}: in {less / 40:.0%} of 40 groups some count less, {marked / 40 / n:.1%} of "
        f"sessions are marked; means move by {np.sqrt(np.mean(np.square(changes))):.2%} (root mean square), "
        f"{max(changes):.1%} (most)"
    )
    if spread < 0.1:
        assert np.sqrt(np.mean(np.square(changes))) < 0.002
        assert marked <= 0.01 * 40 * n
