"""Intensity scales of series at three levels: cohort and group from all sessions, session by empirical Bayes.

A session's signals of white matter, grey matter and CSF deviate from their group's means because its scales deviate,
and because people do. Both act together on all contrasts and tissues: a scale moves all tissues of a contrast, a
person's T1 moves one tissue in all contrasts. What tissues do comes from the population and the signal models, how much
scales vary from the cohort itself.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from qmri_core.calibration.estimation import (
    COMMON,
    GroupDeviations,
    Prior,
    estimate,
    estimated_spreads,
    weighted_means,
)
from qmri_core.calibration.hidden_parameters import Hidden, moved
from qmri_core.calibration.levels import GroupLevel, LevelGroup
from qmri_core.calibration.odd_scales import Part, odd_parts, session_weights, with_odd
from qmri_core.calibration.population import Population, population
from qmri_core.calibration.session_model import (
    PersonLevels,
    Spreads,
    is_likely,
    observations,
    person,
    posterior,
)
from qmri_core.preprocessing.tissue import core
from qmri_core.series.acquisition import CONTRASTS, Acquisition, Contrast, PulseSequence
from qmri_core.statistics import densest
from qmri_core.tissues import MEMBERS, TISSUES

MIN_CORE_VOXELS = 200
"""Voxels of a tissue's core that a session needs to say anything about its scales."""
ANCHOR = "WM"
"""The tissue that sets the group's scale."""
PRIOR_SPREADS = Spreads(own=dict.fromkeys(CONTRASTS, 0.05), common=0.05)
"""Standard deviations of log scales before any session is seen; assumed."""
COHORT_WEIGHT = 4.0
"""Number of sessions as which `PRIOR_SPREADS` counts; chosen, not estimated."""
GROUP_WEIGHT = 12.0
"""Number of sessions as which the spread of the cohort counts in a group; chosen, not estimated."""
_N_ROUNDS = 10

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
    scale beside those of the other series, ``common_spread`` of what all series of a session share, both as far as the
    data could tell them from biology; ``determined`` is the share of the variance of the scale that a session's signals
    determine: 0 leaves every session the group's scale. ``n_people`` is as many people with one session each as would
    give a mean as certain (Kish 1965, Survey Sampling, section 11.7): a person who comes often counts as one.
    ``n_left_out`` are sessions with white matter in all series that count for nothing, beside the ``n_sessions``.
    ``hidden`` is what the acquisition's header hides, as far as the cohort tells
    (`qmri_core.calibration.hidden_parameters`): models are taken at the parameters that it moves
    (`calibrated_acquisitions`). ``level`` is what is known of the group's people on average; ``None`` in calibrations
    of before levels, which took it for the population's.
    """

    scale: float
    reference_signal: float
    white_matter_signal: float
    grey_matter_signal: float
    csf_signal: float
    spread: float
    common_spread: float
    determined: float
    n_sessions: int
    n_people: float
    n_left_out: int = 0
    hidden: tuple[Hidden, ...] = ()
    level: GroupLevel | None = None

    def mean_signal(self, tissue: str) -> float:
        """Geometric mean over sessions of the signal of a tissue of `TISSUES`."""
        value: float = getattr(self, f"{MEMBERS[tissue]}_signal")
        return value


def tissue_signals(
    images: Mapping[Contrast, NDArray[np.float32]], tissue: NDArray[np.uint8]
) -> dict[Contrast, dict[str, float]]:
    """Signal of each tissue of `TISSUES` in its core, by contrast; NaN with fewer than `MIN_CORE_VOXELS` voxels.

    The median of white matter and CSF; of grey matter where its values crowd (`densest`): cortex is thin, and with more
    or less fluid in its voxels the median scatters by 2.2 (T1w), 2.9 (T2w) and 3.8 % (FLAIR) about what white matter
    and the person's tissue let expect, this by 1.9 % each (100 simulated sessions of 38 people).
    """
    cores = {name: core(tissue, label) for name, label in TISSUES.items()}
    result: dict[Contrast, dict[str, float]] = {}
    for contrast, image in images.items():
        result[contrast] = {}
        for name, inside in cores.items():
            values = image[inside]
            values = values[np.isfinite(values)]
            typical = densest if name == "GM" else np.median
            result[contrast][name] = float(typical(values)) if values.size >= MIN_CORE_VOXELS else math.nan
    return result


def calibrate_group(
    sessions: Sequence[Signals],
    acquisitions: Mapping[Contrast, Acquisition],
    cohort: Spreads,
    *,
    people: Sequence[str] | None = None,
    hidden: Mapping[Contrast, tuple[Hidden, ...]] | None = None,
    level: GroupLevel | None = None,
    suspects: Sequence[bool] | None = None,
) -> dict[Contrast, ScaleCalibration]:
    """Scales of a group from the signals of its sessions.

    The reference acts on the *group mean*: the group's scale is the geometric mean over sessions of the white-matter
    signal over the signal that the model gives for the white matter of its people on average (``level``). Sessions
    whose signals nobody has, or some of whose scales are none of the group's (`qmri_core.calibration.odd_scales`),
    count for nothing.

    Parameters
    ----------
    sessions
        From `tissue_signals`.
    acquisitions
        Of the group, by its headers.
    cohort
        Spreads of scales, from `scale_spreads` over the whole cohort.
    people
        Pseudonym of each session's person; ``None`` if all are others.
    hidden
        Of the group, from `qmri_core.calibration.hierarchy`; ``None`` to take the headers for complete.
    level
        Of the group, from there; ``None`` to take its people for the population.
    suspects
        Whether the headers of a session leave a scale open, as without a vendor's factor; ``None`` if of none.

    Raises
    ------
    CalibrationError
        If no session has a usable white-matter signal in some contrast.
    FieldStrengthError
        If no population values exist for the field strength.
    """
    values = population(next(iter(acquisitions.values())).field_strength)
    values = values if level is None else values.at(level.mean)
    hidden = hidden or {}
    acquisitions = {contrast: _moved(one, hidden.get(contrast, ())) for contrast, one in acquisitions.items()}
    prior = Prior(spreads=cohort, weight=GROUP_WEIGHT)
    is_usable, weights = _some_pooled(sessions, acquisitions, prior, suspects)
    logs = _logs(list(compress(sessions, is_usable)), acquisitions)
    means, spreads = estimate(logs, acquisitions, prior, weights)
    visits: Counter[object] = Counter()
    for who, weight in zip(
        compress(people if people is not None else range(len(sessions)), is_usable), weights.tolist(), strict=True
    ):
        visits[who] += weight
    n_usable = sum(_is_usable(session, acquisitions) for session in sessions)
    left = posterior(np.where(np.isfinite(means), 0.0, np.nan)[None], acquisitions, spreads).variances[0]
    signals = {key: float(np.exp(mean)) for key, mean in zip(observations(acquisitions), means, strict=True)}
    result: dict[Contrast, ScaleCalibration] = {}
    for contrast, variance in zip(acquisitions, left, strict=True):
        reference = reference_signal(acquisitions[contrast], values)
        result[contrast] = ScaleCalibration(
            scale=signals[contrast, ANCHOR] / reference,
            reference_signal=reference,
            white_matter_signal=signals[contrast, ANCHOR],
            grey_matter_signal=signals[contrast, "GM"],
            csf_signal=signals.get((contrast, "CSF"), math.nan),
            spread=spreads.own[contrast],
            common_spread=spreads.common,
            determined=float(1 - variance / (spreads.own[contrast] ** 2 + spreads.common**2)),
            n_sessions=len(logs),
            n_people=float(weights.sum()) ** 2 / sum(n**2 for n in visits.values()),
            n_left_out=n_usable - len(logs),
            hidden=hidden.get(contrast, ()),
            level=level,
        )
    return result


def _some_pooled(
    sessions: Sequence[Signals],
    acquisitions: Mapping[Contrast, Acquisition],
    prior: Prior,
    suspects: Sequence[bool] | None,
) -> tuple[list[bool], NDArray[np.float64]]:
    """Which sessions count, and how much each of these; at least one does."""
    weights = _weights(sessions, acquisitions, prior, suspects)
    if not weights.any():
        raise CalibrationError(
            f"no session of the group has {MIN_CORE_VOXELS} voxels of white matter in all of "
            f"{', '.join(acquisitions)}; their intensity scales cannot be set"
        )
    return [bool(one) for one in weights > 0], weights[weights > 0]


def is_calibrated_by(sessions: Sequence[Signals], acquisitions: Mapping[Contrast, Acquisition]) -> bool:
    """Whether `calibrate_group` finds a session to set the scales by."""
    return any(_which_count(sessions, acquisitions))


def level_group(
    sessions: Sequence[Signals],
    acquisitions: Mapping[Contrast, Acquisition],
    people: Sequence[str],
    *,
    clinics: Sequence[str],
    covariates: NDArray[np.float64],
    scanner: str,
    cohort: Spreads = PRIOR_SPREADS,
    suspects: Sequence[bool] | None = None,
) -> LevelGroup:
    """What a group's signals tell of its level and of what its headers hide.

    ``people``, ``clinics``, ``covariates`` and ``scanner`` as `qmri_core.calibration.levels.LevelGroup` has them, of
    all sessions; the others as for `calibrate_group`.
    """
    prior = Prior(spreads=cohort, weight=GROUP_WEIGHT)
    weights = _weights(sessions, acquisitions, prior, suspects)
    is_usable = [bool(one) for one in weights > 0]
    logs, own = _logs(list(compress(sessions, is_usable)), acquisitions), weights[weights > 0]
    return LevelGroup(
        acquisitions=acquisitions,
        spreads=estimate(logs, acquisitions, prior, own)[1] if len(logs) else cohort,
        logs=logs,
        weights=own,
        covariates=covariates[weights > 0],
        people=tuple(compress(people, is_usable)),
        clinics=tuple(compress(clinics, is_usable)),
        scanner=scanner,
    )


def calibrated_acquisitions(
    calibrations: Mapping[Contrast, ScaleCalibration], acquisitions: Mapping[Contrast, Acquisition]
) -> dict[Contrast, Acquisition]:
    """A session's acquisitions, by its headers, with what the calibration of its group says of hidden parameters."""
    return {contrast: _moved(one, calibrations[contrast].hidden) for contrast, one in acquisitions.items()}


