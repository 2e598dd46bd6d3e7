"""Linear mixed model with a random intercept of each person, by restricted maximum likelihood.

With one random intercept all that the likelihood needs are sums over people with equally many sessions, so that a
cohort of thousands takes milliseconds: Newton steps over dense matrices, as libraries do, take minutes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize

_LOWEST, _HIGHEST, _N_STARTS = -12.0, 8.0, 21
"""Logs of the variance of people over that within people that are looked at, and how many before the search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomIntercept:
    """Coefficients of the regressors with their covariance; variances within people and between them."""

    coefficients: NDArray[np.float64]
    covariance: NDArray[np.float64]
    within: float
    between: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sums:
    """Of people with ``size`` sessions each: how many they are, and products of their sums of regressors and values."""

    size: int
    n_people: int
    xx: NDArray[np.float64]
    xy: NDArray[np.float64]
    yy: float


def random_intercept(
    values: NDArray[np.float64], regressors: NDArray[np.float64], people: NDArray[np.generic] | Sequence[object]
) -> RandomIntercept:
    """Fit the model.

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
        If the regressors are not of full rank.

    References
    ----------
    Laird and Ware 1982, Biometrics 38:963; the likelihood of variances profiled to the ratio of both.
    """
    n, p = regressors.shape
    total = _Sums(size=1, n_people=n, xx=regressors.T @ regressors, xy=regressors.T @ values, yy=float(values @ values))
    parts = _sums_by_size(values, regressors, np.asarray(people))

    def solved(ratio: float) -> tuple[float, tuple[NDArray[np.float64], bool], NDArray[np.float64], float]:
        """Criterion at a ratio of variances; the factored matrix; coefficients; weighted squares that are left."""
        shares = [(part, ratio / (1 + part.size * ratio)) for part in parts]
        matrix = total.xx - sum((share * part.xx for part, share in shares), np.zeros((p, p)))
        right = total.xy - sum((share * part.xy for part, share in shares), np.zeros(p))
        squares = total.yy - sum(share * part.yy for part, share in shares)
        factor = linalg.cho_factor(matrix, lower=True)
        coefficients = linalg.cho_solve(factor, right)
        left = max(squares - float(right @ coefficients), 1e-300)
        logs = sum(part.n_people * math.log1p(part.size * ratio) for part in parts)
        criterion = (n - p) * math.log(left) + logs + 2 * float(np.log(np.diag(factor[0])).sum())
        return criterion, factor, coefficients, left

    starts = np.linspace(_LOWEST, _HIGHEST, _N_STARTS)
    best = int(np.argmin([solved(math.exp(start))[0] for start in starts]))
    around = (starts[max(best - 1, 0)], starts[min(best + 1, _N_STARTS - 1)])
    search = optimize.minimize_scalar(
        lambda log: solved(math.exp(log))[0], bounds=around, method="bounded", options={"xatol": 1e-8}
    )
    ratio = math.exp(float(search.x)) if search.fun < solved(0.0)[0] else 0.0
    _, factor, coefficients, left = solved(ratio)
    within = left / (n - p)
    return RandomIntercept(
        coefficients=coefficients,
        covariance=within * linalg.cho_solve(factor, np.eye(p)),
        within=within,
        between=within * ratio,
    )


def _sums_by_size(
    values: NDArray[np.float64], regressors: NDArray[np.float64], people: NDArray[np.generic]
) -> list[_Sums]:
    _, codes = np.unique(people, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    x = np.add.reduceat(regressors[order], starts, axis=0)
    y = np.add.reduceat(values[order], starts)
    sizes = np.diff(starts, append=len(order))
    parts = []
    for size in np.unique(sizes).tolist():
        own_x, own_y = x[sizes == size], y[sizes == size]
        parts.append(
            _Sums(size=size, n_people=len(own_y), xx=own_x.T @ own_x, xy=own_x.T @ own_y, yy=float(own_y @ own_y))
        )
    return parts
