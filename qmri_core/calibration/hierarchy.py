"""The solution of the normal model of `qmri_core.calibration.levels`: all groups of a cohort at once.

What is unknown of groups, clinics and trends is one vector; persons are marginalised, each with all of its sessions, so
that the information of thousands of them is a sum of small matrices (Rodgers 2000, Inverse Methods for Atmospheric
Sounding, doi:10.1142/3171, eq. 4.6). What headers hide is linearised where the step before ended; the spread of clinics
is learned by expectation maximisation (Dempster, Laird, Rubin 1977, J R Stat Soc B 39:1).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qmri_core.calibration.hidden_parameters import (
    FURTHEST_SHIFT,
    OF_PROTOCOL,
    Hidden,
    hidden_names,
    linearised,
    transferred,
)
from qmri_core.calibration.levels import (
    CLINIC_SHARE,
    CLINIC_WEIGHT,
    METHOD_ERRORS,
    Anchor,
    GroupLevel,
    LevelGroup,
    Levels,
)
from qmri_core.calibration.session_model import LEVELS, covariance_of, observations, person_slopes
from qmri_core.calibration.unknowns import Layout, layout_of, method_columns, priors_of
from qmri_core.series.acquisition import Contrast

Linear = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""Of `qmri_core.calibration.hidden_parameters.linearised`."""
_Key = tuple[int, tuple[bool, ...], float]
"""A group, which observations of a session are known, and its weight."""

_N_STEPS = 8
_CLOSE = 0.002
"""A group is linearised again where its parameters have moved a log ratio of grey to white matter by more than this; a
seventh of the error that ratios have."""
_N_ROUNDS = 200
_SETTLED = 1e-4
_N = len(LEVELS)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evidence:
    """What sessions tell: information and its vector; of each group the mean of its people as a function of unknowns.

    ``means`` and ``offsets``: the mean is ``means @ unknowns + offsets`` with covariance ``left`` beside; shapes
    (group, level, unknown), (group, level), (group, level, level).
    """

    information: NDArray[np.float64]
    vector: NDArray[np.float64]
    means: NDArray[np.float64]
    offsets: NDArray[np.float64]
    left: NDArray[np.float64]


