"""Which series of which sessions have another scale than their group, so that these count for nothing in it.

A vendor's factor that was lost on the way, another export or another unit puts a series, or a whole session, on a
scale that has nothing to do with that of its group. One such session in six would move the mean by a sixth of the log
of its factor, and the spreads so far that no neighbour's signals tell its scale any more. So odd ones are found first,
and means and spreads are those of the others: without an odd one they are those of all, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from qmri_core.calibration.estimation import COMMON, Prior, estimate, known_patterns
from qmri_core.calibration.second_scale import is_one_wide_group, second_scale
from qmri_core.calibration.session_model import Spreads, covariance_of
from qmri_core.series.acquisition import Acquisition, Contrast

ODD_PROBABILITY = 0.01
"""Prior probability that a scale, of a series or of all of a session, is none of its group's; assumed."""
ODD_SPREAD = 2.0
"""Standard deviation of the log of such a scale beside its group's; assumed. Factors of 1/50 to 50 are within two."""
N_STARTS = 64
"""Sessions of a group that are tried as its first centre, evenly taken, where it has more."""
_N_ROUNDS = 20
FEW = 20
"""Sessions of a group up to which each is held against the others alone."""
_NEAR = -7.0
"""Log odds from which on a session is: it may be odd beside the others, where it is not beside them and itself."""
DOUBTED = -3.0
"""Log odds that something of a session is odd, beside the others, from which on it counts less than they do."""
DISMISSED = 0.0
"""Log odds at which it counts for nothing."""
N_WEIGHINGS = 3
"""How often weights are taken anew, beside the others' new weights."""
_HALF = 1.45
"""Spread of all over that of the closest half: that of four normal values (chi-square with 4 and 6 degrees of freedom),
more in few sessions."""

Part = Contrast | str
"""A contrast, or `COMMON`."""


def odd_parts(
    deviations: NDArray[np.float64],
    acquisitions: Mapping[Contrast, Acquisition],
    spreads: Spreads,
    *,
    variance: float = 1.0,
) -> list[tuple[Part, ...]]:
    """Parts of the scales of each session that are odd: the most probable set, of most sessions the empty one.

    A scale is drawn from its group's with `Spreads`, or, with `ODD_PROBABILITY`, from a normal distribution that is as
    wide as `ODD_SPREAD` (variance inflation; Box and Tiao 1968, Biometrika 55:119). Sets are those of series, and
    `COMMON` alone. Under 3 % spread an odd series is found from a factor of about 1.25 on.

    Parameters
    ----------
    deviations
        Of the log signals of `session_model.observations` from the group's means, shape (session, observation); NaN
        where not known.
    acquisitions, spreads
        Of the group.
    variance
        Of the deviations over that of one session: 1 + 1 / n from the mean of n others, 2 between two sessions.
    """
    sets = _sets(tuple(acquisitions))
    scores = _scores(deviations, acquisitions, spreads, variance)
    return [sets[best] for best in scores.argmax(axis=0).tolist()]


def _scores(
    deviations: NDArray[np.float64], acquisitions: Mapping[Contrast, Acquisition], spreads: Spreads, variance: float
) -> NDArray[np.float64]:
    """Log probability of each of `_sets` for each session, up to a constant of the session; the first of none."""
    key, numbers = tuple(acquisitions.values()), _numbers(acquisitions, spreads)
    result = np.zeros((len(_sets(tuple(acquisitions))), len(deviations)))
    for rows, use, values in known_patterns(deviations):
        for number, (precision, constant) in enumerate(_normals(key, numbers, use, variance)):
            result[number, rows] = constant - 0.5 * np.einsum("ij,jk,ik->i", values, precision, values)
    return result


def with_odd(spreads: Spreads, odd: Sequence[Part]) -> Spreads:
    """Spreads of the scales of a session some parts of whose are odd: of these its signals alone tell."""
    own = {contrast: math.hypot(spread, ODD_SPREAD * (contrast in odd)) for contrast, spread in spreads.own.items()}
    return Spreads(own=own, common=math.hypot(spreads.common, ODD_SPREAD * (COMMON in odd)))


def session_weights(
    logs: NDArray[np.float64],
    acquisitions: Mapping[Contrast, Acquisition],
    prior: Prior,
    *,
    suspects: Sequence[bool] | None = None,
) -> NDArray[np.float64]:
    """With which each session of a group counts in its means and spreads: 1, or less the likelier a scale of it is odd.

    Odd sessions are found first (`_regular`), and a second scale that several have in common
    (`qmri_core.calibration.second_scale`). What few others cannot call odd for sure still counts less: from `DOUBTED`
    on, and nothing at `DISMISSED`, by the log odds that it is odd beside the others without itself. Most groups have
    no such session: all weights are 1 then.

    Parameters
    ----------
    logs
        Log signals of `session_model.observations`, shape (session, observation); NaN where not known.
    acquisitions, prior
        Of the group.
    suspects
        Whether the headers of a session leave its scale open; ``None`` if of none.
    """
    order = np.lexsort(np.nan_to_num(logs, nan=-np.inf).T)  # the result is that of the sessions, in whatever order
    suspected = np.zeros(len(logs), dtype=bool) if suspects is None else np.asarray(suspects, dtype=bool)
    result = np.empty(len(logs))
    result[order] = _sorted_weights(logs[order], acquisitions, prior, suspected[order])
    return result