def scale_spreads(
    groups: Sequence[tuple[Sequence[Signals], Mapping[Contrast, Acquisition]]],
    *,
    suspects: Sequence[Sequence[bool]] | None = None,
) -> Spreads:
    """Spreads of log scales between sessions of a group, from all groups of a cohort together.

    Expectation maximisation (Dempster, Laird, Rubin 1977, J R Stat Soc B 39:1) of the variances in the normal model of
    `session_scales`; `PRIOR_SPREADS` holds where there are few sessions. Odd ones are left out: those of each group by
    itself, then those beside what the others of the cohort show.

    Parameters
    ----------
    groups
        Signals of the sessions of a group, and its acquisitions; of field strengths with population values.
    suspects
        Of each group as for `calibrate_group`.
    """
    of_groups: Sequence[Sequence[bool] | None] = [None] * len(groups) if suspects is None else suspects
    start = Prior(spreads=PRIOR_SPREADS, weight=COHORT_WEIGHT)
    prior, result, before = start, PRIOR_SPREADS, None
    for _ in range(_N_ROUNDS):
        weights = [_weights(*group, prior, some) for group, some in zip(groups, of_groups, strict=True)]
        if before is not None and all(map(np.array_equal, weights, before)):
            break
        prepared = [
            _deviations_of(sessions, acquisitions, own)
            for (sessions, acquisitions), own in zip(groups, weights, strict=True)
        ]
        result = estimated_spreads(prepared, start)
        prior, before = Prior(spreads=result, weight=GROUP_WEIGHT), weights
    return result