def solve_levels(groups: Sequence[LevelGroup], anchors: Sequence[Anchor] = (), *, has_transfer: bool = True) -> Levels:
    """Levels of the groups of a cohort, and what their headers hide.

    Parameters
    ----------
    groups
        Each with one session at least.
    anchors
        What was measured of groups and people; see `Anchor`.
    has_transfer
        Whether slices of a train saturate each other by magnetization transfer; not so in a simulation without it.

    Raises
    ------
    ValueError
        If an anchor is of nobody here.
    FieldStrengthError
        If no population values exist for a field strength.
    """
    names = [hidden_names(group.acquisitions) for group in groups]
    everybody = {person for group in groups for person in group.people}
    for anchor in anchors:
        if anchor.group is None and anchor.person not in everybody:
            raise ValueError("an anchor is of a person who is in no group that is calibrated")
    layout = layout_of(groups, [len(one) for one in names], anchors)
    mean, spreads = priors_of(layout, names, anchors, has_transfer=has_transfer)
    at, state = mean.copy(), mean
    linear: dict[int, Linear] = {}
    for _ in range(_N_STEPS):
        stale = [
            k
            for k, here in enumerate(layout.hidden)
            if k not in linear or np.abs(linear[k][2] @ (state - at)[here]).max(initial=0.0) >= _CLOSE
        ]
        if not stale:
            break
        for k in stale:
            here = layout.hidden[k]
            linear[k] = linearised(groups[k].acquisitions, names[k], state[here])
            at[here] = state[here]
        evidence = _with_anchors(_evidence(groups, layout, linear, at, anchors), layout, anchors)
        estimate, covariance, clinic = _settled(evidence, layout, groups, mean, spreads)
        held = np.r_[layout.shared, *layout.hidden]
        reach = FURTHEST_SHIFT * spreads[held]
        state = estimate.copy()
        state[held] = np.clip(estimate[held], mean[held] - reach, mean[held] + reach)
    return _told(groups, layout, names, linear, evidence, state, covariance, clinic, is_free=bool(anchors))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """Sessions of a group of which the same observations are known: ``rows`` of all, and the model of these."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    design: NDArray[np.float64]
    """Shape (row, column): of what sessions of the group share."""
    expected: NDArray[np.float64]
    slopes: NDArray[np.float64]
    """On what differs between people, shape (row, parameter); the first are `LEVELS`."""
    noise: NDArray[np.float64]
    """Covariance of what differs between sessions of a person."""


def _seen(
    group: LevelGroup, layout: Layout, number: int, linear: Linear, at: NDArray[np.float64], known: tuple[bool, ...]
) -> _Seen:
    rows = np.flatnonzero(known)
    names = observations(group.acquisitions)
    contrasts = list(group.acquisitions)
    ratios, of_shared, of_hidden = linear
    hidden = layout.hidden[number]
    parts = [layout.series[number], layout.errors[number], np.r_[layout.shared], np.r_[hidden]]
    columns = np.unique(np.concatenate(parts))
    design, expected = np.zeros((len(rows), len(columns))), np.zeros(len(rows))
    for row, observation in enumerate(rows):
        contrast, tissue = names[observation]
        design[row, np.searchsorted(columns, layout.series[number][observation])] = 1.0
        if tissue == "GM":
            k = contrasts.index(contrast)
            design[row, np.searchsorted(columns, layout.errors[number][k])] = 1.0
            design[row, np.searchsorted(columns, np.r_[layout.shared])] = of_shared[k]
            design[row, np.searchsorted(columns, np.r_[hidden])] = of_hidden[k]
            expected[row] = ratios[k] - of_hidden[k] @ at[hidden]
    acquisitions = tuple(group.acquisitions.values())
    slopes, covariance = person_slopes(acquisitions)
    whole = covariance_of(acquisitions, group.spreads)
    noise = whole - slopes @ covariance @ slopes.T
    return _Seen(
        rows=rows,
        columns=columns,
        design=design,
        expected=expected,
        slopes=slopes[rows],
        noise=noise[np.ix_(rows, rows)],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Alike:
    """People whose sessions tell the same: of the same groups in order, with the same known, in the same clinics.

    ``values``: what is seen beside what is expected, shape (person, row); ``covariates`` of each session's group, shape
    (session, person, 3).
    """

    numbers: Sequence[int]
    clinics: Mapping[str, int]
    parts: Sequence[_Seen]
    values: NDArray[np.float64]
    covariates: NDArray[np.float64]


def _people_alike(
    groups: Sequence[LevelGroup], anchors: Sequence[Anchor]
) -> Mapping[tuple[tuple[_Key, ...], tuple[str, ...], str], list[list[tuple[int, int]]]]:
    """Group and session of all sessions of each person, by what they have in common; who has an anchor is alone."""
    sessions: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for number, group in enumerate(groups):
        for session, person in enumerate(group.people):
            sessions[person].append((number, session))
    finite = [np.isfinite(group.logs).tolist() for group in groups]
    anchored = {anchor.person for anchor in anchors}
    alike: defaultdict[tuple[tuple[_Key, ...], tuple[str, ...], str], list[list[tuple[int, int]]]] = defaultdict(list)
    for person, visits in sessions.items():
        keys = tuple((number, tuple(finite[number][at]), float(groups[number].weights[at])) for number, at in visits)
        clinics = tuple(groups[number].clinics[at] for number, at in visits)
        alike[keys, clinics, person if person in anchored else ""].append(visits)
    return alike


def _evidence(
    groups: Sequence[LevelGroup],
    layout: Layout,
    linear: Mapping[int, Linear],
    at: NDArray[np.float64],
    anchors: Sequence[Anchor],
) -> _Evidence:
    n, size = len(groups), layout.size
    result = _Evidence(
        information=np.zeros((size, size)),
        vector=np.zeros(size),
        means=np.zeros((n, _N, size)),
        offsets=np.zeros((n, _N)),
        left=np.zeros((n, _N, _N)),
    )
    seen: dict[_Key, _Seen] = {}
    for (keys, clinics, person), people in _people_alike(groups, anchors).items():
        for number, known, weight in set(keys) - set(seen):
            one = _seen(groups[number], layout, number, linear[number], at, known)
            seen[number, known, weight] = replace(one, noise=one.noise / weight)
        parts = [seen[key] for key in keys]
        numbers = [number for number, *_ in keys]
        rows = np.asarray([[session for _, session in visits] for visits in people])
        values = [
            groups[number].logs[np.ix_(rows[:, k], part.rows)] - part.expected
            for k, (number, part) in enumerate(zip(numbers, parts, strict=True))
        ]
        _, covariance = person_slopes(tuple(groups[numbers[0]].acquisitions.values()))
        own = [one for one in anchors if person and one.person == person]
        if own:
            parts = [*parts, _measured(own, layout, len(covariance))]
            values.append(np.asarray([[one.deviation for one in own]]))
        alike = _Alike(
            numbers=numbers,
            clinics=Counter(clinics),
            parts=parts,
            values=np.concatenate(values, axis=1),
            covariates=np.stack([groups[number].covariates[rows[:, k]] for k, number in enumerate(numbers)]),
        )
        _add_people(result, groups, layout, alike, _marginal(parts, covariance))
    return result


def _measured(anchors: Sequence[Anchor], layout: Layout, n_parameters: int) -> _Seen:
    """Anchors of one person, as if another session had seen the levels themselves."""
    columns = np.unique([method_columns(layout, one) for one in anchors])
    design, slopes = np.zeros((len(anchors), len(columns))), np.zeros((len(anchors), n_parameters))
    for row, one in enumerate(anchors):
        design[row, np.searchsorted(columns, method_columns(layout, one))] = 1.0
        slopes[row, LEVELS.index(one.level)] = 1.0
    return _Seen(
        rows=np.arange(len(anchors)),
        columns=columns,
        design=design,
        expected=np.zeros(len(anchors)),
        slopes=slopes,
        noise=np.diag([one.sd**2 for one in anchors]),
    )


def _marginal(parts: Sequence[_Seen], people: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Inverse covariance of a person's signals; from signals to the person's own levels; what is left of these."""
    from scipy.linalg import block_diag

    slopes = np.concatenate([part.slopes for part in parts])
    inverse = np.linalg.inv(slopes @ people @ slopes.T + block_diag(*(part.noise for part in parts)))
    gain = people[:_N] @ slopes.T @ inverse
    return inverse, gain, people[:_N, :_N] - gain @ slopes @ people[:, :_N]


