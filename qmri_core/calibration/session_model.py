"""Why sessions of a group differ: the linear normal model of the signals of their tissues.

Log signals of white matter, grey matter and CSF deviate from their group's means by the tissues' T1, T2 and PD,
through the signal models, with the population's spread; by the transmit field; by the scale of each series, equal in
all its tissues; by what all series share; and by the measurement. The model gives the scales of a session
(`qmri_core.calibration.scales`), and what can be known of people at all.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qmri_core.calibration.expectation import DEVIATIONS, UNTOLD_SCALE_SD, Expectation
from qmri_core.calibration.population import pd_relation, population
from qmri_core.series.acquisition import CONTRASTS, Acquisition, Contrast
from qmri_core.tissues import MEMBERS, TISSUES

_ERRORS: Mapping[str, Mapping[Contrast, float]] = {
    "WM": dict.fromkeys(CONTRASTS, 0.005),
    "GM": dict.fromkeys(CONTRASTS, 0.02),
    "CSF": {Contrast.T1W: 0.10, Contrast.T2W: 0.03},
}
"""Standard deviation of the log of a session's signal by partial volume and noise; assumed. CSF on FLAIR is nulled and
left out."""
_TRANSMIT_SPREAD = 0.03
"""Standard deviation of the mean transmit scale between sessions; assumed."""
_PD_SCATTER = 0.015
"""Standard deviation of the log of PD about its relation to T1 between people; assumed."""
_STEP = 0.03
_PARAMETERS = tuple((tissue, quantity) for tissue in TISSUES for quantity in ("t1", "t2", "pd"))
"""What differs between people; the transmit scale comes after them."""
LEVELS = (("WM", "t1"), ("WM", "t2"), ("GM", "t1"), ("GM", "t2"))
"""What is estimated of a person from the signals of a session: logs of T1 and T2 of white and grey matter."""
FURTHEST_LEVEL = 3.0
"""Largest `PersonLevels.mean`, in standard deviations between people: signals that say more are no person's."""
UNLIKELY = 1e-6
"""Probability below which the signals of a session are no person's: its tissues were not found, or it is misaligned."""
_ANY_SCALE = 10.0
"""Standard deviation of the log of a scale that is so wide that scales explain whatever they can."""
BESIDE_WHITE_MATTER: Mapping[tuple[str, str], float] = {
    ("GM", "t1"): 0.025, ("GM", "t2"): 0.035, ("GM", "pd"): 0.015,
    ("nuclei", "t1"): 0.06, ("nuclei", "t2"): 0.08, ("nuclei", "pd"): 0.02,
    ("CSF", "t1"): 0.03, ("CSF", "t2"): 0.15, ("CSF", "pd"): 0.005,
}  # fmt: skip
"""Standard deviations of the logs of the population's values beside those of its white matter, to which maps are
relative: what is known of a session's tissues cannot be more certain; assumed."""
MOST_WIDENED = 2.0
"""Largest factor of `PersonLevels.widened`. By it the mean square error is that of the group's mean, whatever the
signals determine: beyond it, a map would tell less of a person than the group does."""


def observations(acquisitions: Collection[Contrast]) -> list[tuple[Contrast, str]]:
    """Contrasts and tissues whose signals the model is about, in order."""
    return [(contrast, tissue) for contrast in acquisitions for tissue in TISSUES if contrast in _ERRORS[tissue]]


