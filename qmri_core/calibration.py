"""Intensity scales of series at three levels: cohort and group from all sessions, session by empirical Bayes.

A session's signals of white matter, grey matter and CSF deviate from their group's means because its scales deviate,
and because people do. Both act together on all contrasts and tissues: a scale moves all tissues of a contrast, a
person's T1 moves one tissue in all contrasts. What tissues do comes from the population and the signal models, how much
scales vary from the cohort itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from qmri_core.acquisition import CONTRASTS, Acquisition, Contrast
from qmri_core.population import MEMBERS, Population, pd_relation, population
from qmri_core.preprocessing.tissue import TISSUES, core

MIN_VOXELS = 200
"""Voxels of a tissue's core that a session needs to say anything about its scales."""
ANCHOR = "WM"
"""The tissue that sets the group's scale."""
_ERRORS: Mapping[str, Mapping[Contrast, float]] = {
    "WM": dict.fromkeys(CONTRASTS, 0.005),
    "GM": dict.fromkeys(CONTRASTS, 0.015),
    "CSF": {Contrast.T1W: 0.10, Contrast.T2W: 0.03},
}
"""Standard deviation of the log of a session's signal by partial volume and noise, assumed; CSF on FLAIR is nulled, and
says nothing."""
_TRANSMIT_SPREAD = 0.03
"""Of the mean transmit scale between sessions, assumed."""
_PD_SCATTER = 0.015
"""Of PD about the relation with T1, between people (as `qmri_core.population.sample_tissues`, within one tissue)."""
COHORT_PRIOR, COHORT_WEIGHT = 0.05, 4.0
"""Spread of scales before any session is seen, assumed, and how many sessions that counts as."""
GROUP_WEIGHT = 12.0
"""How many sessions the cohort's spread counts as in a group."""
_N_ITERATIONS = 60
_STEP = 0.03

Signals = Mapping[Contrast, Mapping[str, float]]
"""Signals of the tissues of `TISSUES` by contrast; NaN where not known."""