def _add_people(
    result: _Evidence,
    groups: Sequence[LevelGroup],
    layout: Layout,
    alike: _Alike,
    solved: tuple[NDArray[np.float64], ...],
) -> None:
    """Add what the sessions of people, and then anchors, tell to ``result``, in place."""
    inverse, gain, left = solved
    n, n_sessions = len(alike.values), len(alike.numbers)
    here, levels = _level_columns(alike.covariates, layout, alike.clinics)
    columns = np.unique(np.concatenate([*(part.columns for part in alike.parts), here]))
    at_levels = np.searchsorted(columns, here)
    design = np.zeros((n, len(inverse), len(columns)))
    row = 0
    for k, part in enumerate(alike.parts):
        rows = slice(row, row + len(part.rows))
        design[:, rows, np.searchsorted(columns, part.columns)] = part.design
        design[:, rows, at_levels] = part.slopes[:, :_N] @ levels[k if k < n_sessions else 0]
        row = rows.stop
    every, weighted = design.reshape(-1, len(columns)), (inverse @ design).reshape(-1, len(columns))
    result.information[np.ix_(columns, columns)] += weighted.T @ every
    result.vector[columns] += weighted.T @ alike.values.ravel()
    for number, visits in Counter(alike.numbers).items():
        weight = visits / len(groups[number].people)
        result.means[number][:, columns] -= weight * (gain @ design.sum(axis=0))
        result.offsets[number] += weight * (gain @ alike.values.sum(axis=0))
        result.left[number] += n * weight**2 * left
    for number, of_session in zip(alike.numbers, levels, strict=True):
        result.means[number][:, here] += of_session.sum(axis=0) / len(groups[number].people)