def measurement_error(contrast: Contrast, tissue: str) -> float:
    """Assumed standard deviation of the log of a session's signal of a tissue, beside what tissues and scales do."""
    return _ERRORS[tissue][contrast]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spreads:
    """Standard deviations over the sessions of a group.

    ``own``: of the log scale of a series beside the others, by contrast; ``common``: of what all series of a session
    share, such as the mean receive sensitivity.
    """

    own: Mapping[Contrast, float]
    common: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """Deviations of sessions' log scales.

    ``shifts`` and ``variances``: mean and variance by contrast, own and common part together, shape (session,
    contrast); ``parts`` and ``part_variances``: of the own parts and, last, the common one, shape (session,
    contrast + 1).
    """

    shifts: NDArray[np.float64]
    variances: NDArray[np.float64]
    parts: NDArray[np.float64]
    part_variances: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonLevels:
    """How far a session's person is from the population, in the logs of `LEVELS`; all of shape (len(LEVELS),).

    ``mean`` is the posterior mean: of the group's people on average, ``level`` (`qmri_core.calibration.levels`), known
    to a standard deviation of ``level_sd``, and beside it of the person. ``determined`` is the share of the variance
    between people that the signals determine, ``spread`` the standard deviation between people, ``n_people`` those that
    the group's mean is of.
    """

    mean: NDArray[np.float64]
    determined: NDArray[np.float64]
    spread: NDArray[np.float64]
    n_people: float
    level: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(LEVELS)))
    level_sd: NDArray[np.float64] | None = None
    """``None`` where nothing is known but that the mean of few people hides that of the population."""
    told: Expectation | None = None
    """Of all tissues of the session; ``None`` for what ``mean`` alone says of it."""

    @property
    def expectation(self) -> Expectation:
        """What the tissues of the session are expected to be."""
        if self.told is not None:
            return self.told
        known = dict(zip(LEVELS, self.mean.tolist(), strict=True))
        return Expectation(shift=tuple(known.get(each, 0.0) for each in DEVIATIONS))

    @property
    def widened(self) -> NDArray[np.float64]:
        """Deviations that are on average the true ones, where the signals determine half of their variance or more.

        Posterior means are drawn to the group's mean: every comparison of people with each other, or with their age,
        comes out too small by the factor ``determined``. Divided by it, deviations are the true ones and an error that
        knows nothing of them, as measurements are (classical error; Carroll et al. 2006, Measurement Error in Nonlinear
        Models, doi:10.1201/9781420010138, section 1.2): slopes on and differences between people are right, and people
        spread further than their true values do, by the error. Where less than half is determined the factor stops at
        `MOST_WIDENED`, and deviations stay too small by ``determined * MOST_WIDENED``.
        """
        return self.level + (self.mean - self.level) * self._factor

    def widened_sd(self, undetermined: Sequence[float]) -> NDArray[np.float64]:
        """What `widened` adds to the standard deviation that the network states.

        What signals leave open beyond what they do in training (``undetermined``, of the weights:
        `qmri_core.mapping.network.NetworkSettings`; the network is not told), the widening, and the error of the
        group's level.
        """
        hidden = 1 / self.n_people  # of a person alone, all: beside the mean of one there are no deviations
        stated = np.minimum(1 - self.determined, np.asarray(undetermined))
        left_open = 1 - self.determined - stated
        own = self.spread**2 * (1 - hidden) * (left_open + self.determined * (self._factor - 1) ** 2)
        of_group = hidden * self.spread**2 if self.level_sd is None else self.level_sd**2
        of_group = np.maximum(of_group - hidden * stated * self.spread**2, 0.0)
        return np.asarray(np.sqrt(own + of_group), dtype=np.float64)

    @property
    def _factor(self) -> NDArray[np.float64]:
        return np.minimum(1 / np.maximum(self.determined, 1e-6), MOST_WIDENED)


def person(
    deviations: NDArray[np.float64],
    acquisitions: Mapping[Contrast, Acquisition],
    spreads: Spreads,
    *,
    n_people: float,
    level: Sequence[float] = (0.0,) * len(LEVELS),
    level_sd: Sequence[float] | None = None,
) -> PersonLevels:
    """What the signals of one session tell about its person, by the model that tells its scales.

    Parameters
    ----------
    deviations
        Of the log signals of `observations` from the group's means, shape (observation,); NaN where not known.
    acquisitions, spreads
        Of the group.
    n_people
        Whose mean the group's is.
    level, level_sd
        Of the group's people on average, over the population's values, by `LEVELS`; logs. ``None`` for as many people
        of the population.
    """
    known = np.isfinite(deviations)
    gain, determined, spread = _of_people(
        tuple(acquisitions.values()), _variances(acquisitions, spreads), tuple(map(bool, known))
    )
    everything = np.clip(gain @ deviations[known], -FURTHEST_LEVEL * spread, FURTHEST_LEVEL * spread)
    left = spread * np.sqrt(np.clip(1 - determined, 0.0, 1.0))
    told = _told(everything, left, spread, level, level_sd, n_people)
    levels = [_PARAMETERS.index(each) for each in LEVELS]
    own, determined, spread = everything[levels], determined[levels], spread[levels]
    group = np.asarray(level, dtype=np.float64)
    shifts = posterior(deviations[None], acquisitions, spreads).variances[0]
    scale_sds = dict(zip(acquisitions, np.sqrt(np.clip(shifts, 0.0, None)).tolist(), strict=True))
    first, second, third = (scale_sds.get(contrast, UNTOLD_SCALE_SD) for contrast in CONTRASTS)
    return PersonLevels(
        told=replace(told, scale_sds=(first, second, third)),
        mean=group + own,
        determined=determined,
        spread=spread,
        n_people=n_people,
        level=group,
        level_sd=None if level_sd is None else np.asarray(level_sd, dtype=np.float64),
    )


