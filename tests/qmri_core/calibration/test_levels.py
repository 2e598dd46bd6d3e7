"""Levels of groups: against the whole normal model written out, and on cohorts whose truth is known."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qmri_core.calibration.hidden_parameters import GROUP_ERROR, SHARED
from qmri_core.calibration.hierarchy import solve_levels
from qmri_core.calibration.levels import (
    METHOD_ERRORS,
    TRENDS,
    Anchor,
    GroupLevel,
    LevelGroup,
    Levels,
    trend_covariates,
)
from qmri_core.calibration.session_model import LEVELS, Spreads, covariance_of, observations, person, person_slopes
from qmri_core.evaluation.levels import level_scores, pooled_scores, slope_over_people
from qmri_core.series.acquisition import CONTRASTS, Contrast
from qmri_core.simulation.clinics import DrawnGroup, draw_clinics
from qmri_core.statistics import unseen_variation
from tests.protocols import plain_protocol

SPREADS = Spreads(own=dict.fromkeys(CONTRASTS, 0.03), common=0.05)
PROTOCOL = plain_protocol()  # all of it stated, so that nothing is hidden


def level_groups(drawn: Sequence[DrawnGroup], *, with_ages: bool = True) -> list[LevelGroup]:
    ages = [one.ages if with_ages else np.full_like(one.ages, np.nan) for one in drawn]
    return [
        LevelGroup(
            acquisitions=one.acquisitions,
            spreads=SPREADS,
            logs=one.logs,
            weights=np.ones(len(one.people)),
            covariates=trend_covariates(age, one.sexes if with_ages else 0 * one.sexes),
            people=one.people,
            clinics=[str(number)] * len(one.people),
            scanner=str(number),
        )
        for number, (one, age) in enumerate(zip(drawn, ages, strict=True))
    ]


def plain(rng: np.random.Generator, people: Sequence[str], name: str) -> LevelGroup:
    """Signals of nobody in particular: the solution of the model is asked for, not the truth."""
    n = len(people)
    return LevelGroup(
        acquisitions=PROTOCOL,
        spreads=SPREADS,
        logs=rng.normal(0.0, 0.1, (n, len(observations(PROTOCOL)))),
        weights=np.ones(n),
        covariates=trend_covariates(rng.uniform(20, 80, n), rng.choice([-0.5, 0.5], n)),
        people=people,
        clinics=[name] * n,
        scanner=name,
    )


def means(levels: Levels) -> NDArray[np.float64]:
    return np.asarray([one.mean for one in levels.groups])


def sds(levels: Levels) -> NDArray[np.float64]:
    return np.asarray([one.sd for one in levels.groups])


def truth(drawn: Sequence[DrawnGroup]) -> NDArray[np.float64]:
    return np.asarray([one.truth.mean(axis=0) for one in drawn])


def test_the_solution_is_that_of_the_whole_model_written_out() -> None:
    """The oracle conditions one joint normal of all that is unknown, every person included, on all signals at once."""
    rng = np.random.default_rng(3)
    names = observations(PROTOCOL)
    groups = [plain(rng, ("a", "b", "c", "a"), "x"), plain(rng, ("c", "d"), "y")]
    groups[0].logs[1, names.index((Contrast.T2W, "GM"))] = np.nan
    found = solve_levels(groups)
    slopes, people = person_slopes(tuple(PROTOCOL.values()))
    n_levels, n_parameters = len(LEVELS), len(people)
    # unknowns: clinics x, y; trends; people a to d; scales and fluid of both; errors of both; what is shared
    who = {name: k for k, name in enumerate("abcd")}
    sizes = [2 * n_levels, 3 * n_levels, 4 * n_parameters, 2 * len(names), 2 * 3, len(SHARED)]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    trends = np.asarray([TRENDS[level] for level in LEVELS]).reshape(-1, 2)
    prior_mean = np.zeros(starts[-1])
    prior_mean[starts[1] : starts[2]], prior_mean[starts[5] :] = trends[:, 0], np.asarray(SHARED)[:, 0]
    prior = np.zeros((starts[-1],) * 2)
    clinic = _clinic_covariance(groups)
    np.testing.assert_allclose(np.sqrt(np.diag(clinic)), found.clinic_sds)
    for k in range(2):
        prior[k * n_levels : (k + 1) * n_levels, k * n_levels : (k + 1) * n_levels] = clinic
    prior[starts[1] : starts[2], starts[1] : starts[2]] = np.diag(trends[:, 1] ** 2)
    for k in range(4):
        here = slice(starts[2] + k * n_parameters, starts[2] + (k + 1) * n_parameters)
        prior[here, here] = people
    prior[starts[3] : starts[4], starts[3] : starts[4]] = 100 * np.eye(sizes[3])
    for k, contrast in product(range(2), range(3)):  # grey and white matter of a series have one scale
        white, grey = (names.index((tuple(PROTOCOL)[contrast], tissue)) for tissue in ("WM", "GM"))
        at = starts[3] + k * len(names)
        prior[at + white, at + grey] = prior[at + grey, at + white] = 100.0
    prior[starts[4] : starts[5], starts[4] : starts[5]] = GROUP_ERROR**2 * np.eye(6)
    prior[starts[5] :, starts[5] :] = np.diag(np.asarray(SHARED)[:, 1] ** 2)
    ratios, of_shared = _at_the_header()
    whole = covariance_of(tuple(PROTOCOL.values()), SPREADS)
    noise = whole - slopes @ people @ slopes.T
    visits = {name: [k for k, group in enumerate(groups) for person in group.people if person == name] for name in who}
    design, values, errors = [], [], []
    means_of_groups = np.zeros((2, n_levels, starts[-1]))
    for k, group in enumerate(groups):
        for row, name in enumerate(group.people):
            of_levels = np.zeros((n_levels, starts[-1]))
            for one in visits[name]:
                of_levels[:, one * n_levels : (one + 1) * n_levels] += np.eye(n_levels) / len(visits[name])
            of_levels[:, starts[1] : starts[2]] = np.kron(np.eye(n_levels), group.covariates[row])
            own = starts[2] + who[name] * n_parameters
            means_of_groups[k] += of_levels / len(group.people)
            means_of_groups[k][:, own : own + n_levels] += np.eye(n_levels) / len(group.people)
            block = slopes[:, :n_levels] @ of_levels
            block[:, own : own + n_parameters] += slopes
            block[:, starts[3] + k * len(names) : starts[3] + (k + 1) * len(names)] += np.eye(len(names))
            offset = np.zeros(len(names))
            for c, contrast in enumerate(PROTOCOL):
                grey = names.index((contrast, "GM"))
                offset[grey] = ratios[c]
                block[grey, starts[4] + 3 * k + c] = 1
                block[grey, starts[5] :] = of_shared[c]
            known = np.isfinite(group.logs[row])
            design.append(block[known])
            values.append((group.logs[row] - offset)[known])
            errors.append(noise[np.ix_(known, known)])
    from scipy.linalg import block_diag

    matrix, target = np.concatenate(design), np.concatenate(values)
    total = matrix @ prior @ matrix.T + block_diag(*errors)
    gain = prior @ matrix.T @ np.linalg.inv(total)
    posterior_mean = prior_mean + gain @ (target - matrix @ prior_mean)
    posterior = prior - gain @ matrix @ prior
    for k, level in enumerate(found.groups):
        np.testing.assert_allclose(level.mean, means_of_groups[k] @ posterior_mean, atol=2e-6)
        expected = np.sqrt(np.diag(means_of_groups[k] @ posterior @ means_of_groups[k].T))
        np.testing.assert_allclose(level.sd, expected, rtol=1e-3)


def _clinic_covariance(groups: Sequence[LevelGroup]) -> NDArray[np.float64]:
    """That the solution ended with; its diagonal is told."""
    from qmri_core.calibration import hierarchy

    seen = []
    settled = hierarchy._settled
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hierarchy, "_settled", lambda *a: seen.append(settled(*a)) or seen[-1])
        solve_levels(groups)
    return np.asarray(seen[-1][2])


def _at_the_header() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from qmri_core.calibration.hidden_parameters import linearised

    ratios, of_shared, _ = linearised(PROTOCOL, [], np.zeros(0))
    return ratios, of_shared


def test_levels_do_not_depend_on_the_order_of_groups_and_sessions() -> None:
    groups = level_groups(draw_clinics(sessions=60, groups=3, seed=1))
    order = np.random.default_rng(0).permutation(len(groups[1].people))
    mixed = replace(
        groups[1],
        logs=groups[1].logs[order],
        covariates=groups[1].covariates[order],
        people=[groups[1].people[k] for k in order],
    )
    one, other = solve_levels(groups), solve_levels([groups[2], mixed, groups[0]])
    np.testing.assert_allclose(means(other)[::-1], means(one), atol=1e-7)
    np.testing.assert_allclose(sds(other)[::-1], sds(one), rtol=1e-5)


def test_sessions_of_hardly_any_weight_tell_as_much_as_sessions_without_signals() -> None:
    groups = level_groups(draw_clinics(sessions=40, groups=2, seed=8))
    n = len(groups[0].people)
    lighter = replace(groups[0], weights=np.full(n, 1e-6))
    without = replace(groups[0], logs=np.full_like(groups[0].logs, np.nan))
    found = [solve_levels([some, groups[1]]) for some in (lighter, without)]
    np.testing.assert_allclose(means(found[0]), means(found[1]), atol=1e-5)


def test_levels_follow_ages_and_constants_do_not() -> None:
    """One cohort of 10 clinics; the error of taking all groups for the population is the peer."""
    drawn = draw_clinics(sessions=1000, groups=10, seed=5, years=30.0, clinics=0.3)
    found = solve_levels(level_groups(drawn))
    true = truth(drawn)
    white = slice(0, 2)
    assert np.all(np.sqrt(np.mean((means(found) - true)[:, white] ** 2, axis=0)) < 0.012)
    ages = np.asarray([one.ages.mean() for one in drawn])
    slopes = np.polyfit(ages, means(found) - true, 1)[0] * 15
    constants = np.polyfit(ages, -true, 1)[0] * 15
    assert abs(slopes[1]) < 0.4 * abs(constants[1])  # T2 of white matter, which changes most
    assert np.all(np.abs(slopes[white]) < 0.01)


def test_people_in_several_groups_measure_what_else_is_imposed() -> None:
    alone, bridged = (draw_clinics(sessions=600, groups=4, seed=7, repeated=share) for share in (0.0, 0.4))
    without, with_bridges = solve_levels(level_groups(alone)), solve_levels(level_groups(bridged))
    assert [one.n_bridging for one in without.groups] == [0] * 4
    assert [one.component for one in without.groups] == [0, 1, 2, 3]
    assert {one.component for one in with_bridges.groups} == {0}
    assert min(one.n_bridging for one in with_bridges.groups) > 20
    t1, t2 = 0, 1
    for level in (t1, t2):
        assert np.mean([one.measured[level] for one in without.groups]) < 0.25
        assert min(one.measured[level] for one in with_bridges.groups) > 0.3
        assert sds(with_bridges)[:, level].max() < sds(without)[:, level].max()


def test_travelling_heads_have_one_level() -> None:
    """All people in all groups: what groups seem to differ by is their scales."""
    drawn = draw_clinics(sessions=40, groups=2, seed=3, repeated=0.0)
    groups = level_groups(drawn)[:1]
    rng = np.random.default_rng(1)
    shift = {contrast: rng.normal() for contrast in CONTRASTS}
    names = observations(groups[0].acquisitions)
    moved = np.asarray([shift[contrast] for contrast, _ in names])
    other = replace(groups[0], logs=groups[0].logs + moved, clinics=["b"] * len(groups[0].people), scanner="b")
    found = solve_levels([groups[0], other])
    np.testing.assert_allclose(found.groups[0].mean, found.groups[1].mean, atol=1e-6)


@pytest.mark.parametrize("with_ages", [True, False])
def test_one_group_alone_is_imposed(with_ages: bool) -> None:
    [drawn] = draw_clinics(sessions=30, groups=1, seed=2)
    [level] = solve_levels(level_groups([drawn], with_ages=with_ages)).groups
    assert (level.n_bridging, level.component) == (0, 0)
    assert all(0 <= share < 0.35 for share in level.measured)  # contrast of grey to white matter tells a little
    assert all(0.005 < sd < 0.03 for sd in level.sd)
    assert any(level.from_ages) is with_ages
    assert np.all(np.abs(level.mean) < 0.04)


def test_one_session_is_enough_and_none_of_its_signals_must_be_known() -> None:
    [drawn] = draw_clinics(sessions=1, groups=1, seed=2)
    [group] = level_groups([drawn])
    [level] = solve_levels([replace(group, logs=np.full_like(group.logs, np.nan))]).groups
    np.testing.assert_allclose(level.mean, level.from_ages, atol=1e-9)
    assert max(level.measured) < 1e-6


def anchors(level: int, deviations: Sequence[float], sd: float) -> list[Anchor]:
    return [Anchor(group=k, level=LEVELS[level], deviation=by, sd=sd) for k, by in enumerate(deviations)]


def test_an_anchor_moves_its_group_and_the_common_level() -> None:
    groups = level_groups(draw_clinics(sessions=200, groups=3, seed=4))
    without = solve_levels(groups)
    found = solve_levels(groups, anchors(0, [0.05, 0.05], 0.01))
    np.testing.assert_allclose(without.common, 0, atol=1e-9)
    assert found.common[0] > 0.02
    assert found.common_sd[0] < without.common_sd[0]
    for before, after in zip(without.groups[:2], found.groups[:2], strict=True):
        assert abs(after.mean[0] - 0.05) < abs(before.mean[0] - 0.05)
    assert found.groups[2].mean[0] > without.groups[2].mean[0] + 0.02  # it shares the common level


def test_a_person_whose_tissue_was_measured_is_an_anchor_too() -> None:
    """The oracle is the person's own truth, measured well; and nobody's is refused."""
    drawn = draw_clinics(sessions=60, groups=2, seed=6)
    groups = level_groups(drawn)
    few = [
        Anchor(person=drawn[0].people[k], level=level, deviation=0.06 + float(drawn[0].truth[k, row]), sd=0.005)
        for k in range(6)
        for row, level in enumerate(LEVELS)
        if level[1] == "t1"
    ]
    found = solve_levels(groups, few)
    assert found.common[0] > 0.04  # the population's values are 6 % short, people say
    assert found.common_sd[0] < 0.025
    with pytest.raises(ValueError, match="a person who is in no group"):
        solve_levels(groups, [replace(few[0], person="nobody")])


def test_anchors_of_one_method_share_its_error() -> None:
    groups = level_groups(draw_clinics(sessions=100, groups=3, seed=4))
    free = anchors(0, [0.05] * 3, 0.01)
    tied = [replace(one, method="phantom", method_sd=0.05) for one in free]
    assert solve_levels(groups, tied).common_sd[0] > 1.3 * solve_levels(groups, free).common_sd[0]


def test_a_method_may_err_otherwise_in_another_tissue() -> None:
    """Of two tissues that one method finds 5 % apart from what is believed, its error is as good a reason as they."""
    groups = level_groups(draw_clinics(sessions=100, groups=3, seed=4))
    white, grey = anchors(0, [0.05], 0.01)[0], anchors(2, [-0.05], 0.01)[0]
    assert (white.level, grey.level) == (("WM", "t1"), ("GM", "t1"))

    def apart(method_sd: float) -> float:
        tied = [replace(one, method="phantom", method_sd=method_sd) for one in (white, grey)]
        common = solve_levels(groups, tied).common
        return float(common[0] - common[2])

    exact = apart(0.0)
    assert apart(0.05) < 0.8 * exact
    assert apart(0.10) < 0.5 * exact


def test_unknown_ages_are_the_mean_of_those_known_and_nobody_is_beyond_adults() -> None:
    found = trend_covariates(np.asarray([45.0, 65.0, np.nan, 3.0, 99.0]), np.asarray([0.5, -0.5, 0.0, 0.5, 0.5]))
    np.testing.assert_allclose(found[0], [0, 0, 0.5])
    np.testing.assert_allclose(found[1], [2, 4, -0.5])
    np.testing.assert_allclose(found[2, 0], (4 * 53.0 + 10 * 45) / 14 / 10 - 4.5)
    np.testing.assert_allclose(found[3:, 0], [-2.7, 4.5])
    assert not trend_covariates(np.full(3, np.nan), np.zeros(3)).any()


SITUATIONS = {
    "as believed": {},
    "clinics 1.6 times as different": {"clinics": 1.6},
    "fluid in cortex that mimics ageing": {"cortical_fluid": 0.010},
}
FIGURES = {
    "error": "error of a group's mean",
    "trend": "false trend per 15 years",
    "trend_error": "its standard error",
    "cov_error": "error of the variation between groups",
    "within_one": "within one stated deviation",
    "within_two": "within two",
}


def scores_of(drawn: Sequence[DrawnGroup], found: NDArray[np.float64], sd: NDArray[np.float64] | None) -> list[Any]:
    """Of each of `LEVELS`; ``found`` and ``sd`` of shape (group, level)."""
    ages, true = np.asarray([one.ages.mean() for one in drawn]), truth(drawn)
    return [
        level_scores(found[:, k], true[:, k], ages, sd=None if sd is None else sd[:, k]) for k in range(len(LEVELS))
    ]


def slopes_over_people(drawn: Sequence[DrawnGroup], levels: Levels) -> list[float]:
    """Of what signals tell of people, as maps show it, on their truth, within groups."""
    told = []
    for one, level in zip(drawn, levels.groups, strict=True):
        people = [
            person(row, one.acquisitions, SPREADS, n_people=len(one.people), level=level.mean, level_sd=level.sd)
            for row in one.logs - one.logs.mean(axis=0)
        ]
        told.append(np.asarray([each.widened for each in people]))
    return [
        slope_over_people([some[:, k] for some in told], [one.truth[:, k] for one in drawn]) for k in range(len(LEVELS))
    ]


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_levels_of_hospitals(situation: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Cohorts of 4,121 sessions in 20 groups, a tenth of people scanned twice; `QMRI_COHORTS` of them, else 6."""
    modelled, constants, slopes, unseen = [], [], [], []
    for seed in range(int(os.environ.get("QMRI_COHORTS", "6"))):
        drawn = draw_clinics(sessions=4121, groups=20, seed=1000 + seed, **SITUATIONS[situation])
        found = solve_levels(level_groups(drawn))
        modelled.append(scores_of(drawn, means(found), sds(found)))
        constants.append(scores_of(drawn, 0 * means(found), None))
        slopes.append(slopes_over_people(drawn, found))
        unseen.append(variation_found(found) - truth(drawn).std(axis=0, ddof=1))
    told, peer = (
        [pooled_scores([cohort[k] for cohort in some]) for k in range(len(LEVELS))] for some in (modelled, constants)
    )
    with capsys.disabled():
        print(f"\n{situation}, {len(modelled)} cohorts; order WM T1, WM T2, GM T1, GM T2, %")
        for name, words in FIGURES.items():
            for which, figures in (("", told), (", constants", peer)):
                print(f"  {words + which:52s} " + " ".join(f"{100 * one[name]:6.2f}" for one in figures))
        print(f"  {'slope over people':52s} " + " ".join(f"{one:6.2f}" for one in np.mean(slopes, axis=0)))
        rms = np.sqrt(np.mean(np.square(unseen), axis=0))
        print(f"  {'error of the variation with what is imposed away':52s} " + " ".join(f"{100 * x:6.2f}" for x in rms))
    if situation == "as believed":
        assert all(one["error"] < limit for one, limit in zip(told, (0.011, 0.0095, 0.009, 0.013), strict=True))
        assert all(abs(one["trend"]) < 0.005 + 2 * one["trend_error"] for one in told)
        assert all(one["cov_error"] < 0.004 for one in told)
        assert all(0.55 < one["within_one"] < 0.78 and one["within_two"] > 0.88 for one in told)
    assert all(one["error"] < other["error"] for one, other in list(zip(told, peer, strict=True))[:2])