def _deviations_of(
    sessions: Sequence[Signals], acquisitions: Mapping[Contrast, Acquisition], weights: NDArray[np.float64]
) -> GroupDeviations:
    """Of the sessions that count."""
    logs, own = _logs(list(compress(sessions, weights > 0)), acquisitions), weights[weights > 0]
    return GroupDeviations(deviations=logs - weighted_means(logs, own), weights=own, acquisitions=acquisitions)


def session_scales(
    calibrations: Mapping[Contrast, ScaleCalibration], signals: Signals, acquisitions: Mapping[Contrast, Acquisition]
) -> dict[Contrast, float]:
    """Scales of one session: the group's times the posterior mean of the session's deviations.

    See `qmri_core.calibration.session_model.posterior`. A scale that is odd beside the group's is told by the session's
    signals alone.

    Parameters
    ----------
    calibrations
        Of the group, by contrast.
    signals
        Of the session, from `tissue_signals`; what is NaN or not positive is left out.
    acquisitions
        Of the session, from `calibrated_acquisitions`.
    """
    deviations, spreads, _ = _of_session(calibrations, signals, acquisitions)
    estimated = posterior(deviations, acquisitions, spreads)
    return {
        contrast: float(calibrations[contrast].scale * np.exp(shift))
        for contrast, shift in zip(acquisitions, estimated.shifts[0], strict=True)
    }