def _told(
    own: NDArray[np.float64],
    left: NDArray[np.float64],
    spread: NDArray[np.float64],
    level: Sequence[float],
    level_sd: Sequence[float] | None,
    n_people: float,
) -> Expectation:
    """What all tissues of a session are expected to be.

    Nuclei have no signals here: beside their group, where they follow grey matter, they follow the person's white and
    grey matter, with which they correlate as these do with each other.

    Parameters
    ----------
    own, left, spread
        Of `_PARAMETERS`: posterior means beside the group's level, their standard deviations, and those of people.
    """
    group = dict(zip(LEVELS, level, strict=True))
    few = spread / math.sqrt(max(n_people, 1.0))
    given = dict(zip(_PARAMETERS, few.tolist(), strict=True))
    if level_sd is not None:
        given |= dict(zip(LEVELS, level_sd, strict=True))
    at = {each: k for k, each in enumerate(_PARAMETERS)}
    shift, sd = [], []
    for kind, quantity in DEVIATIONS:
        beside = BESIDE_WHITE_MATTER.get((kind, quantity), 0.0)
        if kind == "nuclei":
            both = [at[tissue, quantity] for tissue in ("WM", "GM")]
            of_person = 0.0 if quantity == "pd" else float(np.sum(own[both] / spread[both])) / 3 * spread[both[1]]
            shift.append(group.get(("GM", quantity), 0.0) + of_person)
            sd.append(math.hypot(beside, given["GM", quantity], spread[both[1]]))
        else:
            k = at[kind, quantity]
            shift.append(group.get((kind, quantity), 0.0) + float(own[k]))
            sd.append(math.hypot(beside, given[kind, quantity], float(left[k])))
    return Expectation(shift=tuple(map(float, shift)), sd=tuple(map(float, sd)))


def posterior(
    deviations: NDArray[np.float64], acquisitions: Mapping[Contrast, Acquisition], spreads: Spreads
) -> Posterior:
    """What the signals of sessions tell about their scales.

    Parameters
    ----------
    deviations
        Of the log signals of `observations` from the group's means, shape (session, observation); NaN where not known.
    acquisitions
        Of the group.
    spreads
        Of the scales.
    """
    key = tuple(acquisitions.values())
    variances = _variances(acquisitions, spreads)
    n = len(key)
    parts, part_variances = (np.empty((len(deviations), n + 1)) for _ in range(2))
    left = np.empty((len(deviations), n))
    finite = np.isfinite(deviations)
    patterns, member = np.unique(finite, axis=0, return_inverse=True)
    for number, known in enumerate(patterns):
        rows = member.reshape(-1) == number
        gain, covariance = _gain(key, variances, tuple(map(bool, known)))
        parts[rows] = np.where(known, deviations[rows], 0.0) @ gain.T
        diagonal = np.diag(covariance)
        part_variances[rows] = diagonal
        left[rows] = diagonal[:n] + diagonal[n] + 2 * covariance[:n, n]
    return Posterior(shifts=parts[:, :n] + parts[:, n:], variances=left, parts=parts, part_variances=part_variances)