class CalibrationError(ValueError):
    """A group's scales cannot be determined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleCalibration:
    """What is known of the intensity scale of one contrast in one group.

    ``scale`` is in image units per unit of proton density and signal, ``reference_signal`` the model's signal of the
    population's white matter. ``white_matter_signal``, ``grey_matter_signal`` and ``csf_signal`` are geometric means
    over sessions, NaN where no session has one. ``spread`` is the standard deviation over sessions of the log of the
    scale, as far as the data could tell it from biology; ``determined`` is the share of its variance that a session's
    signals determine: 0 leaves every session the group's scale.
    """

    scale: float
    reference_signal: float
    white_matter_signal: float
    grey_matter_signal: float
    csf_signal: float
    spread: float
    determined: float
    n_sessions: int

    def mean_signal(self, tissue: str) -> float:
        """Geometric mean over sessions of the signal of a tissue of `TISSUES`."""
        value: float = getattr(self, f"{MEMBERS[tissue]}_signal")
        return value


def tissue_signals(
    images: Mapping[Contrast, NDArray[np.float32]], tissue: NDArray[np.uint8]
) -> dict[Contrast, dict[str, float]]:
    """Median of each image in the core of each tissue of `TISSUES`; NaN with fewer than `MIN_VOXELS` voxels."""
    cores = {name: core(tissue, label) for name, label in TISSUES.items()}
    result: dict[Contrast, dict[str, float]] = {}
    for contrast, image in images.items():
        result[contrast] = {}
        for name, inside in cores.items():
            values = image[inside]
            values = values[np.isfinite(values)]
            result[contrast][name] = float(np.median(values)) if values.size >= MIN_VOXELS else math.nan
    return result


def calibrate_group(
    sessions: Sequence[Signals], acquisitions: Mapping[Contrast, Acquisition], cohort: Mapping[Contrast, float]
) -> dict[Contrast, ScaleCalibration]:
    """Scales of a group from the signals of its sessions.

    The reference acts on the *group mean*: the group's scale is the geometric mean over sessions of the white-matter
    signal over the signal that the model gives for the population's white matter.

    Parameters
    ----------
    sessions
        From `tissue_signals`.
    acquisitions
        Of the group.
    cohort
        Spread of scales by contrast, from `scale_spreads` over the whole cohort.

    Raises
    ------
    CalibrationError
        If no session has a usable white-matter signal in some contrast.
    FieldStrengthError
        If no population values exist for the field strength.
    """
    values = population(next(iter(acquisitions.values())).field_strength)
    usable = [session for session in sessions if _is_usable(session, acquisitions)]
    if not usable:
        raise CalibrationError(
            f"no session of the group has {MIN_VOXELS} voxels of white matter in all of {', '.join(acquisitions)}; "
            "their intensity scales cannot be set"
        )
    logs = _logs(usable, acquisitions)
    means = _means(logs)
    deviations = logs - means
    spreads = _spreads([(deviations, acquisitions)], cohort, GROUP_WEIGHT)
    _, covariance = _posterior(np.zeros(logs.shape[1]), acquisitions, spreads)
    result = {}
    for index, contrast in enumerate(acquisitions):
        reference = reference_signal(acquisitions[contrast], values)
        own = {
            tissue: float(np.exp(mean))
            for (one, tissue), mean in zip(observations(acquisitions), means, strict=True)
            if one is contrast
        }
        result[contrast] = ScaleCalibration(
            scale=own[ANCHOR] / reference,
            reference_signal=reference,
            white_matter_signal=own[ANCHOR],
            grey_matter_signal=own["GM"],
            csf_signal=own.get("CSF", math.nan),
            spread=spreads[contrast],
            determined=float(1 - covariance[index, index] / spreads[contrast] ** 2),
            n_sessions=len(usable),
        )
    return result


def scale_spreads(
    groups: Sequence[tuple[Sequence[Signals], Mapping[Contrast, Acquisition]]],
) -> dict[Contrast, float]:
    """Spread of log scales between sessions of a group, by contrast, from all groups of a cohort together.

    Expectation maximisation (Dempster, Laird, Rubin 1977, J R Stat Soc B 39:1) of the variances in the normal model of
    `session_scales`; `COHORT_PRIOR` holds where there are few sessions.

    Parameters
    ----------
    groups
        Signals of the sessions of a group, and its acquisitions; of field strengths with population values.
    """
    prepared = []
    for sessions, acquisitions in groups:
        usable = [session for session in sessions if _is_usable(session, acquisitions)]
        if len(usable) > 1:
            logs = _logs(usable, acquisitions)
            prepared.append((logs - _means(logs), acquisitions))
    return _spreads(prepared, dict.fromkeys(CONTRASTS, COHORT_PRIOR), COHORT_WEIGHT)


def session_scales(
    calibrations: Mapping[Contrast, ScaleCalibration], signals: Signals, acquisitions: Mapping[Contrast, Acquisition]
) -> dict[Contrast, float]:
    """Scales of one session: the group's times the posterior mean of the session's deviations.

    The normal model: the deviations of the log signals from the group's means are those of the tissues' T1, T2 and PD,
    through the signal models, with the population's spread; of the transmit field; of the scales, equal in all tissues
    of a contrast; and of the measurement.

    Parameters
    ----------
    calibrations
        Of the group, by contrast.
    signals
        Of the session, from `tissue_signals`; what is NaN or not positive is left out.
    acquisitions
        Of the group.
    """
    means = np.asarray([calibrations[contrast].mean_signal(tissue) for contrast, tissue in observations(acquisitions)])
    with np.errstate(invalid="ignore"):
        deviations = _logs([signals], acquisitions)[0] - np.log(means)
    spreads = {contrast: calibrations[contrast].spread for contrast in acquisitions}
    shifts, _ = _posterior(deviations, acquisitions, spreads)
    return {
        contrast: float(calibrations[contrast].scale * np.exp(shift))
        for contrast, shift in zip(acquisitions, shifts, strict=True)
    }


def scale_shifts(
    deviations: NDArray[np.float64], acquisitions: Mapping[Contrast, Acquisition], spreads: Mapping[Contrast, float]
) -> NDArray[np.float64]:
    """Posterior mean of the log scales' deviations, one per contrast, from those of the signals of `observations`."""
    return _posterior(deviations, acquisitions, spreads)[0]