def session_person(
    calibrations: Mapping[Contrast, ScaleCalibration], signals: Signals, acquisitions: Mapping[Contrast, Acquisition]
) -> PersonLevels:
    """What the signals of one session tell about its person; parameters as for `session_scales`.

    See `qmri_core.calibration.session_model.person`.
    """
    deviations, spreads, _ = _of_session(calibrations, signals, acquisitions)
    first = next(iter(calibrations.values()))
    known = {} if first.level is None else {"level": first.level.mean, "level_sd": first.level.sd}
    return person(deviations[0], acquisitions, spreads, n_people=first.n_people, **known)


def odd_scales(
    calibrations: Mapping[Contrast, ScaleCalibration], signals: Signals, acquisitions: Mapping[Contrast, Acquisition]
) -> dict[Part, float]:
    """Scales of a session that are none of its group's, over the group's; parameters as for `session_scales`.

    By contrast, or all together under `qmri_core.calibration.odd_scales.COMMON`. Empty for most sessions.
    """
    deviations, spreads, odd = _of_session(calibrations, signals, acquisitions)
    [parts] = posterior(deviations, acquisitions, spreads).parts
    by_part = dict(zip((*acquisitions, COMMON), np.exp(parts).tolist(), strict=True))
    return {part: by_part[part] for part in odd}


def is_nobodys(
    calibrations: Mapping[Contrast, ScaleCalibration], signals: Signals, acquisitions: Mapping[Contrast, Acquisition]
) -> bool:
    """Whether no person can have a session's signals in any scale, or it has none; parameters as for `session_scales`.

    See `qmri_core.calibration.session_model.is_likely`.
    """
    deviations = _deviations(calibrations, signals, acquisitions)
    return not (np.isfinite(deviations).any() and is_likely(deviations, acquisitions)[0])


def reference_signal(acquisition: Acquisition, values: Population) -> float:
    """Magnitude of the model's signal for the population's white matter."""
    import torch

    from qmri_core.physics.registry import signal

    wm = values.white_matter
    pd, t1, t2 = (torch.tensor(v, dtype=torch.float64) for v in (wm.pd, wm.t1, wm.t2))
    return abs(float(signal(acquisition, pd, t1, t2)))


def _moved(acquisition: Acquisition, hidden: Sequence[Hidden]) -> Acquisition:
    return moved(acquisition, {one.name: one.shift for one in hidden})


def _deviations(
    calibrations: Mapping[Contrast, ScaleCalibration], signals: Signals, acquisitions: Mapping[Contrast, Acquisition]
) -> NDArray[np.float64]:
    """Of a session's log signals from the group's means, shape (1, observation)."""
    means = np.asarray([calibrations[contrast].mean_signal(tissue) for contrast, tissue in observations(acquisitions)])
    with np.errstate(invalid="ignore"):
        return np.asarray(_logs([signals], acquisitions) - np.log(means))