def phantoms(drawn: Sequence[DrawnGroup], rng: np.random.Generator) -> list[Anchor]:
    """The means of two groups by one method, whose error is 3 %, each to 1 %."""
    method = 0.03 * rng.standard_normal(len(LEVELS))
    return [
        Anchor(
            group=number,
            level=level,
            deviation=float(drawn[number].truth[:, k].mean() + method[k] + 0.01 * rng.standard_normal()),
            sd=0.01,
            method="phantom",
            method_sd=0.03,
        )
        for number in (0, 1)
        for k, level in enumerate(LEVELS)
    ]


def measured_people(drawn: Sequence[DrawnGroup], rng: np.random.Generator) -> list[Anchor]:
    """Twenty people of one group by one method, whose error is 3 %, each to 2 %."""
    method = 0.03 * rng.standard_normal(len(LEVELS))
    places = {name: place for place, name in enumerate(drawn[0].people)}
    return [
        Anchor(
            person=name,
            level=level,
            deviation=float(drawn[0].truth[place, k] + method[k] + 0.02 * rng.standard_normal()),
            sd=0.02,
            method="maps",
            method_sd=0.03,
        )
        for name, place in list(places.items())[:20]
        for k, level in enumerate(LEVELS)
    ]


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_what_anchors_make_of_all_groups(capsys: pytest.CaptureFixture[str]) -> None:
    """Cohorts as above whose people differ from the population's values as methods do; errors hold the common one."""
    errors: dict[str, list[NDArray[np.float64]]] = {"none": [], "two groups": [], "20 people of one": []}
    commons: dict[str, list[NDArray[np.float64]]] = {name: [] for name in errors}
    stated: dict[str, list[NDArray[np.float64]]] = {name: [] for name in errors}
    for seed in range(int(os.environ.get("QMRI_COHORTS", "6"))):
        rng = np.random.default_rng([seed, 5])
        common = np.asarray([METHOD_ERRORS[level] for level in LEVELS]) * rng.standard_normal(len(LEVELS))
        drawn = draw_clinics(sessions=4121, groups=20, seed=1000 + seed, common=common.tolist())
        groups = level_groups(drawn)
        anchored = {"none": [], "two groups": phantoms(drawn, rng), "20 people of one": measured_people(drawn, rng)}
        for name, some in anchored.items():
            found = solve_levels(groups, some)
            errors[name].append(means(found) - truth(drawn))
            commons[name].append(found.common - common)
            stated[name].append(found.common_sd)
    with capsys.disabled():
        print(f"\n{len(errors['none'])} cohorts; order WM T1, WM T2, GM T1, GM T2, %")
        for name in errors:
            of_groups, of_all = (np.sqrt(np.mean(np.square(some[name]), axis=0)) for some in (errors, commons))
            of_groups = np.sqrt(np.mean(np.square(of_groups), axis=0))
            for words, figures in (
                ("error of a group's mean", of_groups), ("error of the common level", of_all),
                ("stated of it", np.mean(stated[name], axis=0)),
            ):  # fmt: skip
                print(f"  {name + ': ' + words:48s} " + " ".join(f"{100 * one:6.2f}" for one in figures))
    for name in ("two groups", "20 people of one"):
        assert np.sqrt(np.mean(np.square(commons[name]))) < np.sqrt(np.mean(np.square(commons["none"])))


