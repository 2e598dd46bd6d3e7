"""A hospital's cohort at the level of tissue signals: groups of other ages and illnesses, people in several of them.

Travelling heads cannot show whether levels of groups follow their people. Here groups differ: by the ages of those who
are sent, by what else sends them (clinics), by scales that may be anything, and by what headers hide. Signals are those
of the accurate models at drawn tissue values, so that thousands of sessions take seconds; there are no images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from qmri_core.calibration.hidden_parameters import is_multi_slice
from qmri_core.calibration.population import pd_relation, population
from qmri_core.calibration.session_model import LEVELS, measurement_error, observations
from qmri_core.physics.header import acquisition_from_header
from qmri_core.physics.registry import fast_signal, signal
from qmri_core.series.acquisition import CONTRASTS, Acquisition, Contrast
from qmri_core.simulation.cohort import CLINIC_SPREADS
from qmri_core.simulation.protocols import SimulatedProtocol, protocol_table
from qmri_core.tissues import MEMBERS

_SPREADS = np.asarray([0.04, 0.04, 0.035, 0.05])
"""Between people, logs of `LEVELS`; of white and grey matter half of the variance is shared."""
_TRENDS = np.asarray(
    [
        [[0.0035, 0.004], [0.0035, 0.0015], [0.003, 0.006]],
        [[0.0135, 0.006], [0.0015, 0.0015], [0.0, 0.006]],
        [[-0.003, 0.006], [0.0, 0.001], [0.0, 0.006]],
        [[0.0, 0.010], [0.0, 0.0015], [0.0, 0.008]],
    ]
)
"""Mean and standard deviation, per decade at 45, per decade squared, women beside men: drawn anew for each cohort."""
_AGE_SPREAD = 16.0
_OLDEST, _YOUNGEST = 92.0, 18.0
_OWN_SCALE, _COMMON_SCALE = 0.03, 0.05
_TRANSMIT = 0.03
_CHANGE = 0.01
"""Between two visits of a person, logs of `LEVELS`."""
_GREY_OFFSETS: Mapping[Contrast, tuple[float, float]] = {
    Contrast.T1W: (0.0, 0.02), Contrast.T2W: (0.03, 0.02), Contrast.FLAIR: (-0.05, 0.02),
}  # fmt: skip
"""Log of grey over white matter beside the tissues' signals that all groups share: mean, and spread between cohorts."""
_GREY_ERROR = 0.012
"""The same between groups."""
_CORTEX = -0.08
"""Log of the transmit scale in cortex."""
_TRANSFER = (0.05, 0.02)
"""What magnetization transfer adds to the log of grey over white matter in multi-slice trains: mean, and spread between
groups."""
_FEW = 500
"""Values for which the accurate model takes less than the table of the fast one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnGroup:
    """Sessions of a group, with the truth.

    ``acquisitions`` are those of its headers, ``logs`` those of the signals by `observations`, shape (session,
    observation); ``people`` are codes, ``ages`` years, ``sexes`` 0.5 for women and -0.5 for men; ``truth``: logs of
    `LEVELS` over the population's values, shape (session, len(LEVELS)).
    """

    acquisitions: Mapping[Contrast, Acquisition]
    logs: NDArray[np.float64]
    people: Sequence[str]
    ages: NDArray[np.float64]
    sexes: NDArray[np.float64]
    truth: NDArray[np.float64]


def draw_clinics(
    *,
    sessions: int,
    groups: int,
    seed: int,
    years: float = 15.0,
    repeated: float = 0.10,
    clinics: float = 1.0,
    cortical_fluid: float = 0.0,
    common: Sequence[float] = (0.0,) * len(LEVELS),
) -> list[DrawnGroup]:
    """Draw a cohort; equal seeds give equal cohorts.

    Parameters
    ----------
    sessions, groups
        How many, in all; each group is a clinic with a scanner of its own.
    seed
        Non-negative.
    years
        Between the mean ages of the youngest and the oldest group.
    repeated
        Share of people who are scanned in a second group; one in ten of them also in a third.
    clinics
        Factor of what clinics differ by beyond age.
    cortical_fluid
        By which the signals of grey matter read longer T1 per decade, and T2 one and a half times as much, where
        tissue is as it was: fluid in the voxels of cortex, which mimics ageing.
    common
        By which all people differ from the population's values, logs of `LEVELS`: the error of these values.

    Raises
    ------
    ValueError
        With fewer sessions than groups.
    """
    if sessions < groups:
        raise ValueError(f"{sessions} sessions do not fill {groups} groups")
    rng = np.random.default_rng([seed, 83])
    table = protocol_table()
    trends = _TRENDS[..., 0] + _TRENDS[..., 1] * rng.standard_normal(_TRENDS.shape[:2])
    offsets = {contrast: mean + spread * rng.standard_normal() for contrast, (mean, spread) in _GREY_OFFSETS.items()}
    homes, visits = _visits(sessions, groups, repeated, rng)
    covariates = _covariates(homes, years, rng)
    offset = clinics * np.asarray(CLINIC_SPREADS) * _correlated(groups, rng)
    levels = np.asarray(common) + covariates @ trends.T + offset[homes] + _SPREADS * _correlated(len(homes), rng)
    scatter = 0.015 * rng.standard_normal((len(homes), 2))
    result = []
    for number in range(groups):
        here = visits[visits[:, 1] == number, 0]
        truth = levels[here] + _CHANGE / math.sqrt(2) * rng.standard_normal((len(here), len(LEVELS)))
        seen = truth.copy()
        seen[:, 2:] += cortical_fluid * covariates[here, :1] * np.asarray([1.0, 1.5])
        protocol = table[int(rng.integers(len(table)))] if groups > len(table) else table[number]
        result.append(
            DrawnGroup(
                acquisitions=_by_headers(protocol.name),
                logs=_signals(protocol, seen, scatter[here], offsets, rng),
                people=[f"p{one:05}" for one in here],
                ages=np.round(45 + 10 * covariates[here, 0]),
                sexes=covariates[here, 2],
                truth=truth,
            )
        )
    return result


def _covariates(homes: NDArray[np.intp], years: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Of each person decades from 45, their square, and the sex; groups differ in age."""
    groups = int(homes.max()) + 1
    means = 45 + years * (np.arange(groups) / max(groups - 1, 1) - 0.5)[rng.permutation(groups)]
    ages = np.clip(means[homes] + _AGE_SPREAD * rng.standard_normal(len(homes)), _YOUNGEST, _OLDEST)
    sexes = rng.choice([-0.5, 0.5], len(homes))
    decades = (ages - 45) / 10
    return np.stack([decades, decades**2, sexes], axis=1)


