"""Levels of groups: how far the people of each group are from the population, on average, and with what certainty.

Three images of unknown scale hold no absolute level (`qmri_core.calibration.scales`). What differs between groups can
be known all the same, in part: people differ with age and sex, which a cohort shows within its groups, where scales
cancel; people who are scanned in several groups carry one group's level to another; and the contrast of grey to white
matter tells a little. One normal model holds all of it. Deviations of the logs of `LEVELS` from the population's are

    person = population's trend with age and sex + clinic + own,

and a session sees them through the signal models, beside scales of its group that may be anything, what headers hide
(`qmri_core.calibration.hidden_parameters`) and its own scales (`qmri_core.calibration.session_model`). All sessions of
a person enter together, so that people who come to several groups weigh by their own differences, and not as a share
of two means. `qmri_core.calibration.hierarchy` solves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qmri_core.calibration.hidden_parameters import Hidden
from qmri_core.calibration.population import method_error, trend_of
from qmri_core.calibration.session_model import LEVELS, Spreads
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.tissues import used_value

REFERENCE_AGE = 45.0
"""Years at which the population's values hold; between sexes."""
AGE_WEIGHT = 10.0
"""Number of people as which `REFERENCE_AGE` counts where ages are unknown: few known ones say little; chosen."""
AGES = (18.0, 90.0)
"""Years beyond which the trends of adults are not continued."""
TRENDS: Mapping[tuple[str, str], tuple[tuple[float, float], ...]] = {level: trend_of(*level) for level in LEVELS}
"""Means and standard deviations, before any cohort is seen, of the change of the log per decade at `REFERENCE_AGE`, per
decade squared, and from men to women: a judgement, on sources that stand in ``qmri_core/population.csv``."""
CLINIC_SHARE = used_value("clinic share").value
"""Variance of the means of the people that clinics send, beyond age, over the variance between people; assumed. Nobody
has measured it; what people in several groups show of it is learned."""
CLINIC_WEIGHT = 10.0
"""Number of clinics as which `CLINIC_SHARE` counts; chosen, not estimated."""
METHOD_ERRORS: Mapping[tuple[str, str], float] = {level: method_error(*level) for level in LEVELS}
"""Standard deviations of the log of the population's values that methods of measurement differ by (see there). All
groups share this error."""


def trend_covariates(ages: NDArray[np.float64], sexes: NDArray[np.float64]) -> NDArray[np.float64]:
    """What `TRENDS` multiply, shape (person, 3).

    Parameters
    ----------
    ages
        Years, shape (person,); NaN where unknown: the mean of those that are known and of `AGE_WEIGHT` people of
        `REFERENCE_AGE`.
    sexes
        0.5 for women, -0.5 for men, 0 where unknown; shape (person,).
    """
    known = np.isfinite(ages)
    usual = (ages[known].sum() + AGE_WEIGHT * REFERENCE_AGE) / (known.sum() + AGE_WEIGHT)
    years = np.where(known, ages, usual)
    decades = (np.clip(years, *AGES) - REFERENCE_AGE) / 10
    return np.stack([decades, decades**2, sexes], axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelGroup:
    """Sessions of a group, as far as levels ask.

    ``logs`` are log signals of `observations`, shape (session, observation), NaN where not known; ``covariates`` those
    of `trend_covariates`, shape (session, 3); ``people`` and ``clinics`` codes of each session's; ``spreads`` those of
    the group's scales between sessions; ``weights`` how much each session counts, above 0 and at most 1; ``scanner`` a
    code: equal series of one scanner have one scale.
    """

    acquisitions: Mapping[Contrast, Acquisition]
    spreads: Spreads
    logs: NDArray[np.float64]
    weights: NDArray[np.float64]
    covariates: NDArray[np.float64]
    people: Sequence[str]
    clinics: Sequence[str]
    scanner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """What somebody measured, of a person or of the mean of a group's people.

    ``level`` is one of `LEVELS`, ``deviation`` the log of what was measured over the population's value, ``sd`` its
    standard deviation. Either ``group``, its place among those that are solved, or ``person`` is given. Anchors of one
    ``method`` and level have an error in common, of the standard deviation ``method_sd``; that of two tissues of a
    quantity is correlated by a half, since nobody knows whether a method errs alike in both (a judgement).
    """

    level: tuple[str, str]
    deviation: float
    sd: float
    group: int | None = None
    person: str | None = None
    method: str = ""
    method_sd: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLevel:
    """What is known of a group's people on average, by `LEVELS`; logs over the population's values.

    ``mean`` and its standard deviation ``sd`` without the error that all groups share (`METHOD_ERRORS`); ``from_ages``
    what trends with age and sex make of ``mean``; ``measured`` the share of the variance between clinics that data
    determine, 0 where the level is imposed; ``n_bridging`` people who are in other groups too; ``component`` the number
    of the set of groups that such people connect; ``apart`` the standard deviation of ``mean`` beside the mean over all
    groups of the cohort, empty where not known, and ``freedom`` of how many independent differences between groups
    these errors are; ``clinics`` the share of its sessions by code of the clinic.
    """

    mean: tuple[float, ...]
    sd: tuple[float, ...]
    from_ages: tuple[float, ...]
    measured: tuple[float, ...]
    n_bridging: int
    component: int
    apart: tuple[float, ...] = ()
    freedom: tuple[float, ...] = ()
    clinics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """Levels of the groups of a cohort, in their order, and what the cohort shows beside.

    ``trends`` and their standard deviations have the shape (level, covariate) of `trend_covariates`; ``clinic_sds``
    are those of clinics beyond age. ``common`` and ``common_sd``: what anchors say of the population's values; logs,
    shape (len(LEVELS),). ``hidden`` is what headers hide, of each group.
    """

    groups: Sequence[GroupLevel]
    trends: NDArray[np.float64]
    trend_sds: NDArray[np.float64]
    clinic_sds: NDArray[np.float64]
    common: NDArray[np.float64]
    common_sd: NDArray[np.float64]
    hidden: Sequence[Mapping[Contrast, tuple[Hidden, ...]]]
