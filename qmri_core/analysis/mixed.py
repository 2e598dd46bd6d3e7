"""Linear mixed model with a random intercept of each person, by restricted maximum likelihood (`MixedLM`, statsmodels).

Each step of its search goes through all people, so it is begun where variances are by their moments: there it ends at
once where all people have equally many sessions, and after a few steps where they have not.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from statsmodels.regression.mixed_linear_model import MixedLM

_LEAST = 1e-2
"""Variance between people over that within them from which the search begins, at least."""
_NEXT_TO_NOTHING = 1e-6
"""Such a ratio, at which the slope of the likelihood tells whether the best one is 0; below 1e-10 there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomIntercept:
    """Coefficients of the regressors with their standard errors; variances within people and between them."""

    coefficients: NDArray[np.float64]
    errors: NDArray[np.float64]
    within: float
    between: float


def random_intercept(
    values: NDArray[np.float64], regressors: NDArray[np.float64], people: ArrayLike
) -> RandomIntercept:
    """Fit the model.

    Where the variance between people is 0, this is least squares.

    Parameters
    ----------
    values
        Of each session, shape (n,).
    regressors
        Shape (n, p), a column of ones among them; of full rank, and p < n.
    people
        Whose each session is.

    Raises
    ------
    numpy.linalg.LinAlgError
        If the variances cannot be found: the regressors are not of full rank, or the search does not end.
    """
    from statsmodels.regression.linear_model import OLS
    from statsmodels.regression.mixed_linear_model import MixedLM

    codes = pd.factorize(np.asarray(people))[0]
    unit = float(values.std()) or 1.0  # the search takes steps of about 1
    begin = ratio_by_moments(values / unit, regressors, codes)
    model = MixedLM(values / unit, regressors, groups=codes)
    if begin < _LEAST and _falls_from_nothing(model):
        least = OLS(values, regressors).fit()
        return RandomIntercept(coefficients=least.params, errors=least.bse, within=float(least.scale), between=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of variances near their bound of 0
        fitted = model.fit(reml=True, method="bfgs", start_params=[math.sqrt(max(begin, _LEAST))])
        errors = np.asarray(fitted.bse_fe)
    if not (fitted.converged and np.isfinite(errors).all()):
        raise np.linalg.LinAlgError("the search for variances has not ended")
    return RandomIntercept(
        coefficients=unit * np.asarray(fitted.fe_params),
        errors=unit * errors,
        within=unit**2 * float(fitted.scale),
        between=unit**2 * float(fitted.cov_re[0, 0]),
    )


def ratio_by_moments(values: NDArray[np.float64], regressors: NDArray[np.float64], codes: NDArray[np.intp]) -> float:
    """Variance between people over that within, from sums of squares of two fits of least squares; 0 where it is less.

    Parameters
    ----------
    values, regressors
        As for `random_intercept`.
    codes
        Whose each session is, from 0 without gaps.

    References
    ----------
    Henderson 1953, Biometrics 9:226, method 3.
    """
    n, p = regressors.shape
    sizes = np.bincount(codes)
    sums = np.zeros((sizes.size, p))
    np.add.at(sums, codes, regressors)
    means = np.bincount(codes, values) / sizes
    inside, _, rank, _ = np.linalg.lstsq(
        own := regressors - (sums / sizes[:, None])[codes], left := values - means[codes]
    )
    freedom = n - sizes.size - int(rank)
    within = float(((left - own @ inside) ** 2).sum()) / freedom if freedom > 0 else 0.0
    q, r = np.linalg.qr(regressors)
    residual = values - q @ (q.T @ values)
    if within <= 0:
        return 1.0
    seen = n - float((np.linalg.solve(r.T, sums.T) ** 2).sum())  # sessions whose people the regressors do not tell
    return max((float(residual @ residual) / within - (n - p)) / seen, 0.0) if seen > 0 else 0.0


def _falls_from_nothing(model: MixedLM) -> bool:
    """Whether the likelihood falls as the variance between people grows from 0."""
    from statsmodels.regression.mixed_linear_model import MixedLMParams

    model.cov_pen = None  # as `fit` has it
    params = MixedLMParams.from_components(cov_re=np.asarray([[_NEXT_TO_NOTHING]]), vcomp=np.empty(0))
    params.fe_params, _ = model.get_fe_params(params.cov_re, params.vcomp)
    _, slope, _ = model.score_full(params, calc_fe=False)
    return bool(slope[0] <= 0)