def _visits(
    sessions: int, groups: int, repeated: float, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Home group of each person; person and group of each session, of which every group has one at least."""
    share = rng.dirichlet(np.full(groups, 4.0))
    n_people = max(groups, round(sessions / (1 + 1.1 * repeated)))
    homes = np.concatenate([np.arange(groups), rng.choice(groups, n_people - groups, p=share)])
    visits = [(person, int(home)) for person, home in enumerate(homes)]
    while len(visits) < sessions and groups > 1:
        person = int(rng.integers(n_people))
        others = [group for group in range(groups) if group != homes[person]]
        for group in rng.permutation(others)[: 2 if rng.random() < 0.1 else 1]:
            visits.append((person, int(group)))
    return homes, np.asarray(visits[:sessions])


def _correlated(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Standard normal by `LEVELS`; those of white and grey matter correlate by one half."""
    shared = np.repeat(rng.standard_normal((n, 1, 2)), 2, axis=1)
    return np.asarray(math.sqrt(0.5) * (shared + rng.standard_normal((n, 2, 2)))).reshape(n, len(LEVELS))


@lru_cache(maxsize=64)
def _by_headers(name: str) -> Mapping[Contrast, Acquisition]:
    protocol = next(one for one in protocol_table() if one.name == name)
    return {
        one.contrast: acquisition_from_header(one.header, one.contrast, one.acquisition.sequence)
        for one in protocol.series
    }


def _signals(
    protocol: SimulatedProtocol,
    levels: NDArray[np.float64],
    scatter: NDArray[np.float64],
    offsets: Mapping[Contrast, float],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Log signals of the sessions of a group, by what its scanner did."""
    n = len(levels)
    values = population(3.0)
    a, b = pd_relation(values)
    transmit = np.exp(_TRANSMIT * rng.standard_normal(n))
    transfer = rng.normal(*_TRANSFER)
    common = _COMMON_SCALE * rng.standard_normal(n)
    columns = []
    acquired = {one.contrast: one.acquisition for one in protocol.series}
    scales = {one: rng.normal(5.0, 2.0) + common + _OWN_SCALE * rng.standard_normal(n) for one in CONTRASTS}
    grey = {one: offsets[one] + _GREY_ERROR * rng.standard_normal() for one in CONTRASTS}
    for contrast, tissue in observations(CONTRASTS):
        reference = getattr(values, MEMBERS[tissue])
        if tissue == "CSF":
            t1, t2 = (np.exp(sd * rng.standard_normal(n)) for sd in (reference.t1_spread, reference.t2_spread))
            t1, t2, pd = reference.t1 * t1, reference.t2 * t2, np.full(n, reference.pd)
        else:
            first = 0 if tissue == "WM" else 2
            t1, t2 = (reference.t1 * np.exp(levels[:, first]), reference.t2 * np.exp(levels[:, first + 1]))
            pd = reference.pd * (a + b / reference.t1) / (a + b / t1) * np.exp(scatter[:, first // 2])
        error = measurement_error(contrast, tissue) * rng.standard_normal(n)
        log = _log_signal(acquired[contrast], pd, t1, t2, transmit) + scales[contrast] + error
        if tissue == "GM":
            log += grey[contrast] + _at_cortex(acquired[contrast], pd, t1, t2, transmit)
            log += transfer * is_multi_slice(acquired[contrast])
        columns.append(log)
    return np.stack(columns, axis=1)


def _log_signal(
    acquisition: Acquisition,
    pd: NDArray[np.float64],
    t1: NDArray[np.float64],
    t2: NDArray[np.float64],
    transmit: NDArray[np.float64],
) -> NDArray[np.float64]:
    model = signal if len(pd) < _FEW else fast_signal
    tissue = (torch.from_numpy(values) for values in (pd, t1, t2))
    values = model(acquisition, *tissue, transmit_scale=torch.from_numpy(transmit))
    return np.asarray(values.abs().clamp_min(1e-6).log().numpy())


def _at_cortex(
    acquisition: Acquisition,
    pd: NDArray[np.float64],
    t1: NDArray[np.float64],
    t2: NDArray[np.float64],
    transmit: NDArray[np.float64],
) -> NDArray[np.float64]:
    """What the weaker field at the surface does to grey matter, beside what it does to the white matter there.

    That is divided out with the bias field.
    """
    wm = population(3.0).white_matter
    white = (np.full_like(t1, value) for value in (wm.pd, wm.t1, wm.t2))
    there = transmit * math.exp(_CORTEX)
    one, other, three = white
    result = _log_signal(acquisition, pd, t1, t2, there) - _log_signal(acquisition, pd, t1, t2, transmit)
    return (
        result
        - _log_signal(acquisition, one, other, three, there)
        + _log_signal(acquisition, one, other, three, transmit)
    )
