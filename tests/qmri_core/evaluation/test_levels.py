"""Levels of groups against the truth, on figures that are known in advance."""

from __future__ import annotations

import numpy as np
import pytest

from qmri_core.evaluation.levels import level_scores, pooled_scores, slope_over_people

AGES = np.asarray([40.0, 50.0, 60.0, 70.0])
TRUE = np.asarray([0.00, 0.01, 0.02, 0.05])


def test_one_constant_is_wrong_by_the_truth_and_falls_behind_with_age() -> None:
    found = level_scores(np.zeros(4), TRUE, AGES)
    assert found.bias == pytest.approx(-0.02)
    assert found.error == pytest.approx(np.sqrt(np.mean(TRUE**2)))
    assert found.trend == pytest.approx(15 * np.polyfit(AGES, -TRUE, 1)[0])
    assert (found.cov, found.n_groups) == (0.0, 4)
    assert found.true_cov == pytest.approx(np.std(np.exp(TRUE), ddof=1) / np.mean(np.exp(TRUE)))
    assert np.isnan(found.within_one)


def test_coverage_counts_groups_whose_truth_is_within_what_was_stated() -> None:
    errors = np.asarray([0.005, -0.015, 0.025, 0.0])
    found = level_scores(TRUE + errors, TRUE, AGES, sd=np.full(4, 0.01))
    assert (found.within_one, found.within_two) == (0.5, 0.75)


def test_an_error_that_all_groups_share_is_no_failure_of_what_was_stated() -> None:
    sd = np.full(4, 0.011)
    errors = np.asarray([0.01, -0.01, 0.01, -0.01])
    for shift in (0.0, 0.05):
        found = level_scores(TRUE + errors + shift, TRUE, AGES, sd=sd, is_shared=True)
        assert (found.within_one, found.within_two) == (0.0, 1.0)  # of four, one mean is lost: 0.01 counts as 0.0115
        assert found.bias == pytest.approx(shift)
    assert level_scores(TRUE + errors + 0.05, TRUE, AGES, sd=sd).within_two == 0.0
    assert np.isnan(level_scores(np.zeros(1), np.zeros(1), np.zeros(1), sd=np.ones(1), is_shared=True).within_one)


def test_stated_deviations_of_normal_errors_cover_as_they_should() -> None:
    rng = np.random.default_rng(0)
    sd = rng.uniform(0.5, 2.0, 20_000)
    errors = sd * rng.standard_normal(sd.size) + 3.0
    found = level_scores(errors, np.zeros(sd.size), np.zeros(sd.size), sd=sd, is_shared=True)
    assert found.within_one == pytest.approx(0.683, abs=0.01)
    assert found.within_two == pytest.approx(0.954, abs=0.01)
    assert np.isnan(found.trend)  # ages that are equal hold none


def test_no_group_is_no_score() -> None:
    with pytest.raises(ValueError, match="no group"):
        level_scores(np.zeros(0), np.zeros(0), np.zeros(0))


def test_a_slope_over_people_is_that_within_groups() -> None:
    rng = np.random.default_rng(1)
    ages = [rng.normal(mean, 10, 50) for mean in (30, 60)]
    levels = [0.002 * some + offset for some, offset in zip(ages, (0.0, 5.0), strict=True)]
    assert slope_over_people(levels, ages) == pytest.approx(0.002)
    assert np.isnan(slope_over_people([np.zeros(2)], [np.arange(2.0)]))


def test_cohorts_are_pooled_by_root_mean_squares_and_trends_keep_their_sign() -> None:
    one = level_scores(TRUE + 0.01, TRUE, AGES, sd=np.full(4, 0.02))
    other = level_scores(np.zeros(4), TRUE, AGES, sd=np.full(4, 0.02))
    found = pooled_scores([one, other])
    assert found["error"] == pytest.approx(np.sqrt((0.01**2 + other.error**2) / 2))
    assert found["trend"] == pytest.approx(other.trend / 2)
    assert found["trend_error"] == pytest.approx(abs(other.trend) / 2)
    assert found["cov_error"] == pytest.approx(
        np.sqrt(((one.cov - one.true_cov) ** 2 + (other.cov - other.true_cov) ** 2) / 2)
    )
    assert found["within_one"] == pytest.approx((1.0 + 0.75) / 2)
