"""Which series of which sessions have another scale than their group, so that these count for nothing in it.

A vendor's factor that was lost on the way, another export or another unit puts a series, or a whole session, on a
scale that has nothing to do with that of its group. One such session in six would move the mean by a sixth of the log
of its factor, and the spreads so far that no neighbour's signals tell its scale any more. So odd ones are found first,
and means and spreads are those of the others: without an odd one they are those of all, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from qmri_core.calibration.session_model import Spreads, covariance_of
from qmri_core.series.acquisition import Acquisition, Contrast

ODD_PROBABILITY = 0.01
"""Prior probability that a scale, of a series or of all of a session, is none of its group's; assumed."""
ODD_SPREAD = 2.0
"""Standard deviation of the log of such a scale beside its group's; assumed. Factors of 1/50 to 50 are within two."""
COMMON = "common"
"""What all series of a session share, beside the contrasts."""
N_STARTS = 64
"""Sessions of a group that are tried as its first centre, evenly taken, where it has more."""
_N_ROUNDS = 20
FEW = 20
"""Sessions of a group up to which each is held against the others alone."""
_NEAR = -6.0
"""Log odds from which on a session is: it may be odd beside the others, where it is not beside them and itself."""
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
    for rows, use, values in _patterns(deviations):
        for number, (precision, constant) in enumerate(_normals(key, numbers, use, variance)):
            result[number, rows] = constant - 0.5 * np.einsum("ij,jk,ik->i", values, precision, values)
    return result


def with_odd(spreads: Spreads, odd: Sequence[Part]) -> Spreads:
    """Spreads of the scales of a session some parts of whose are odd: of these its signals alone tell."""
    own = {contrast: math.hypot(spread, ODD_SPREAD * (contrast in odd)) for contrast, spread in spreads.own.items()}
    return Spreads(own=own, common=math.hypot(spreads.common, ODD_SPREAD * (COMMON in odd)))


def regular_sessions(
    logs: NDArray[np.float64],
    acquisitions: Mapping[Contrast, Acquisition],
    prior: Spreads,
    estimate: Callable[[NDArray[np.float64], float], tuple[NDArray[np.float64], Spreads]],
    *,
    suspects: Sequence[bool] | None = None,
) -> NDArray[np.bool_]:
    """Sessions of a group none of whose scales is odd; all, where fewer than half of them agree.

    It starts with the half that lies closest together, and takes in whoever is not odd beside the means and spreads of
    it, until nobody comes or goes (blocked adaptive outlier nomination; Billor, Hadi, Velleman 2000, Comput Stat Data
    Anal 34:279). So spreads grow to what a majority has, and one series on another scale, or all of a kind in less than
    half of the sessions, cannot hide itself. Of two sessions none can be called the odd one, but by its header; of two
    halves that agree each in itself, the one without suspects, else the closer one, stands for the group.

    Parameters
    ----------
    logs
        Log signals of `session_model.observations`, shape (session, observation); NaN where not known.
    acquisitions
        Of the group.
    prior
        Spreads before the group is seen.
    estimate
        Means and spreads from the log signals of some sessions, whose deviations are to be multiplied by a factor.
    suspects
        Whether the headers of a session leave its scale open; ``None`` if of none.
    """
    n = len(logs)
    everybody = np.ones(n, dtype=bool)
    suspected = np.zeros(n, dtype=bool) if suspects is None else np.asarray(suspects, dtype=bool)
    # a suspect that agrees with the others is one of them, but it does not tell where they are
    trusted = np.flatnonzero(~suspected) if not suspected.all() else np.arange(n)
    if n < 2 or (n == 2 and len(trusted) != 1):
        return everybody
    stays = np.zeros(n, dtype=bool)
    stays[trusted[_nearest_half(logs[trusted], acquisitions, prior)]] = True
    wide = _HALF * (1 + 4 / len(trusted)) if len(trusted) > 2 else 1.0
    for _ in range(_N_ROUNDS):
        means, spreads = estimate(logs[stays], wide)
        now = _not_odd(logs - means, acquisitions, spreads, variance=1 + 1 / int(stays.sum()))
        is_settled = not now.any() or (wide == 1.0 and np.array_equal(now, stays))
        wide = 1.0
        if is_settled:
            break
        stays = now
    stays = _without_each_other(logs, stays, acquisitions, estimate)
    return stays if 2 * int(stays[trusted].sum()) >= len(trusted) else everybody


def _without_each_other(
    logs: NDArray[np.float64],
    stays: NDArray[np.bool_],
    acquisitions: Mapping[Contrast, Acquisition],
    estimate: Callable[[NDArray[np.float64], float], tuple[NDArray[np.float64], Spreads]],
) -> NDArray[np.bool_]:
    """Less the sessions that are odd beside all others: in few, one with a mild factor widens the spread it is held to.

    The oddest goes first, and then the rest is looked at again.
    """
    stays = stays.copy()
    while 2 < (n := int(stays.sum())) <= FEW:
        means, spreads = estimate(logs[stays], 1.0)
        margins = _margins(logs - means, acquisitions, spreads, 1.0)
        found: dict[int, float] = {}
        for one in np.flatnonzero(stays & (margins > _NEAR)).tolist():
            others = stays.copy()
            others[one] = False
            means, spreads = estimate(logs[others], 1.0)
            found[one] = float(_margins(logs[[one]] - means, acquisitions, spreads, 1 + 1 / (n - 1))[0])
        oddest = max(found, key=lambda one: found[one], default=-1)
        if oddest < 0 or found[oddest] <= 0:
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
    for rows, use, values in _patterns(deviations):
        precision, _ = _normals(tuple(acquisitions.values()), _numbers(acquisitions, spreads), use, 1.0)[0]
        result[rows] = np.einsum("ij,jk,ik->i", values, precision, values) / len(use)
    return result


def _patterns(
    deviations: NDArray[np.float64],
) -> Iterator[tuple[NDArray[np.intp], tuple[int, ...], NDArray[np.float64]]]:
    """Sessions of which the same values are known: which they are, which values, and these."""
    patterns, member = np.unique(np.isfinite(deviations), axis=0, return_inverse=True)
    for number, known in enumerate(patterns):
        rows, use = np.flatnonzero(member.reshape(-1) == number), np.flatnonzero(known)
        if use.size:
            yield rows, tuple(use.tolist()), deviations[np.ix_(rows, use)]


def _not_odd(
    deviations: NDArray[np.float64],
    acquisitions: Mapping[Contrast, Acquisition],
    spreads: Spreads,
    *,
    variance: float = 1.0,
) -> NDArray[np.bool_]:
    return np.asarray([not odd for odd in odd_parts(deviations, acquisitions, spreads, variance=variance)], dtype=bool)


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
