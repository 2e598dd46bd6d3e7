"""The random intercept against closed forms, a likelihood of dense matrices, and what statsmodels finds by itself."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import optimize

from qmri_core.analysis.mixed import random_intercept, ratio_by_moments

Study = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp]]


def study(seed: int, between: float, visits: int | None = None) -> Study:
    """Sixty people with one to four sessions each, or ``visits``, and three regressors: one varies within people."""
    rng = np.random.default_rng(seed)
    people = np.repeat(np.arange(60), rng.integers(1, 5, 60) if visits is None else visits)
    own = rng.standard_normal(60)
    regressors = np.column_stack([np.ones(len(people)), own[people], rng.standard_normal(len(people))])
    values = regressors @ [0.1, 0.5, -0.3] + between * rng.standard_normal(60)[people]
    return values + rng.standard_normal(len(people)), regressors, people


def restricted(
    ratio: float, values: NDArray[np.float64], regressors: NDArray[np.float64], same: NDArray[np.float64]
) -> float:
    """Minus twice the restricted log-likelihood at a ratio of variances, up to a constant, by dense matrices."""
    n, p = regressors.shape
    covariance = np.eye(n) + ratio * same
    inverse = np.linalg.inv(covariance)
    information = regressors.T @ inverse @ regressors
    left = values - regressors @ np.linalg.solve(information, regressors.T @ inverse @ values)
    logs = np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(information)[1]
    return float((n - p) * np.log(left @ inverse @ left) + logs)


@pytest.mark.parametrize("between", [0.3, 1.0, 3.0])
def test_it_is_at_the_maximum_of_the_restricted_likelihood(between: float) -> None:
    """Dense matrices and another search find the same, where people have unequally many sessions."""
    values, regressors, people = study(1, between)
    found = random_intercept(values, regressors, people)
    same = (people[:, None] == people[None, :]).astype(np.float64)
    search = optimize.minimize_scalar(
        lambda log: restricted(np.exp(log), values, regressors, same), bounds=(-8, 6), method="bounded"
    )
    np.testing.assert_allclose(found.between / found.within, np.exp(search.x), rtol=1e-3)  # both searches stop there
    inverse = np.linalg.inv(np.eye(len(people)) + np.exp(search.x) * same)
    covariance = np.linalg.inv(regressors.T @ inverse @ regressors)
    expected = covariance @ regressors.T @ inverse @ values
    left = values - regressors @ expected
    within = left @ inverse @ left / (len(people) - 3)
    np.testing.assert_allclose(found.coefficients, expected, rtol=1e-3)
    np.testing.assert_allclose(found.within, within, rtol=1e-3)
    errors = np.sqrt(within * np.diag(covariance))
    np.testing.assert_allclose(found.errors, errors, rtol=1e-2)  # they hold those of variances, here up to 0.4 %


@pytest.mark.parametrize("visits", [2, 4])
def test_of_equally_many_sessions_it_is_the_analysis_of_variance(visits: int) -> None:
    """Mean squares within and between people, and least squares of people's means; the moments say so at once."""
    values, regressors, people = study(2, 1.0, visits)
    regressors = regressors[:, :2]  # nothing varies within people
    found = random_intercept(values, regressors, people)
    of_people = values.reshape(60, visits)
    means, x = of_people.mean(axis=1), regressors[::visits]
    expected, squares, *_ = np.linalg.lstsq(x, means)
    within = ((of_people - means[:, None]) ** 2).sum() / (60 * (visits - 1))
    of_means = float(squares[0]) / 58
    np.testing.assert_allclose(found.coefficients, expected, rtol=1e-6)
    np.testing.assert_allclose(found.within, within, rtol=1e-6)
    np.testing.assert_allclose(found.between, of_means - within / visits, rtol=1e-6)
    np.testing.assert_allclose(found.errors, np.sqrt(of_means * np.diag(np.linalg.inv(x.T @ x))), rtol=1e-6)
    assert ratio_by_moments(values, regressors, people) == pytest.approx(found.between / found.within, rel=1e-6)


def test_where_it_begins_changes_nothing() -> None:
    values, regressors, people = study(3, 1.0)
    found = random_intercept(values, regressors, people)
    expected = sm.MixedLM(values, regressors, groups=people).fit(reml=True)
    assert expected.converged
    np.testing.assert_allclose(found.coefficients, expected.fe_params, rtol=1e-4)
    np.testing.assert_allclose(found.errors, expected.bse_fe, rtol=1e-4)
    np.testing.assert_allclose(found.within, expected.scale, rtol=1e-3)
    np.testing.assert_allclose(found.between, np.asarray(expected.cov_re)[0, 0], rtol=1e-3)


def test_without_differences_between_people_it_is_least_squares() -> None:
    """Sessions of a person lie further apart than those of several: the variance between people is 0."""
    values, regressors, people = study(2, 0.0)
    values = values - np.asarray([values[people == person].mean() for person in people])
    found = random_intercept(values, regressors, people)
    expected, squares, *_ = np.linalg.lstsq(regressors, values)
    variance = float(squares[0]) / (len(values) - 3)
    assert found.between == 0
    np.testing.assert_allclose(found.coefficients, expected, rtol=1e-8)
    np.testing.assert_allclose(found.errors, np.sqrt(variance * np.diag(np.linalg.inv(regressors.T @ regressors))))
    assert found.within == pytest.approx(variance)


def test_small_differences_between_people_are_not_taken_for_none() -> None:
    """Where moments say none, and the likelihood a few thousandths."""
    seeds = iter(range(100))
    for seed in seeds:
        values, regressors, people = study(seed, 0.1)
        same = (people[:, None] == people[None, :]).astype(np.float64)
        best = optimize.minimize_scalar(
            lambda ratio, *data: restricted(ratio, *data),
            bounds=(1e-6, 1),
            method="bounded",
            args=(values, regressors, same),
        ).x
        if ratio_by_moments(values, regressors, people) == 0 and best > 1e-3:
            break
    found = random_intercept(values, regressors, people)
    np.testing.assert_allclose(found.between / found.within, best, rtol=0.05)  # the likelihood is flat there


def test_regressors_that_tell_each_other_are_refused() -> None:
    values, regressors, people = study(3, 1.0)
    with pytest.raises(np.linalg.LinAlgError):
        random_intercept(values, np.column_stack([regressors, 2 * regressors[:, 1]]), people)