def observations(acquisitions: Mapping[Contrast, Acquisition]) -> list[tuple[Contrast, str]]:
    """Contrasts and tissues whose signals the scales of a protocol are estimated from, in order."""
    return [(contrast, tissue) for contrast in acquisitions for tissue in TISSUES if contrast in _ERRORS[tissue]]


def measurement_error(contrast: Contrast, tissue: str) -> float:
    """Assumed standard deviation of the log of a session's signal of a tissue, beside what tissues and scales do."""
    return _ERRORS[tissue][contrast]


def reference_signal(acquisition: Acquisition, values: Population) -> float:
    """Magnitude of the model's signal for the population's white matter."""
    import torch

    from qmri_core.physics.registry import signal

    wm = values.white_matter
    pd, t1, t2 = (torch.tensor(v, dtype=torch.float64) for v in (wm.pd, wm.t1, wm.t2))
    return abs(float(signal(acquisition, pd, t1, t2)))


def _is_usable(session: Signals, acquisitions: Mapping[Contrast, Acquisition]) -> bool:
    white = [session.get(contrast, {}).get(ANCHOR, math.nan) for contrast in acquisitions]
    return all(math.isfinite(value) and value > 0 for value in white)


def _logs(sessions: Sequence[Signals], acquisitions: Mapping[Contrast, Acquisition]) -> NDArray[np.float64]:
    """Log signals, shape (session, observation); NaN where not known."""
    rows = [
        [session.get(contrast, {}).get(tissue, math.nan) for contrast, tissue in observations(acquisitions)]
        for session in sessions
    ]
    values = np.asarray(rows, dtype=np.float64)
    return np.log(np.where(values > 0, values, np.nan))


