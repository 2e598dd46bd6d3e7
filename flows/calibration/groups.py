"""What the store says of the sessions of each group, as calibration asks for it, and the levels of all groups."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from flows.calibration.anchors import read_anchors
from flows.calibration.clinics import with_clinics
from flows.tables.text import records
from qmri_core.calibration.groups import GroupSessions, level_groups
from qmri_core.calibration.hierarchy import solve_levels
from qmri_core.calibration.levels import Levels
from qmri_core.calibration.population import ADULT, FieldStrengthError, population
from qmri_core.calibration.scales import Signals
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


_SEXES = {"F": 0.5, "M": -0.5}
"""As `qmri_core.calibration.levels.trend_covariates` has them; 0 where unknown."""


def sessions_of_groups(stored: pd.DataFrame, suspects: Collection[str] = frozenset()) -> dict[str, GroupSessions]:
    """Groups with population values; people who are no adults count where a group has no others.

    A scanner is a clinic.
    """
    groups = {}
    for group, members in stored.groupby("group", sort=True):
        every = records(members.sort_values("session"))
        rows = [row for row in every if not float(row["age"]) < ADULT] or every  # an unknown age is NaN
        acquisitions = _of_group(list(map(acquisitions_of, rows)))
        try:
            population(_field_strength(acquisitions))
        except FieldStrengthError:
            continue
        scanner = str(group).split("/")[0]
        groups[str(group)] = GroupSessions(
            sessions=[str(row["session"]) for row in rows],
            doubts=[str(row["session"]) in suspects for row in rows],
            signals=[signals_of(row, acquisitions) for row in rows],
            people=[str(row["person"]) for row in rows],
            clinics=[scanner] * len(rows),
            scanner=scanner,
            ages=np.asarray([float(row["age"]) for row in rows]),
            sexes=np.asarray([_SEXES.get(str(row["sex"]), 0.0) for row in rows]),
            acquisitions=acquisitions,
        )
    return groups


def _of_group(sessions: Sequence[Mapping[Contrast, Acquisition]]) -> dict[Contrast, Acquisition]:
    """Of the first session, with what belongs to sessions at its median over those that know it."""
    result = {}
    for contrast, first in sessions[0].items():
        all_of_it = [one[contrast] for one in sessions if contrast in one]
        slices = [one.slices for one in all_of_it if one.slices is not None]
        fields = [one.b1_rms for one in all_of_it if one.b1_rms is not None]
        result[contrast] = replace(
            first,
            slices=round(median(slices)) if slices else None,
            b1_rms=median(fields) if fields else None,
        )
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteTables:
    """Tables of a site: what it has measured (`flows.calibration.anchors`), who sends people (`.clinics`)."""

    anchors: Path | None = None
    clinics: Path | None = None


def levels_of(
    known: Mapping[str, GroupSessions],
    cohort: Spreads,
    tables: SiteTables,
    labels: Mapping[str, str],
    *,
    has_transfer: bool = True,
) -> tuple[list[str], Levels]:
    """Groups that have a session to tell of them, and their levels in that order.

    ``has_transfer`` as `qmri_core.calibration.hierarchy.solve_levels` has it.

    Raises
    ------
    flows.calibration.site_tables.SiteTableError
        If a table cannot be used.
    """
    known = known if tables.clinics is None else with_clinics(known, tables.clinics, labels)
    asked = level_groups(known, cohort)
    order = list(asked)
    measured = []
    if tables.anchors is not None:
        people = {person: group for group, told in asked.items() for person in told.people}
        populations = {group: known[group].population for group in order}
        measured = read_anchors(tables.anchors, order, people, populations, labels)
    return order, solve_levels(list(asked.values()), measured, has_transfer=has_transfer)


def _field_strength(acquisitions: Mapping[Contrast, Acquisition]) -> float:
    return next(iter(acquisitions.values())).field_strength