def is_likely(deviations: NDArray[np.float64], acquisitions: Mapping[Contrast, Acquisition]) -> NDArray[np.bool_]:
    """Whether a person, measured as assumed and in whatever scales, can have the signals of each session.

    By the squared distance of the normal model (Mahalanobis), chi-square distributed over as many degrees of freedom as
    signals are known beyond one in each series, against `UNLIKELY`.

    Parameters
    ----------
    deviations
        Of the log signals of `observations` from the group's means, shape (session, observation); NaN where not known.
    """
    from scipy import stats

    slopes, covariance = _model(tuple(acquisitions.values()))
    contrasts = tuple(acquisitions)
    total = slopes @ covariance @ slopes.T + _scales_and_errors(contrasts, (_ANY_SCALE**2,) * (len(contrasts) + 1))
    series = np.asarray([contrasts.index(contrast) for contrast, _ in observations(contrasts)])
    result = np.ones(len(deviations), dtype=bool)
    for number, row in enumerate(deviations):
        known = np.flatnonzero(np.isfinite(row))
        freedom = known.size - np.unique(series[known]).size
        if freedom:
            distance = row[known] @ np.linalg.solve(total[np.ix_(known, known)], row[known])
            result[number] = stats.chi2.sf(distance, freedom) >= UNLIKELY
    return result


def expected_slopes(
    acquisitions: Mapping[Contrast, Acquisition],
    spread: float,
    *,
    common: float = 0.05,
    tissues: Collection[str] = tuple(TISSUES),
) -> dict[tuple[str, str], float]:
    """Slope over people of the best linear estimate of a tissue's T1 and T2 on the truth, beside an ideal group mean.

    It is the share of the variance between people that the signals determine: 1 minus posterior over prior variance.
    What an estimator loses here, no network wins back.

    Parameters
    ----------
    acquisitions
        Of the protocol, of a field strength with population values.
    spread
        Standard deviation of the log scale of each series between sessions, beside the others.
    common
        Of what all series of a session share.
    tissues
        Whose signals are used.

    Returns
    -------
    dict
        By tissue (``WM``, ``GM``) and quantity (``t1``, ``t2``).

    Raises
    ------
    FieldStrengthError
        If no population values exist for the field strength.
    """
    variances = _variances(acquisitions, Spreads(own=dict.fromkeys(acquisitions, spread), common=common))
    used = tuple(tissue in tissues for _, tissue in observations(acquisitions))
    _, determined, _ = _of_people(tuple(acquisitions.values()), variances, used)
    shares = dict(zip(_PARAMETERS, determined.tolist(), strict=True))
    return {level: shares[level] for level in _PARAMETERS if level in LEVELS}