def _level_columns(
    covariates: NDArray[np.float64], layout: Layout, clinics: Mapping[str, int]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Columns that people's expected levels depend on, and how: clinics, trends and what is common.

    A person is of one kind wherever the scanner stands: of the clinics of all visits, in shares. ``covariates`` have
    the shape (session, person, 3); the result (session, person, level, column).
    """
    total = sum(clinics.values())
    columns = np.r_[*(layout.clinics[clinic] for clinic in clinics), layout.trends, layout.common]
    shares = np.concatenate([visits / total * np.eye(_N) for visits in clinics.values()], axis=1)
    trends = np.einsum("lm,spc->splmc", np.eye(_N), covariates).reshape(*covariates.shape[:2], _N, -1)
    of_all = [np.broadcast_to(part, (*covariates.shape[:2], *part.shape)) for part in (shares, np.eye(_N))]
    return columns, np.concatenate([of_all[0], trends, of_all[1]], axis=3)


def _with_anchors(evidence: _Evidence, layout: Layout, anchors: Sequence[Anchor]) -> _Evidence:
    """With what was measured of the means of groups."""
    information, vector = evidence.information.copy(), evidence.vector.copy()
    for one in anchors:
        if one.group is None:
            continue
        level = LEVELS.index(one.level)
        row = evidence.means[one.group][level].copy()
        row[method_columns(layout, one)] += 1.0
        variance = one.sd**2 + evidence.left[one.group][level, level]
        information += np.outer(row, row) / variance
        vector += row * (one.deviation - evidence.offsets[one.group][level]) / variance
    return replace(evidence, information=information, vector=vector)


def _settled(
    evidence: _Evidence,
    layout: Layout,
    groups: Sequence[LevelGroup],
    mean: NDArray[np.float64],
    spreads: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean and covariance of the unknowns, and the covariance of clinics that the cohort shows."""
    _, people = person_slopes(tuple(groups[0].acquisitions.values()))
    start = CLINIC_SHARE * people[:_N, :_N]
    n = len(layout.clinics)
    of_clinics = np.concatenate([np.r_[here] for here in layout.clinics.values()])
    others = np.setdiff1d(np.arange(layout.size), of_clinics)
    precision = evidence.information.copy()
    precision[others, others] += spreads[others] ** -2
    vector = evidence.vector.copy()
    vector[others] += mean[others] / spreads[others] ** 2
    cross = np.linalg.solve(precision[np.ix_(others, others)], precision[np.ix_(others, of_clinics)])
    inner = precision[np.ix_(of_clinics, of_clinics)] - precision[np.ix_(of_clinics, others)] @ cross
    target = vector[of_clinics] - cross.T @ vector[others]
    clinic = start
    for _ in range(_N_ROUNDS):
        covariance = np.linalg.inv(inner + np.kron(np.eye(n), np.linalg.inv(clinic)))
        deviations = (covariance @ target).reshape(n, _N)
        blocks = covariance.reshape(n, _N, n, _N)[np.arange(n), :, np.arange(n)]
        after = (CLINIC_WEIGHT * start + deviations.T @ deviations + blocks.sum(axis=0)) / (CLINIC_WEIGHT + n)
        moved = np.abs(np.diag(after) / np.diag(clinic) - 1).max()
        clinic = after
        if moved < _SETTLED:
            break
    precision[np.ix_(of_clinics, of_clinics)] += np.kron(np.eye(n), np.linalg.inv(clinic))
    whole: NDArray[np.float64] = np.asarray(np.linalg.inv(precision), dtype=np.float64)
    return whole @ vector, whole, clinic


def _told(
    groups: Sequence[LevelGroup],
    layout: Layout,
    names: Sequence[Sequence[tuple[Contrast, str, float]]],
    linear: Mapping[int, Linear],
    evidence: _Evidence,
    state: NDArray[np.float64],
    covariance: NDArray[np.float64],
    clinic: NDArray[np.float64],
    *,
    is_free: bool,
) -> Levels:
    """The solution in the words of `qmri_core.calibration.levels`."""
    trends = state[layout.trends].reshape(_N, 3)
    at_transfer = layout.shared.start + OF_PROTOCOL
    realised = float(state[at_transfer]), math.sqrt(covariance[at_transfer, at_transfer])
    n_bridging, components = _bridges(groups)
    apart, freedom = _apart(evidence, covariance)
    found = []
    for number, group in enumerate(groups):
        own = evidence.means[number].copy()
        mean = own @ state + evidence.offsets[number]
        own[:, layout.common] = 0.0  # the error of all groups' levels is told apart
        shares = {name: n / len(group.clinics) for name, n in Counter(group.clinics).items()}
        at = [layout.clinics[name] for name in shares]
        weights = np.concatenate([share * np.eye(_N) for share in shares.values()], axis=1)
        left = np.diag(weights @ covariance[np.ix_(np.r_[*at], np.r_[*at])] @ weights.T)
        before = np.diag(clinic) * sum(share**2 for share in shares.values())
        found.append(
            GroupLevel(
                mean=tuple(mean.tolist()),
                sd=tuple(np.sqrt(np.diag(own @ covariance @ own.T + evidence.left[number])).tolist()),
                from_ages=tuple((trends @ group.covariates.mean(axis=0)).tolist()),
                measured=tuple(np.clip(1 - left / before, 0.0, 1.0).tolist()),
                n_bridging=n_bridging[number],
                component=components[number],
                apart=tuple(apart[number].tolist()),
                freedom=tuple(freedom.tolist()),
                clinics=shares,
            )
        )
    return Levels(
        groups=found,
        trends=trends,
        trend_sds=np.sqrt(np.diag(covariance)[layout.trends]).reshape(_N, 3),
        clinic_sds=np.sqrt(np.diag(clinic)),
        common=state[layout.common],
        common_sd=np.where(
            is_free, np.sqrt(np.diag(covariance)[layout.common]), [METHOD_ERRORS[one] for one in LEVELS]
        ),
        hidden=[
            _hidden(group, of_group, linear[number], state[here], np.diag(covariance)[here], realised)
            for number, (group, of_group, here) in enumerate(zip(groups, names, layout.hidden, strict=True))
        ],
    )


def _apart(evidence: _Evidence, covariance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Standard deviation of each group's mean beside the mean over all groups, shape (group, level); their freedom.

    Freedom, by level: as many independent errors would have a sum of squares that varies as much (Satterthwaite 1946,
    Biometrics Bull 2:110).
    """
    n = len(evidence.means)
    beside = evidence.means - evidence.means.mean(axis=0)
    whole = np.einsum("glu,uv,hlv->lgh", beside, covariance, beside, optimize=True)
    centring = np.eye(n) - 1 / n
    own = np.diagonal(evidence.left, axis1=1, axis2=2).T
    whole += centring @ (own[:, :, None] * centring)
    variances = np.diagonal(whole, axis1=1, axis2=2)
    squares = np.einsum("lgh,lgh->l", whole, whole)
    freedom = np.where(squares > 0, variances.sum(axis=1) ** 2 / np.maximum(squares, 1e-300), max(n - 1, 1))
    return np.sqrt(np.maximum(variances.T, 0.0)), freedom


def _hidden(
    group: LevelGroup,
    names: Sequence[tuple[Contrast, str, float]],
    linear: Linear,
    shifts: NDArray[np.float64],
    variances: NDArray[np.float64],
    realised: tuple[float, float],
) -> dict[Contrast, tuple[Hidden, ...]]:
    """By contrast; ``realised``: share of the simulated magnetization transfer, and its standard deviation."""
    result: dict[Contrast, tuple[Hidden, ...]] = dict.fromkeys(group.acquisitions, ())
    for column, ((contrast, name, spread), shift, variance) in enumerate(zip(names, shifts, variances, strict=True)):
        effect = float(linear[2][list(group.acquisitions).index(contrast), column]) * spread
        parameter = Hidden(
            name=name, shift=float(shift), sd=math.sqrt(max(variance, 0.0)), prior_sd=spread, effect=effect
        )
        result[contrast] = (*result[contrast], parameter)
    return {
        contrast: (*found, *transferred(group.acquisitions[contrast], *realised)) for contrast, found in result.items()
    }


def _bridges(groups: Sequence[LevelGroup]) -> tuple[list[int], list[int]]:
    """Of each group the number of people who are in others too, and the number of what such people connect."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    people = {person: k for k, person in enumerate({person for group in groups for person in group.people})}
    at = [(number, people[person]) for number, group in enumerate(groups) for person in set(group.people)]
    n = len(groups)
    ends = np.asarray(at).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends)), (ends[:, 0], n + ends[:, 1])), shape=(n + len(people),) * 2)
    _, labels = connected_components(graph, directed=False)
    order = {label: k for k, label in enumerate(dict.fromkeys(labels[:n].tolist()))}
    homes = Counter(person for group in groups for person in set(group.people))
    n_bridging = [sum(homes[person] > 1 for person in set(group.people)) for group in groups]
    return n_bridging, [order[label] for label in labels[:n].tolist()]
