"""Levels of groups against the truth: what is said of the people of each group on average, of one quantity.

Levels are logs, beside a constant that does not matter. The figures are the same at the level of tissue signals
(`qmri_core.simulation.clinics`) and of images (`flows.evaluation.levels`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qmri_core.statistics import JointMoments, inter_group_variation

YEARS = 15.0
"""Difference of age for which trends are stated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelScores:
    """How the levels of a cohort's groups go together with the truth.

    ``bias``: mean error, ``error``: its root mean square over groups; ``trend``: slope of the error on the groups' mean
    ages, per `YEARS`; ``cov`` and ``true_cov``: variation between groups as reported and as it is; ``within_one`` and
    ``within_two``: share of groups whose truth lies within one and two stated deviations. NaN where not known.
    """

    n_groups: int
    bias: float
    error: float
    trend: float
    cov: float
    true_cov: float
    within_one: float
    within_two: float


def level_scores(
    estimated: NDArray[np.float64],
    true: NDArray[np.float64],
    ages: NDArray[np.float64],
    *,
    sd: NDArray[np.float64] | None = None,
    is_shared: bool = False,
) -> LevelScores:
    """Compare the levels of groups with the truth.

    Parameters
    ----------
    estimated, true
        Logs, shape (group,).
    ages
        Mean of each group's people, years; NaN where not known.
    sd
        Stated standard deviation of each level; ``None`` where none is stated.
    is_shared
        Whether errors have a part that all groups share and ``sd`` does not hold, as that of the population's values:
        deviations are then counted beside their mean.

    Raises
    ------
    ValueError
        Without a group.
    """
    errors = np.asarray(estimated - true, dtype=np.float64)
    n = errors.size
    if n == 0:
        raise ValueError("no group has a level and a truth")
    shares = [math.nan, math.nan]
    if sd is not None and (n > 1 or not is_shared):
        beside = (errors - errors.mean()) * math.sqrt(n / (n - 1)) if is_shared else errors
        shares = [float(np.mean(np.abs(beside) <= k * sd)) for k in (1, 2)]
    return LevelScores(
        n_groups=n,
        bias=float(errors.mean()),
        error=float(np.sqrt(np.mean(errors**2))),
        trend=YEARS * JointMoments.of(ages, errors).slope,
        cov=_variation(estimated),
        true_cov=_variation(true),
        within_one=shares[0],
        within_two=shares[1],
    )


def _variation(levels: NDArray[np.float64]) -> float:
    return inter_group_variation([[level] for level in np.exp(levels).tolist()]).cov


def slope_over_people(estimated: Sequence[NDArray[np.float64]], true: Sequence[NDArray[np.float64]]) -> float:
    """Least-squares slope over people, each group beside its own mean: no difference between groups can pass for it.

    NaN with fewer than three pairs.

    Parameters
    ----------
    estimated, true
        Of the sessions of each group, shape (session,): ``true`` is what is asked for, such as truth, or ages.
    """
    total = JointMoments()
    for one, other in zip(estimated, true, strict=True):
        total += JointMoments.of(other, one).centred()
    return total.slope


def pooled_scores(cohorts: Sequence[LevelScores]) -> Mapping[str, float]:
    """Figures of one quantity over cohorts.

    Returns
    -------
    Mapping
        ``error``: root mean square; ``trend``: mean, and ``trend_error`` the standard error of it; ``cov_error``: root
        mean square of reported minus true variation; ``within_one`` and ``within_two``: means.
    """
    trends = np.asarray([one.trend for one in cohorts])
    return {
        "error": float(np.sqrt(np.mean([one.error**2 for one in cohorts]))),
        "trend": float(trends.mean()),
        "trend_error": float(trends.std(ddof=1) / math.sqrt(trends.size)) if trends.size > 1 else math.nan,
        "cov_error": float(np.sqrt(np.mean([(one.cov - one.true_cov) ** 2 for one in cohorts]))),
        "within_one": float(np.mean([one.within_one for one in cohorts])),
        "within_two": float(np.mean([one.within_two for one in cohorts])),
    }