def person_slopes(acquisitions: tuple[Acquisition, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Change of the log signals of `observations` per change of what differs between people; their covariance.

    Shapes (observation, parameter) and (parameter, parameter); the first ``len(LEVELS)`` parameters are `LEVELS`.

    Raises
    ------
    FieldStrengthError
        If no population values exist for the field strength.
    """
    slopes, covariance = _model(acquisitions)
    levels = [_PARAMETERS.index(level) for level in LEVELS]
    order = [*levels, *(k for k in range(len(_PARAMETERS)) if k not in levels)]
    return slopes[:, order], covariance[np.ix_(order, order)]


def covariance_of(
    acquisitions: tuple[Acquisition, ...], spreads: Spreads, *, widened: Sequence[float] = ()
) -> NDArray[np.float64]:
    """Of the log signals of `observations` between sessions: of people, scales and errors.

    ``widened`` is added to the variances of the scales: own ones by contrast and, last, the common one.
    """
    contrasts = tuple(acquisition.contrast for acquisition in acquisitions)
    slopes, covariance = _model(acquisitions)
    variances = _variances(contrasts, spreads)
    wide = variances if not widened else tuple(map(float.__add__, variances, map(float, widened)))
    return np.asarray(slopes @ covariance @ slopes.T + _scales_and_errors(contrasts, wide))


def _variances(contrasts: Collection[Contrast], spreads: Spreads) -> tuple[float, ...]:
    """Of the parts of the scales: own ones by contrast and, last, the common one."""
    return (*(float(spreads.own[contrast]) ** 2 for contrast in contrasts), float(spreads.common) ** 2)


@lru_cache(maxsize=256)
def _of_people(
    acquisitions: tuple[Acquisition, ...], variances: tuple[float, ...], known: tuple[bool, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """From known deviations to posterior means of `_PARAMETERS`; shares of variance they determine; prior spread."""
    slopes, covariance = _model(acquisitions)
    contrasts = tuple(acquisition.contrast for acquisition in acquisitions)
    total = slopes @ covariance @ slopes.T + _scales_and_errors(contrasts, variances)
    use = np.flatnonzero(known)
    n = len(_PARAMETERS)
    cross = slopes[use] @ covariance[:, :n]
    gain = np.asarray(np.linalg.solve(total[np.ix_(use, use)], cross).T, dtype=np.float64)
    variance = np.diag(covariance)[:n]
    determined: NDArray[np.float64] = np.einsum("ij,ji->i", gain, cross) / variance
    return gain, determined, np.sqrt(variance)


@lru_cache(maxsize=256)
def _gain(
    acquisitions: tuple[Acquisition, ...], variances: tuple[float, ...], known: tuple[bool, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """From known deviations to the parts of the scales, and the parts' posterior covariance."""
    contrasts = tuple(acquisition.contrast for acquisition in acquisitions)
    slopes, covariance = _model(acquisitions)
    total = slopes @ covariance @ slopes.T + _scales_and_errors(contrasts, variances)
    use = np.flatnonzero(known)
    cross = (membership(contrasts) * variances)[use]
    gain = np.zeros((len(variances), len(known)))
    gain[:, use] = np.linalg.solve(total[np.ix_(use, use)], cross).T
    return gain, np.diag(variances) - gain[:, use] @ cross


def membership(contrasts: tuple[Contrast, ...]) -> NDArray[np.float64]:
    """1 where an observation holds a part of the scales, own or common; shape (observation, contrast + 1)."""
    return np.asarray([[*(float(one is c) for c in contrasts), 1.0] for one, _ in observations(contrasts)])


def _scales_and_errors(contrasts: tuple[Contrast, ...], variances: tuple[float, ...]) -> NDArray[np.float64]:
    member = membership(contrasts)
    errors = np.diag([measurement_error(*one) ** 2 for one in observations(contrasts)])
    return np.asarray((member * variances) @ member.T + errors)


@lru_cache(maxsize=512)
def _model(acquisitions: tuple[Acquisition, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Change of the log signals of `observations` per change of `_PARAMETERS` and the log transmit scale; covariance.

    PD follows T1 between people (`pd_relation`), and scatters about it.
    """
    import torch

    from qmri_core.physics.registry import signal

    values = population(acquisitions[0].field_strength)
    offset, slope = pd_relation(values)
    names = observations([acquisition.contrast for acquisition in acquisitions])
    by_contrast = {acquisition.contrast: acquisition for acquisition in acquisitions}
    slopes = np.zeros((len(names), len(_PARAMETERS) + 1))
    factors = torch.ones((8, 4), dtype=torch.float64)  # of T1, T2, PD, transmit; one row up and one down for each
    for column in range(4):
        factors[2 * column, column], factors[2 * column + 1, column] = math.exp(_STEP), math.exp(-_STEP)
    for row, (contrast, tissue) in enumerate(names):
        reference = getattr(values, MEMBERS[tissue])
        t1, t2, pd = (factors[:, k] * value for k, value in enumerate((reference.t1, reference.t2, reference.pd)))
        if tissue != "CSF":
            pd = pd * (offset + slope / reference.t1) / (offset + slope / t1)
        # of eight values: the accurate model takes less than the table of the fast one
        logs = signal(by_contrast[contrast], pd, t1, t2, transmit_scale=factors[:, 3]).abs().log()
        changes = ((logs[::2] - logs[1::2]) / (2 * _STEP)).numpy()
        start = 3 * list(TISSUES).index(tissue)
        slopes[row, start : start + 3], slopes[row, -1] = changes[:3], changes[3]
    spread = [
        getattr(getattr(values, MEMBERS[tissue]), f"{quantity}_spread")
        if tissue == "CSF" or quantity != "pd"
        else _PD_SCATTER
        for tissue, quantity in _PARAMETERS
    ]
    deviations = np.asarray([*spread, _TRANSMIT_SPREAD])
    correlation = np.eye(len(deviations))
    for quantity in ("t1", "t2"):
        pair = [_PARAMETERS.index((tissue, quantity)) for tissue in ("WM", "GM")]
        correlation[pair, pair[::-1]] = values.correlation
    return slopes, correlation * deviations * deviations[:, None]
