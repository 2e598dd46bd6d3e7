"""Levels of sites that share no image: what each tells of its sessions, solved as if it were one cohort.

A site gives its groups, scanners, clinics and people codes of its own. Codes of people that begin with `LOCAL` mean
nothing elsewhere; equal others are one person at all sites.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qmri_core.calibration.groups import GroupSessions, cohort_spreads, level_groups
from qmri_core.calibration.hidden_parameters import Hidden
from qmri_core.calibration.hierarchy import solve_levels
from qmri_core.calibration.levels import Anchor, GroupLevel
from qmri_core.calibration.session_model import Spreads, observations
from qmri_core.series.acquisition import Contrast

LOCAL = "local-"
"""What codes of people begin with that hold at one site only."""
MOST_CONTRADICTING = 0.1
"""Largest share of people of several sites who may have another sex or age there: a wrong entry, not a wrong person."""
MOST_YEARS = 20.0
"""Between two visits of one person; chosen."""

Site = Mapping[str, GroupSessions]
"""Groups of a site by their codes."""


class PoolingError(ValueError):
    """What sites have told does not fit together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledGroup:
    """What is known of one group by all sites together."""

    level: GroupLevel
    hidden: Mapping[Contrast, tuple[Hidden, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """Solution of all sites; ``groups`` by the place of the site and the group's code, where a session tells of it.

    ``n_shared`` are people of several sites; ``n_apart`` those beside whose data contradict each other, and who were
    taken for another person at each site.
    """

    spreads: Spreads
    groups: Mapping[tuple[int, str], PooledGroup]
    n_shared: int
    n_apart: int


def solve_together(
    sites: Sequence[Site],
    anchors: Sequence[Sequence[tuple[str | None, Anchor]]] = (),
    *,
    has_transfer: bool = True,
) -> Pooled:
    """Levels of the groups of all sites.

    Parameters
    ----------
    sites
        Of one study: equal codes of people are one person.
    anchors
        Of each site; those of a group with its code, as `Anchor.group` is a place that nobody knows before.
    has_transfer
        As `qmri_core.calibration.hierarchy.solve_levels` has it.

    Raises
    ------
    PoolingError
        If sessions stand in two sites, if people of several sites seem to be others at each, or if no session tells.
    """
    _refuse_twice(sites)
    apart, n_shared = _contradicting(sites)
    groups = {
        (number, code): _of_site(one, number, apart) for number, site in enumerate(sites) for code, one in site.items()
    }
    keys = {f"{number}/{code}": (number, code) for number, code in groups}
    together = {name: groups[key] for name, key in keys.items()}
    spreads = cohort_spreads(together)
    asked = level_groups(together, spreads)
    if not asked:
        raise PoolingError("no session of any site has white matter in all its series; there is nothing to solve")
    order = list(asked)
    measured = []
    for number, own in enumerate(anchors):
        for code, anchor in own:
            if code is not None and f"{number}/{code}" not in asked:
                raise PoolingError(f"an anchor of export {number + 1} is of a group that no session tells of")
            group = None if code is None else order.index(f"{number}/{code}")
            measured.append(_placed(anchor, number, group, apart))
    levels = solve_levels(list(asked.values()), measured, has_transfer=has_transfer)
    return Pooled(
        spreads=spreads,
        groups={
            keys[name]: PooledGroup(level=_in_own_words(level, keys[name][0]), hidden=hidden)
            for name, level, hidden in zip(order, levels.groups, levels.hidden, strict=True)
        },
        n_shared=n_shared - len(apart),
        n_apart=len(apart),
    )


def _placed(anchor: Anchor, site: int, group: int | None, apart: Collection[str]) -> Anchor:
    person = None if anchor.person is None else _person(anchor.person, site, apart)
    method = f"{site}/{anchor.method}" if anchor.method else f"{site}"
    return replace(anchor, group=group, person=person, method=method)


def _of_site(one: GroupSessions, site: int, apart: Collection[str]) -> GroupSessions:
    """With codes that are no other site's."""
    return replace(
        one,
        people=[_person(code, site, apart) for code in one.people],
        clinics=[f"{site}/{code}" for code in one.clinics],
        scanner=f"{site}/{one.scanner}",
    )


def _in_own_words(level: GroupLevel, site: int) -> GroupLevel:
    """With the site's own codes of clinics."""
    return replace(level, clinics={code.removeprefix(f"{site}/"): share for code, share in level.clinics.items()})


def _person(code: str, site: int, apart: Collection[str]) -> str:
    return f"{site}/{code}" if code.startswith(LOCAL) or code in apart else code


def _contradicting(sites: Sequence[Site]) -> tuple[frozenset[str], int]:
    """People of several sites who cannot be one there, by sex and age; and the number of all of several sites."""
    seen: defaultdict[str, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for number, site in enumerate(sites):
        for one in site.values():
            for code, sex, age in zip(one.people, one.sexes.tolist(), one.ages.tolist(), strict=True):
                if not code.startswith(LOCAL):
                    seen[code][number].append((sex, age))
    shared = {code: [visit for own in at.values() for visit in own] for code, at in seen.items() if len(at) > 1}
    apart = frozenset(code for code, visits in shared.items() if not _can_be_one(np.asarray(visits)))
    if len(apart) > MOST_CONTRADICTING * len(shared):
        raise PoolingError(
            f"{len(apart)} of {len(shared)} people whom several sites have in common differ between visits in sex, or "
            f"by more than {MOST_YEARS:g} years in age: their identifiers do not name the same people everywhere. "
            "Export with identifiers that sites have in common, or without a study key"
        )
    return apart, len(shared)


def _can_be_one(visits: NDArray[np.float64]) -> bool:
    """Whether visits, shape (visit, 2) of sex and age, may be one person's; what is unknown contradicts nothing."""
    sexes, ages = set(visits[:, 0].tolist()) - {0.0}, visits[np.isfinite(visits[:, 1]), 1]
    return len(sexes) < 2 and (not len(ages) or float(np.ptp(ages)) <= MOST_YEARS)


def _refuse_twice(sites: Sequence[Site]) -> None:
    """No two sessions have the same signals in everything."""
    seen: dict[tuple[float, ...], int] = {}
    twice: Counter[tuple[int, int]] = Counter()
    for number, site in enumerate(sites):
        for one in site.values():
            names = observations(one.acquisitions)
            for signals in one.signals:
                values = tuple(signals[contrast][tissue] for contrast, tissue in names)
                if np.isfinite(values).all() and (first := seen.setdefault(values, number)) != number:
                    twice[first, number] += 1
    for (first, second), n in twice.items():
        raise PoolingError(
            f"{n} sessions stand in both of the exports {first + 1} and {second + 1}: one session counts once. Give "
            "one export of each store, and let each session be in one store"
        )
