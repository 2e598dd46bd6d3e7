"""The random intercept against statsmodels' mixed model, which goes another way."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray

from qmri_core.analysis.mixed import random_intercept


def study(seed: int, between: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.str_]]:
    """Sixty people with one to four sessions each, and three regressors, one of which varies within people."""
    rng = np.random.default_rng(seed)
    people = np.repeat(np.arange(60), rng.integers(1, 5, 60))
    regressors = np.column_stack(
        [np.ones(len(people)), rng.standard_normal(60)[people], rng.standard_normal(len(people))]
    )
    values = regressors @ [0.1, 0.5, -0.3] + between * rng.standard_normal(60)[people]
    return values + rng.standard_normal(len(people)), regressors, np.char.add("sub-", people.astype(str))


@pytest.mark.parametrize("between", [0.3, 1.0, 3.0])
def test_it_is_the_mixed_model_of_statsmodels(between: float) -> None:
    """Errors of coefficients are those at its variances, by dense matrices; its own hold those of variances as well."""
    values, regressors, people = study(1, between)
    found = random_intercept(values, regressors, people)
    expected = sm.MixedLM(values, regressors, groups=people).fit(reml=True, method=["bfgs"], gtol=1e-9)
    assert expected.converged
    np.testing.assert_allclose(found.coefficients, expected.fe_params, rtol=1e-4)
    variance = float(np.asarray(expected.cov_re)[0, 0])
    np.testing.assert_allclose(found.within, expected.scale, rtol=1e-3)
    np.testing.assert_allclose(found.between, variance, rtol=1e-3)
    dense = expected.scale * np.eye(len(people)) + variance * (people[:, None] == people[None, :])
    of_dense = np.linalg.inv(regressors.T @ np.linalg.inv(dense) @ regressors)
    np.testing.assert_allclose(found.covariance, of_dense, rtol=2e-3, atol=1e-6)


def test_without_differences_between_people_it_is_least_squares() -> None:
    """Sessions of a person lie further apart than those of several: the variance between people is 0."""
    values, regressors, people = study(2, 0.0)
    means = np.asarray([values[people == name].mean() for name in people])
    values = values - means
    found, expected = random_intercept(values, regressors, people), sm.OLS(values, regressors).fit()
    assert found.between == 0
    np.testing.assert_allclose(found.coefficients, expected.params, rtol=1e-8)
    np.testing.assert_allclose(np.sqrt(np.diag(found.covariance)), expected.bse, rtol=1e-8)
    assert found.within == pytest.approx(expected.scale)


def test_regressors_that_tell_each_other_are_refused() -> None:
    values, regressors, people = study(3, 1.0)
    with pytest.raises(np.linalg.LinAlgError):
        random_intercept(values, np.column_stack([regressors, 2 * regressors[:, 1]]), people)