def test_cohorts_without_ages_and_bridges_say_that_all_is_imposed(strangers: list[DrawnGroup]) -> None:
    found = solve_levels(level_groups(strangers, with_ages=False))
    for level in found.groups:
        assert (level.n_bridging, level.from_ages) == (0, (0.0,) * len(LEVELS))
        assert max(level.measured) < 0.35  # what contrast of grey to white matter tells
        assert min(level.apart) > 0.004
    assert [level.component for level in found.groups] == [0, 1, 2]
    assert np.abs(means(found)).max() < 0.03


def variation_found(levels: Levels) -> NDArray[np.float64]:
    """Variation between groups, of logs, with what is imposed away."""
    found = means(levels)
    imposed = [
        unseen_variation(found[:, k], [one.apart[k] for one in levels.groups]).imposed for k in range(len(LEVELS))
    ]
    return np.asarray(np.hypot(found.std(axis=0, ddof=1), imposed))


@pytest.fixture(scope="module")
def strangers() -> list[DrawnGroup]:
    """Three groups that share nobody."""
    return draw_clinics(sessions=90, groups=3, seed=13, repeated=0.0)


def test_the_variation_of_true_means_is_what_is_seen_and_what_is_imposed_away(strangers: list[DrawnGroup]) -> None:
    """Without bridges most of it is imposed, and the truth is within what is stated."""
    drawn = strangers
    found = solve_levels(level_groups(drawn))
    seen = means(found).std(axis=0, ddof=1)
    for k in range(len(LEVELS)):
        apart = [one.apart[k] for one in found.groups]
        freedom = found.groups[0].freedom[k]
        assert 1 <= freedom <= len(drawn) - 1
        stated = unseen_variation(means(found)[:, k], apart, freedom)
        assert 0.5 * np.mean([one.sd[k] for one in found.groups]) < stated.imposed
        assert max(apart) < 1.2 * max(one.sd[k] for one in found.groups)
        true = truth(drawn)[:, k].std(ddof=1)
        assert abs(true - np.hypot(seen[k], stated.imposed)) < 3 * stated.error