def _of_session(
    calibrations: Mapping[Contrast, ScaleCalibration], signals: Signals, acquisitions: Mapping[Contrast, Acquisition]
) -> tuple[NDArray[np.float64], Spreads, tuple[Part, ...]]:
    """What the session model asks for: deviations from the group, shape (1, observation), and spreads; what is odd.

    Signals that nobody has tell nothing: the session gets the scales of its group.
    """
    deviations = _deviations(calibrations, signals, acquisitions)
    first = next(iter(calibrations.values()))
    own = {contrast: calibrations[contrast].spread for contrast in acquisitions}
    spreads = Spreads(own=own, common=first.common_spread)
    if not is_likely(deviations, acquisitions)[0]:
        return np.full_like(deviations, np.nan), spreads, ()
    [odd] = odd_parts(deviations, acquisitions, spreads, variance=1 + 1 / first.n_sessions)
    return deviations, with_odd(spreads, odd) if odd else spreads, odd


def _weights(
    sessions: Sequence[Signals],
    acquisitions: Mapping[Contrast, Acquisition],
    prior: Prior,
    suspects: Sequence[bool] | None,
) -> NDArray[np.float64]:
    """With which each session counts in its group; 0 of one that `_which_count` leaves out, or a scale of it is odd."""
    count = np.asarray(_which_count(sessions, acquisitions), dtype=bool)
    weights = np.zeros(len(sessions))
    if count.any():
        weights[count] = session_weights(
            _logs(list(compress(sessions, count)), acquisitions),
            acquisitions,
            prior,
            suspects=None if suspects is None else list(compress(suspects, count)),
        )
    return weights


def _which_count(sessions: Sequence[Signals], acquisitions: Mapping[Contrast, Acquisition]) -> list[bool]:
    """Sessions that the group's mean is of: with white matter in all series, and signals that somebody can have.

    One whose tissues were mistaken would move the mean of few, and with it the maps of all. The first centre is the
    median, the next those of the sessions that are left; all stay where none would.
    """
    is_usable = np.asarray([_is_usable(session, acquisitions) for session in sessions], dtype=bool)
    if is_usable.sum() < 3:
        return [bool(one) for one in is_usable]
    logs = _logs(list(compress(sessions, is_usable)), acquisitions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of an observation that no session has
        centre = np.nanmedian(logs, axis=0)
    stays = np.ones(len(logs), dtype=bool)
    for _ in range(_N_ROUNDS):
        likely = is_likely(logs - centre, acquisitions)
        if not likely.any() or np.array_equal(likely, stays):
            break
        stays, centre = likely, weighted_means(logs[likely], np.ones(int(likely.sum())))
    is_usable[is_usable] = stays
    return [bool(one) for one in is_usable]


def _is_usable(session: Signals, acquisitions: Mapping[Contrast, Acquisition]) -> bool:
    white = [session.get(contrast, {}).get(ANCHOR, math.nan) for contrast in acquisitions]
    return all(math.isfinite(value) and value > 0 for value in white)


def _logs(sessions: Sequence[Signals], acquisitions: Mapping[Contrast, Acquisition]) -> NDArray[np.float64]:
    """Log signals, shape (session, observation); NaN where not known, and for fluid that is inverted."""
    names = observations(acquisitions)
    rows = [[session.get(contrast, {}).get(tissue, math.nan) for contrast, tissue in names] for session in sessions]
    values = np.asarray(rows, dtype=np.float64)
    seen = [tissue != "CSF" or not _is_inverted(acquisitions[contrast]) for contrast, tissue in names]
    is_seen = np.asarray(seen, dtype=bool)  # of a session without acquisitions too
    return np.log(np.where((values > 0) & is_seen, values, np.nan))


def _is_inverted(acquisition: Acquisition) -> bool:
    """Whether fluid is negative behind the magnitude, so that tissue in its voxels cancels it: T1-FLAIR, in slices."""
    return acquisition.sequence is PulseSequence.INVERSION_RECOVERY_TSE