def _sorted_weights(
    logs: NDArray[np.float64],
    acquisitions: Mapping[Contrast, Acquisition],
    prior: Prior,
    suspected: NDArray[np.bool_],
) -> NDArray[np.float64]:
    stays = _regular(logs, acquisitions, prior, suspected)
    scores = _odd_scores(logs, acquisitions, prior, stays)
    explained = second_scale(logs, acquisitions, prior, suspected, stays=stays, odd_scores=scores)
    if explained.second.any():
        stays = _without_each_other(logs, ~explained.second, acquisitions, prior)
    weights = _trusted(logs, stays, acquisitions, prior)
    if weights.all() or suspected.any() or not is_one_wide_group(logs, acquisitions, explained):
        return weights
    return np.ones(len(logs))


def _trusted(
    logs: NDArray[np.float64], stays: NDArray[np.bool_], acquisitions: Mapping[Contrast, Acquisition], prior: Prior
) -> NDArray[np.float64]:
    """Weights of few sessions, each beside the others; of more, where one alone means little, whether they stay."""
    start = stays.astype(np.float64)
    weights = start
    for _ in range(N_WEIGHINGS if len(logs) <= FEW else 0):
        before = weights
        weights = np.where(stays, _trust(_margins_beside_others(logs, weights, acquisitions, prior)), 0.0)
        if np.array_equal(weights, before):
            break
    return weights if 2 * weights.sum() >= start.sum() else start


def _odd_scores(
    logs: NDArray[np.float64],
    acquisitions: Mapping[Contrast, Acquisition],
    prior: Prior,
    stays: NDArray[np.bool_],
) -> float:
    """Log probability of the sessions that are odd, beside the others."""
    if stays.all():
        return 0.0
    means, spreads = estimate(logs[stays], acquisitions, prior, np.ones(int(stays.sum())))
    return float(_scores(logs[~stays] - means, acquisitions, spreads, 1 + 1 / int(stays.sum())).max(axis=0).sum())