def test_people_of_a_clinic_share_its_level_whatever_scanner_they_come_to(strangers: list[DrawnGroup]) -> None:
    """Scanners that two clinics share: each has people of both, and what clinics send is no group's alone."""
    by_scanner = level_groups(strangers)
    rng = np.random.default_rng(0)
    by_person = [replace(one, clinics=rng.choice(["a", "b"], len(one.people)).tolist()) for one in by_scanner]
    for level in solve_levels(by_person).groups:
        assert set(level.clinics) == {"a", "b"}
        assert sum(level.clinics.values()) == pytest.approx(1.0)
        assert all(0 <= share <= 1 for share in level.measured)
    assert [set(level.clinics) for level in solve_levels(by_scanner).groups] == [{"0"}, {"1"}, {"2"}]


def test_more_groups_than_sessions_are_refused() -> None:
    with pytest.raises(ValueError, match="3 sessions do not fill 5 groups"):
        draw_clinics(sessions=3, groups=5, seed=0)


def test_equal_seeds_draw_equal_cohorts_of_the_size_asked_for() -> None:
    one, other = (draw_clinics(sessions=57, groups=4, seed=9) for _ in range(2))
    assert sum(len(group.people) for group in one) == 57
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left.logs, right.logs)
        assert left.people == right.people
    assert math.isfinite(float(np.concatenate([group.logs for group in one]).sum()))
    assert isinstance(solve_levels(level_groups(one)).groups[0], GroupLevel)
