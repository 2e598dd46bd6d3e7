"""Means of the signals of a group's sessions, and spreads of their scales, each session with a weight.

Expectation maximisation (Dempster, Laird, Rubin 1977, J R Stat Soc B 39:1) of the variances in the normal model of
`qmri_core.calibration.session_model`, beside spreads that were known before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qmri_core.calibration.session_model import Spreads, covariance_of, membership
from qmri_core.series.acquisition import CONTRASTS, Acquisition, Contrast

COMMON = "common"
"""What all series of a session share, beside the contrasts."""
_N_ITERATIONS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """Spreads before a group is seen, and the number of sessions as which they count."""

    spreads: Spreads
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDeviations:
    """Log signals of the sessions of a group, shape (session, observation), beside the group's means; their weights."""

    deviations: NDArray[np.float64]
    weights: NDArray[np.float64]
    acquisitions: Mapping[Contrast, Acquisition]


def weighted_means(logs: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over sessions of each column's finite values, shape (observation,); NaN without any."""
    counts = np.where(np.isfinite(logs), weights[:, None], 0.0)
    totals = counts.sum(axis=0)
    sums = np.where(counts > 0, logs * counts, 0.0).sum(axis=0)
    means: NDArray[np.float64] = np.where(totals > 0, sums / np.where(totals > 0, totals, 1), np.nan)
    return means


def estimate(
    logs: NDArray[np.float64],
    acquisitions: Mapping[Contrast, Acquisition],
    prior: Prior,
    weights: NDArray[np.float64],
    *,
    wide: float = 1.0,
) -> tuple[NDArray[np.float64], Spreads]:
    """Means and spreads of the sessions of one group, whose deviations are taken ``wide`` times."""
    means = weighted_means(logs, weights)
    group = GroupDeviations(deviations=(logs - means) * wide, weights=weights, acquisitions=acquisitions)
    return means, estimated_spreads([group], prior)


def estimated_spreads(groups: Sequence[GroupDeviations], prior: Prior) -> Spreads:
    """Spreads of the scales that deviations from the (weighted) means of groups show."""
    names = [*prior.spreads.own, COMMON]
    before = np.asarray([*prior.spreads.own.values(), prior.spreads.common]) ** 2
    moments = [one for group in groups for one in _moments(group, names)]
    variances = before
    for _ in range(_N_ITERATIONS):
        total, counts = prior.weight * before, np.full(len(names), float(prior.weight))
        for one in moments:
            cross = one.member * variances[one.at]
            gain = np.linalg.solve(one.people + cross @ one.member.T, cross).T
            left = variances[one.at] - np.einsum("ij,ji->i", gain, cross)
            total[one.at] += np.einsum("ij,jk,ik->i", gain, one.squares, gain) + left * one.count
            counts[one.at] += one.count
        moved = np.abs(total / counts / variances - 1).max()
        variances = total / counts
        if moved < 1e-5:
            break
    return _as_spreads(names, variances)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moments:
    """Of the sessions of a group of which the same values are known: all that their spreads depend on.

    ``at``: numbers of their parts; ``member``: 1 where a value holds a part; ``people``: covariance by people and
    errors; ``squares``: of the deviations; ``count``: of sessions, less what their own mean takes.
    """

    at: list[int]
    member: NDArray[np.float64]
    people: NDArray[np.float64]
    squares: NDArray[np.float64]
    count: float


def _moments(group: GroupDeviations, names: Sequence[str]) -> list[_Moments]:
    counts = group.weights * _variance_left(group.weights)
    if not counts.sum() > 0:
        return []
    contrasts = tuple(group.acquisitions)
    people = covariance_of(tuple(group.acquisitions.values()), Spreads(own=dict.fromkeys(contrasts, 0.0), common=0.0))
    return [
        _Moments(
            at=[names.index(name) for name in (*contrasts, COMMON)],
            member=membership(contrasts)[list(use)],
            people=people[np.ix_(use, use)],
            squares=values.T @ (values * group.weights[rows, None]),
            count=float(counts[rows].sum()),
        )
        for rows, use, values in known_patterns(group.deviations)
    ]


def _variance_left(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance of each session's deviation from the weighted mean, over its own: 1 - 1 / n of equal weights."""
    total = weights.sum()
    if total <= 0:
        return np.zeros_like(weights)
    left = 1 - 2 * weights / total + np.square(weights).sum() / total**2
    return np.asarray(np.maximum(left, 0.0), dtype=np.float64)


def _as_spreads(names: Sequence[str], variances: NDArray[np.float64]) -> Spreads:
    deviations = dict(zip(names, np.sqrt(variances).tolist(), strict=True))
    return Spreads(
        own={contrast: deviations[contrast] for contrast in CONTRASTS if contrast in deviations},
        common=deviations[COMMON],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """How well one normal model explains sessions: its means and spreads, and the log of the probability.

    ``log_probability`` is that of the signals, with means integrated out and spreads at their most probable values; the
    constant of a known value is left out.
    """

    means: NDArray[np.float64]
    spreads: Spreads
    log_probability: float


def evidence(logs: NDArray[np.float64], acquisitions: Mapping[Contrast, Acquisition], prior: Prior) -> Evidence:
    """Of the sessions of a group, all of equal weight (restricted likelihood; Laplace's method for the variances)."""
    means, spreads = estimate(logs, acquisitions, prior, np.ones(len(logs)))
    whole = covariance_of(tuple(acquisitions.values()), spreads)
    total, information = 0.0, np.zeros((logs.shape[1], logs.shape[1]))
    for rows, use, values in known_patterns(logs - means):
        inside = whole[np.ix_(use, use)]
        precision = np.linalg.inv(inside)
        total -= 0.5 * len(rows) * float(np.linalg.slogdet(inside)[1])
        total -= 0.5 * float(np.einsum("ij,jk,ik->", values, precision, values))
        information[np.ix_(use, use)] += len(rows) * precision
    seen = np.flatnonzero(np.diag(information) > 0)
    total -= 0.5 * float(np.linalg.slogdet(information[np.ix_(seen, seen)])[1])
    for contrast in (*acquisitions, None):
        variance, before = (_spread(one, contrast) ** 2 for one in (spreads, prior.spreads))
        half = prior.weight / 2
        total += half * math.log(half * before) - math.lgamma(half) - half * (math.log(variance) + before / variance)
        total += 0.5 * math.log(4 * math.pi / (prior.weight + len(logs) - 1))
    return Evidence(means=means, spreads=spreads, log_probability=total)


def _spread(spreads: Spreads, contrast: Contrast | None) -> float:
    return spreads.common if contrast is None else spreads.own[contrast]


def known_patterns(
    deviations: NDArray[np.float64],
) -> Iterator[tuple[NDArray[np.intp], tuple[int, ...], NDArray[np.float64]]]:
    """Sessions of which the same values are known: which they are, which values, and these."""
    patterns, member = np.unique(np.isfinite(deviations), axis=0, return_inverse=True)
    for number, known in enumerate(patterns):
        rows, use = np.flatnonzero(member.reshape(-1) == number), np.flatnonzero(known)
        if use.size:
            yield rows, tuple(use.tolist()), deviations[np.ix_(rows, use)]
