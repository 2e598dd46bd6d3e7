"""What the store says of the sessions of each group, as calibration asks for it, and the levels of all groups."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from flows.maps.anchors import read_anchors
from flows.tables.text import records
from qmri_core.calibration.hierarchy import solve_levels
from qmri_core.calibration.levels import Levels, trend_covariates
from qmri_core.calibration.population import ADULT, FieldStrengthError, Population, population
from qmri_core.calibration.scales import Signals, level_group
from qmri_core.calibration.session_model import Spreads
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.tissues import MEMBERS
from storage.store.acquisitions import acquisitions_of


def signals_of(row: Mapping[str, Any], contrasts: Iterable[Contrast]) -> Signals:
    """Signals of a session's tissues by contrast, from its stored values."""
    return {
        contrast: {tissue: float(row[f"{contrast}_{member}_signal"]) for tissue, member in MEMBERS.items()}
        for contrast in contrasts
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSessions:
    """What is stored of a group's sessions, in one order: pseudonyms, signals, people, ages and sexes; acquisitions."""

    sessions: Sequence[str]
    doubts: Sequence[bool]
    """Whether a session's headers leave a scale open."""
    signals: Sequence[Signals]
    people: Sequence[str]
    ages: NDArray[np.float64]
    sexes: NDArray[np.float64]
    acquisitions: Mapping[Contrast, Acquisition]

    @property
    def population(self) -> Population:
        """Of its field strength."""
        return population(_field_strength(self.acquisitions))


_SEXES = {"F": 0.5, "M": -0.5}
"""As `qmri_core.calibration.levels.trend_covariates` has them; 0 where unknown."""


def sessions_of_groups(stored: pd.DataFrame, suspects: Collection[str] = frozenset()) -> dict[str, GroupSessions]:
    """Groups with population values; people who are no adults count where a group has no others."""
    groups = {}
    for group, members in stored.groupby("group", sort=True):
        every = records(members.sort_values("session"))
        rows = [row for row in every if not float(row["age"]) < ADULT] or every  # an unknown age is NaN
        acquisitions = acquisitions_of(rows[0])
        try:
            population(_field_strength(acquisitions))
        except FieldStrengthError:
            continue
        groups[str(group)] = GroupSessions(
            sessions=[str(row["session"]) for row in rows],
            doubts=[str(row["session"]) in suspects for row in rows],
            signals=[signals_of(row, acquisitions) for row in rows],
            people=[str(row["person"]) for row in rows],
            ages=np.asarray([float(row["age"]) for row in rows]),
            sexes=np.asarray([_SEXES.get(str(row["sex"]), 0.0) for row in rows]),
            acquisitions=acquisitions,
        )
    return groups


def levels_of(
    known: Mapping[str, GroupSessions], cohort: Spreads, anchors: Path | None, labels: Mapping[str, str]
) -> tuple[list[str], Levels]:
    """Groups that have a session to tell of them, and their levels in that order.

    Raises
    ------
    flows.maps.anchors.AnchorError
        If the table of anchors cannot be used.
    """
    ages = np.concatenate([one.ages for one in known.values()])
    sexes = np.concatenate([one.sexes for one in known.values()])
    ends = np.cumsum([len(one.sessions) for one in known.values()])[:-1]
    covariates = dict(zip(known, np.split(trend_covariates(ages, sexes), ends), strict=True))
    asked = {}
    for group, one in known.items():
        scanner = group.split("/")[0]
        told = level_group(
            one.signals,
            one.acquisitions,
            one.people,
            clinics=[scanner] * len(one.sessions),
            covariates=covariates[group],
            scanner=scanner,
            cohort=cohort,
            suspects=one.doubts,
        )
        if told.people:
            asked[group] = told
    order = list(asked)
    measured = []
    if anchors is not None:
        people = {person: group for group, told in asked.items() for person in told.people}
        measured = read_anchors(anchors, order, people, {group: known[group].population for group in order}, labels)
    return order, solve_levels(list(asked.values()), measured)


def _field_strength(acquisitions: Mapping[Contrast, Acquisition]) -> float:
    return next(iter(acquisitions.values())).field_strength