def _means(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over sessions of each column's finite values; NaN without any."""
    finite = np.isfinite(logs)
    counts = finite.sum(axis=0)
    sums = np.where(finite, logs, 0.0).sum(axis=0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _spreads(
    groups: Sequence[tuple[NDArray[np.float64], Mapping[Contrast, Acquisition]]],
    prior: Mapping[Contrast, float],
    weight: float,
) -> dict[Contrast, float]:
    """Spread of the scales by contrast that deviations (session, observation) of groups show; see `scale_spreads`."""
    spreads = dict(prior)
    for _ in range(_N_ITERATIONS):
        total = {contrast: weight * prior[contrast] ** 2 for contrast in prior}
        counts = dict.fromkeys(prior, weight)
        for deviations, acquisitions in groups:
            n = len(deviations)
            if n < 2:
                continue
            for row in deviations * math.sqrt(n / (n - 1)):  # they are from the mean of themselves
                shifts, covariance = _posterior(row, acquisitions, spreads)
                for index, contrast in enumerate(acquisitions):
                    total[contrast] += (shifts[index] ** 2 + covariance[index, index]) * (n - 1) / n
                    counts[contrast] += (n - 1) / n
        renewed = {contrast: math.sqrt(total[contrast] / counts[contrast]) for contrast in prior}
        moved = max(abs(renewed[contrast] / spreads[contrast] - 1) for contrast in prior)
        spreads = renewed
        if moved < 1e-4:
            break
    return spreads


def _posterior(
    deviations: NDArray[np.float64], acquisitions: Mapping[Contrast, Acquisition], spreads: Mapping[Contrast, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and covariance of the log scales' deviations given the finite ones of the signals' deviations."""
    key = tuple((contrast, acquisitions[contrast], float(spreads[contrast])) for contrast in acquisitions)
    known = tuple(bool(value) for value in np.isfinite(deviations))
    gain, covariance = _gain(key, known)
    return gain @ np.where(np.isfinite(deviations), deviations, 0.0), covariance


@lru_cache(maxsize=4096)
def _gain(
    key: tuple[tuple[Contrast, Acquisition, float], ...], known: tuple[bool, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    acquisitions = {contrast: acquisition for contrast, acquisition, _ in key}
    variances = np.square([spread for *_, spread in key])
    names = observations(acquisitions)
    biology = _biology(tuple(acquisitions.values()))
    membership = np.asarray([[float(one is contrast) for contrast in acquisitions] for one, _ in names])
    errors = np.diag([_ERRORS[tissue][contrast] ** 2 for contrast, tissue in names])
    use = np.flatnonzero(known)
    total = (biology + (membership * variances) @ membership.T + errors)[np.ix_(use, use)]
    cross = (membership * variances)[use]
    gain = np.zeros((len(key), len(names)))
    gain[:, use] = np.linalg.solve(total, cross).T
    return gain, np.diag(variances) - gain[:, use] @ cross


@lru_cache(maxsize=512)
def _biology(acquisitions: tuple[Acquisition, ...]) -> NDArray[np.float64]:
    """Covariance of the log signals of `observations` over people and transmit fields, first order."""
    import torch

    from qmri_core.physics.registry import fast_signal

    values = population(acquisitions[0].field_strength)
    offset, slope = pd_relation(values)
    members = {tissue: getattr(values, member) for tissue, member in MEMBERS.items()}
    names = observations({acquisition.contrast: acquisition for acquisition in acquisitions})
    of = {acquisition.contrast: acquisition for acquisition in acquisitions}
    columns = [(tissue, quantity) for tissue in TISSUES for quantity in ("t1", "t2", "pd")]
    slopes = np.zeros((len(names), len(columns) + 1))

    def log_signal(acquisition: Acquisition, t1: float, t2: float, pd: float, transmit: float = 1.0) -> float:
        tensors = [torch.tensor([v], dtype=torch.float64) for v in (pd, t1, t2)]
        scale = torch.tensor([transmit], dtype=torch.float64)
        return float(torch.log(fast_signal(acquisition, *tensors, transmit_scale=scale).abs()))

    for row, (contrast, tissue) in enumerate(names):
        one, acquisition = members[tissue], of[contrast]
        for column, (other, quantity) in enumerate(columns):
            if other != tissue:
                continue
            ends = []
            for sign in (1, -1):
                factor = math.exp(sign * _STEP)
                t1, t2, pd = one.t1, one.t2, one.pd
                if quantity == "t1":
                    pd = pd if tissue == "CSF" else pd * (offset + slope / t1) / (offset + slope / (t1 * factor))
                    t1 *= factor
                elif quantity == "t2":
                    t2 *= factor
                else:
                    pd *= factor
                ends.append(log_signal(acquisition, t1, t2, pd))
            slopes[row, column] = (ends[0] - ends[1]) / (2 * _STEP)
        ends = [log_signal(acquisition, one.t1, one.t2, one.pd, 1 + sign * _STEP) for sign in (1, -1)]
        slopes[row, -1] = (ends[0] - ends[1]) / (2 * _STEP)
    spread = np.zeros(len(columns) + 1)
    for column, (tissue, quantity) in enumerate(columns):
        if quantity == "pd":
            spread[column] = members[tissue].pd_spread if tissue == "CSF" else _PD_SCATTER
        else:
            spread[column] = getattr(members[tissue], f"{quantity}_spread")
    spread[-1] = _TRANSMIT_SPREAD
    correlation = np.eye(len(spread))
    for quantity in ("t1", "t2"):
        pair = [columns.index((tissue, quantity)) for tissue in ("WM", "GM")]
        correlation[pair, pair[::-1]] = values.correlation
    covariance = correlation * spread * spread[:, None]
    return np.asarray(slopes @ covariance @ slopes.T)
