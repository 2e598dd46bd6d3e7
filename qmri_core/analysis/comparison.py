"""Differences between people by a factor, beside covariates: mixed models over visits, robust regression of one visit.

The models are those of statsmodels. Values are compared as logs, so that effects are relative.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from qmri_core.analysis.design import Design, design_of
from qmri_core.analysis.mixed import random_intercept

MIXED, ROBUST, CLUSTERED = "mixed model", "robust regression", "regression, errors by person"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What one term of a factor does to a value.

    ``estimate``, ``low`` and ``high`` are relative (0.05: 5 % more), ``low`` to ``high`` the interval of confidence;
    ``standardised`` is the difference of logs over the standard deviation of the logs between sessions that the model
    leaves, of people and of measurements. ``n_level``: people with the level, or with a value; ``freedom``: degrees of
    freedom of the interval. ``explained``: of the factor by everything else, see `qmri_core.analysis.design.Design`.
    """

    term: str
    reference: str
    estimate: float
    low: float
    high: float
    p: float
    standardised: float
    n_people: int
    n_level: int
    n_sessions: int
    freedom: float
    method: str
    explained: float


def compare_values(
    frame: pd.DataFrame,
    factor: str,
    covariates: Sequence[str] = (),
    *,
    within_groups: bool = True,
    reference: str | None = None,
    confidence: float = 0.95,
    known: dict[str, Design] | None = None,
) -> list[Effect]:
    """Effect of each level of a factor beside the reference, or per unit of a number.

    Where people have several sessions: a linear mixed model with a random intercept of each person (REML), else least
    squares with HC3 errors. Intervals and p are by Student's t; for a mixed model with the degrees of freedom between
    or within people, by where the term varies (Schluchter and Elashoff 1990, J Stat Comput Simul 37:69).

    Parameters
    ----------
    frame, factor, covariates, within_groups, reference
        As for `qmri_core.analysis.design.design_of`; ``value`` positive.
    known
        Designs of the same question that were made before, of other values of perhaps the same sessions; this one's is
        put there.

    Raises
    ------
    ConfoundedError
        If the data cannot answer the question; the reason says why.
    """
    frame = frame[frame["value"] > 0]
    key = _key_of(frame, factor, covariates)
    design = (known or {}).get(key)
    if design is None:
        design = design_of(frame, factor, covariates, within_groups=within_groups, reference=reference)
        if known is not None:
            known[key] = design
    logs = np.log(frame["value"].to_numpy(dtype=np.float64)[design.places])
    people = design.frame["person"].to_numpy()
    fit = _mixed if pd.Series(people).duplicated().any() else _robust
    estimates, errors, spread, freedom, method = fit(logs, design)
    return [
        _effect(design, column, factor, float(estimates[k]), float(errors[k]), spread, freedom[k], method, confidence)
        for k, column in enumerate(design.regressors)
        if column in design.terms
    ]


def _key_of(frame: pd.DataFrame, factor: str, covariates: Sequence[str]) -> str:
    """Tells one design from another: everything that it is made of but the values."""
    names = list(dict.fromkeys(["person", "group", factor, *covariates]))
    hashed = pd.util.hash_pandas_object(frame[names].astype(str), index=False)
    return hashlib.sha256(hashed.to_numpy().tobytes()).hexdigest()


def _effect(
    design: Design,
    column: str,
    factor: str,
    estimate: float,
    error: float,
    spread: float,
    freedom: float,
    method: str,
    confidence: float,
) -> Effect:
    half = float(stats.t.ppf(0.5 + confidence / 2, freedom)) * error
    values = design.frame[factor].astype(str)
    term = design.terms[column]
    has_it = values == term if design.reference else values.notna()
    return Effect(
        term=term,
        reference=design.reference,
        estimate=math.expm1(estimate),
        low=math.expm1(estimate - half),
        high=math.expm1(estimate + half),
        p=float(2 * stats.t.sf(abs(estimate) / error, freedom)),
        standardised=estimate / spread,
        n_people=int(design.frame["person"].nunique()),
        n_level=int(design.frame.loc[has_it, "person"].nunique()),
        n_sessions=len(design.frame),
        freedom=freedom,
        method=method,
        explained=design.explained,
    )


_Fit = tuple[NDArray[np.float64], NDArray[np.float64], float, list[float], str]


def _robust(logs: NDArray[np.float64], design: Design) -> _Fit:
    import statsmodels.api as sm

    fitted = sm.OLS(logs, design.regressors).fit(cov_type="HC3", use_t=True)
    freedom = [float(fitted.df_resid)] * design.regressors.shape[1]
    return fitted.params.to_numpy(), fitted.bse.to_numpy(), math.sqrt(fitted.scale), freedom, ROBUST


def _mixed(logs: NDArray[np.float64], design: Design) -> _Fit:
    regressors = design.regressors.to_numpy(dtype=np.float64)
    try:
        fitted = random_intercept(logs - logs.mean(), regressors, design.frame["person"].to_numpy().astype(str))
    except np.linalg.LinAlgError:
        return _clustered(logs, design)
    return fitted.coefficients, fitted.errors, math.sqrt(fitted.within + fitted.between), _freedom(design), MIXED


def _clustered(logs: NDArray[np.float64], design: Design) -> _Fit:
    """Where the variance of people cannot be found."""
    import statsmodels.api as sm

    codes = pd.factorize(design.frame["person"])[0]
    fitted = sm.OLS(logs, design.regressors).fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=True)
    n = design.frame["person"].nunique()
    freedom = [float(max(n - 1, 1))] * design.regressors.shape[1]
    return fitted.params.to_numpy(), fitted.bse.to_numpy(), math.sqrt(fitted.scale), freedom, CLUSTERED


def _freedom(design: Design) -> list[float]:
    """Degrees of freedom of each regressor: within people where it varies within them, else between them."""
    people = design.frame["person"]
    n_rows, n_people = len(people), people.nunique()
    of_people = design.regressors.groupby(people.to_numpy())
    is_within = (of_people.max() - of_people.min()).max() > 1e-12
    between = max(n_people - int((~is_within).sum()), 1)
    within = max(n_rows - n_people - int(is_within.sum()), 1)
    return [float(min(within, between) if inside else between) for inside in is_within]