def _trust(margins: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip((DISMISSED - margins) / (DISMISSED - DOUBTED), 0.0, 1.0)


def _margins_beside_others(
    logs: NDArray[np.float64],
    weights: NDArray[np.float64],
    acquisitions: Mapping[Contrast, Acquisition],
    prior: Prior,
) -> NDArray[np.float64]:
    """Log odds that something of each session is odd; in up to `FEW`, beside the others without it, where it may be."""
    means, spreads = estimate(logs, acquisitions, prior, weights)
    result = _margins(logs - means, acquisitions, spreads, 1.0)
    if not 2 < (weights > 0).sum() <= FEW:
        return result
    for one in np.flatnonzero(result > _NEAR).tolist():
        others = weights.copy()
        others[one] = 0.0
        means, spreads = estimate(logs, acquisitions, prior, others)
        size = others.sum() ** 2 / np.square(others).sum()
        result[one] = _margins(logs[[one]] - means, acquisitions, spreads, 1 + 1 / size)[0]
    return result


def _regular(
    logs: NDArray[np.float64],
    acquisitions: Mapping[Contrast, Acquisition],
    prior: Prior,
    suspected: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Sessions of a group none of whose scales is odd; all, where fewer than half of them agree.

    It starts with the half that lies closest together, and takes in whoever is not odd beside the means and spreads of
    it, until nobody comes or goes (blocked adaptive outlier nomination; Billor, Hadi, Velleman 2000, Comput Stat Data
    Anal 34:279). So spreads grow to what a majority has, and one series on another scale, or all of a kind in less than
    half of the sessions, cannot hide itself. Of two sessions none can be called the odd one, but by its header; of two
    halves that agree each in itself, the one without suspects, else the closer one, stands for the group.
    """
    n = len(logs)
    everybody = np.ones(n, dtype=bool)
    # a suspect that agrees with the others is one of them, but it does not tell where they are
    trusted = np.flatnonzero(~suspected) if not suspected.all() else np.arange(n)
    if n < 2 or (n == 2 and len(trusted) != 1):
        return everybody
    stays = np.zeros(n, dtype=bool)
    stays[trusted[_nearest_half(logs[trusted], acquisitions, prior.spreads)]] = True
    wide = _HALF * (1 + 4 / len(trusted)) if len(trusted) > 2 else 1.0
    for _ in range(_N_ROUNDS):
        n_stay = int(stays.sum())
        means, spreads = estimate(logs[stays], acquisitions, prior, np.ones(n_stay), wide=wide)
        now = _margins(logs - means, acquisitions, spreads, 1 + 1 / n_stay) <= 0
        is_settled = not now.any() or (wide == 1.0 and np.array_equal(now, stays))
        wide = 1.0
        if is_settled:
            break
        stays = now
    stays = _without_each_other(logs, stays, acquisitions, prior)
    return stays if 2 * int(stays[trusted].sum()) >= len(trusted) else everybody


def _without_each_other(
    logs: NDArray[np.float64],
    stays: NDArray[np.bool_],
    acquisitions: Mapping[Contrast, Acquisition],
    prior: Prior,
) -> NDArray[np.bool_]:
    """Less the sessions that are odd beside all others: in few, one with a mild factor widens the spread it is held to.

    The oddest goes first, and then the rest is looked at again.
    """
    stays = stays.copy()
    while 2 < int(stays.sum()) <= FEW:
        margins = np.where(stays, _margins_beside_others(logs, stays.astype(np.float64), acquisitions, prior), -np.inf)
        oddest = int(margins.argmax())
        if margins[oddest] <= DISMISSED:
            break
        stays[oddest] = False
    return stays


def _margins(
    deviations: NDArray[np.float64], acquisitions: Mapping[Contrast, Acquisition], spreads: Spreads, variance: float
) -> NDArray[np.float64]:
    """By how much the log probability that something is odd exceeds that nothing is; shape (session,)."""
    scores = _scores(deviations, acquisitions, spreads, variance)
    return np.asarray(scores[1:].max(axis=0) - scores[0])


def _nearest_half(
    logs: NDArray[np.float64], acquisitions: Mapping[Contrast, Acquisition], prior: Spreads
) -> NDArray[np.intp]:
    """The half of the sessions, rounded up, that lies closest around one of them."""
    n = len(logs)
    half = (n + 1) // 2
    best, result = math.inf, np.arange(half)
    for start in np.unique(np.linspace(0, n - 1, min(n, N_STARTS)).round().astype(int)):
        distances = _distances(logs - logs[start], acquisitions, prior)
        nearest = np.argsort(distances, kind="stable")[:half]
        if (total := float(distances[nearest].sum())) < best:
            best, result = total, nearest
    return result


def _distances(
    deviations: NDArray[np.float64], acquisitions: Mapping[Contrast, Acquisition], spreads: Spreads
) -> NDArray[np.float64]:
    """Squared (Mahalanobis) under the model, per value that is known; infinite where none is."""
    result = np.full(len(deviations), np.inf)
    for rows, use, values in known_patterns(deviations):
        precision, _ = _normals(tuple(acquisitions.values()), _numbers(acquisitions, spreads), use, 1.0)[0]
        result[rows] = np.einsum("ij,jk,ik->i", values, precision, values) / len(use)
    return result


def _numbers(acquisitions: Mapping[Contrast, Acquisition], spreads: Spreads) -> tuple[float, ...]:
    """Spreads as a key: own ones by contrast and, last, the common one."""
    return (*(float(spreads.own[contrast]) for contrast in acquisitions), float(spreads.common))


@lru_cache(maxsize=64)
def _sets(contrasts: tuple[Contrast, ...]) -> tuple[tuple[Part, ...], ...]:
    """Sets of parts that may be odd together, the empty one first."""
    of_series = [some for size in range(len(contrasts) + 1) for some in combinations(contrasts, size)]
    return (*of_series, (COMMON,))


@lru_cache(maxsize=256)
def _normals(
    acquisitions: tuple[Acquisition, ...], spreads: tuple[float, ...], use: tuple[int, ...], factor: float
) -> tuple[tuple[NDArray[np.float64], float], ...]:
    """Of each of `_sets`: inverse covariance of the known deviations, and log of its probability and normalisation."""
    contrasts = tuple(acquisition.contrast for acquisition in acquisitions)
    of_scales = Spreads(own=dict(zip(contrasts, spreads, strict=False)), common=spreads[-1])
    penalty = math.log(ODD_PROBABILITY / (1 - ODD_PROBABILITY))
    result: list[tuple[NDArray[np.float64], float]] = []
    for odd in _sets(contrasts):
        widened = [ODD_SPREAD**2 / factor * (part in odd) for part in (*contrasts, COMMON)]
        inside = factor * covariance_of(acquisitions, of_scales, widened=widened)[np.ix_(use, use)]
        _, log_determinant = np.linalg.slogdet(inside)
        precision = np.asarray(np.linalg.inv(inside), dtype=np.float64)
        result.append((precision, penalty * len(odd) - 0.5 * float(log_determinant)))
    return tuple(result)
