"""Whether several sessions of a group share a second scale, as all exports of one kind do, or the group is just wide.

A whole series type with a lost factor is no heap of single outliers: the sessions agree with each other, at a distance.
Held against one wide spread for all, by the probability of what is seen, that tells milder factors than one by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qmri_core.calibration.estimation import COMMON, Prior, evidence
from qmri_core.calibration.session_model import Spreads, covariance_of, observations
from qmri_core.series.acquisition import Acquisition, Contrast

SECOND_PROBABILITY = 0.1
"""Prior probability that one series, or all, of some sessions of a group have a second scale in common; assumed."""
SECOND_SPREAD = 2.0
"""Standard deviation of the log of the factor between two scales of a group; assumed."""
SMALLEST = math.log(1.2)
"""Factors below are no second scale: people and coils that come again and again differ by as much."""
WIDE_PROBABILITY = 0.1
"""Prior probability that the scales of a group are arbitrary, as without a fixed gain; assumed."""
WIDE = Prior(spreads=Spreads(own={}, common=0.1), weight=1.0)
"""What their spreads may be: from a few per cent to a factor."""
_N_CUTS = 3
"""Divisions of the group that are looked at closely, of each part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Of a group: which sessions share a second scale, of most groups none, and log probability of the signals."""

    second: NDArray[np.bool_]
    log_probability: float


def second_scale(
    logs: NDArray[np.float64],
    acquisitions: Mapping[Contrast, Acquisition],
    prior: Prior,
    suspected: NDArray[np.bool_],
    *,
    stays: NDArray[np.bool_],
    odd_scores: float,
) -> Explanation:
    """What explains a group best: two scales, one for all, or the odd sessions that were found one by one.

    Two means and one spread against one mean and a wider spread (mixture of two normal distributions, the share of the
    second one uniform); the factor is integrated out. Those of the two that hold fewer
    sessions whose headers tell their scale, else fewer sessions, have the second scale.

    Parameters
    ----------
    logs
        Log signals of `session_model.observations`, shape (session, observation); NaN where not known.
    acquisitions, prior
        Of the group.
    suspected
        Whether the headers of a session leave its scale open.
    stays
        Sessions that are not odd one by one.
    odd_scores
        Log probability of the others beside them.
    """
    nobody = np.zeros(len(logs), dtype=bool)
    plain = evidence(logs, acquisitions, prior)
    best = max(plain.log_probability, evidence(logs[stays], acquisitions, prior).log_probability + odd_scores)
    result = nobody
    whole = np.asarray(np.linalg.inv(covariance_of(tuple(acquisitions.values()), prior.spreads)), dtype=np.float64)
    for part in (*acquisitions, COMMON) if len(logs) > 3 else ():
        member = np.asarray([float(part in (one, COMMON)) for one, _ in observations(acquisitions)])
        for second in _divisions(_of_part(logs - plain.means, whole, member)):
            score = _with_second(logs, acquisitions, prior, member, second)
            if score > best:
                best, result = score, second
    return Explanation(second=~result if _is_group(result, suspected, logs) else result, log_probability=best)


def is_one_wide_group(
    logs: NDArray[np.float64], acquisitions: Mapping[Contrast, Acquisition], explained: Explanation
) -> bool:
    """Whether arbitrary scales explain four sessions or more better than what was found, as where gain is not fixed."""
    if len(logs) < 4:
        return False
    own = dict.fromkeys(acquisitions, WIDE.spreads.common)
    free = Prior(spreads=Spreads(own=own, common=WIDE.spreads.common), weight=WIDE.weight)
    wide = evidence(logs, acquisitions, free).log_probability + math.log(WIDE_PROBABILITY)
    return wide > explained.log_probability


def _of_part(
    deviations: NDArray[np.float64], precision: NDArray[np.float64], member: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Deviation of a part of the scales of each session, unshrunk; what is not known is taken for the mean."""
    direction = precision @ member
    known = np.isfinite(deviations)
    sums = np.where(known, deviations, 0.0) @ direction
    weights = known @ (direction * member)
    return np.asarray(sums / np.where(weights > 0, weights, np.inf))


def _divisions(values: NDArray[np.float64]) -> list[NDArray[np.bool_]]:
    """The best divisions of sessions into two by one value, of two sessions at least each: the smaller part."""
    n = len(values)
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.arange(2, n - 1)
    sums = np.cumsum(ordered)
    low, high = sums[first - 1] / first, (sums[-1] - sums[first - 1]) / (n - first)
    between = first * (n - first) / n * np.square(high - low)
    found = []
    for size in first[np.argsort(-between, kind="stable")][:_N_CUTS].tolist():
        is_low = np.zeros(n, dtype=bool)
        is_low[order[:size]] = True
        found.append(is_low if 2 * size <= n else ~is_low)
    return found


def _with_second(
    logs: NDArray[np.float64],
    acquisitions: Mapping[Contrast, Acquisition],
    prior: Prior,
    member: NDArray[np.float64],
    second: NDArray[np.bool_],
) -> float:
    """Log probability of the signals and of this division; minus infinity where the factor is small."""
    n, n_second = len(logs), int(second.sum())
    spreads, factor, deviation = prior.spreads, 0.0, 1.0
    apart = _mean(logs[second]) - _mean(logs[~second])
    use = np.flatnonzero(np.isfinite(apart))
    if not member[use].any():
        return -math.inf
    for _ in range(2):
        precision = np.linalg.inv(covariance_of(tuple(acquisitions.values()), spreads)[np.ix_(use, use)])
        sharp = float(member[use] @ precision @ member[use])
        factor = float(member[use] @ precision @ apart[use]) / sharp
        if abs(factor) < SMALLEST:
            return -math.inf
        deviation = math.sqrt((1 / n_second + 1 / (n - n_second)) / sharp)
        found = evidence(logs - np.outer(second, member) * factor, acquisitions, prior)
        spreads = found.spreads
    of_division = math.lgamma(n + 1) - math.lgamma(n_second + 1) - math.lgamma(n - n_second + 1) + math.log(n)
    of_factor = math.log(deviation / SECOND_SPREAD) - 0.5 * (factor / SECOND_SPREAD) ** 2
    prior_log = math.log(SECOND_PROBABILITY / (len(acquisitions) + 1))
    return found.log_probability + prior_log - of_division + of_factor


def _mean(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(logs)
    counts = known.sum(axis=0)
    return np.where(counts > 0, np.where(known, logs, 0.0).sum(axis=0) / np.maximum(counts, 1), np.nan)


def _is_group(second: NDArray[np.bool_], suspected: NDArray[np.bool_], logs: NDArray[np.float64]) -> bool:
    """Whether these stand for the group rather than the others: by those without suspicion, by number, by closeness."""
    if not second.any():
        return False
    mine, others = (
        (
            int((some & ~suspected).sum()),
            int(some.sum()),
            -float(np.nansum(np.square(logs[some] - _mean(logs[some])))),
        )
        for some in (second, ~second)
    )
    return mine > others
