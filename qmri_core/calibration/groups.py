"""Sessions of the groups of a cohort, as calibration asks for them, wherever they were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qmri_core.calibration.hidden_parameters import Hidden
from qmri_core.calibration.levels import GroupLevel, LevelGroup, trend_covariates
from qmri_core.calibration.population import Population, population
from qmri_core.calibration.scales import ScaleCalibration, Signals, calibrate_group, level_group, scale_spreads
from qmri_core.calibration.session_model import Spreads
from qmri_core.series.acquisition import Acquisition, Contrast


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSessions:
    """What is known of a group's sessions, in one order, beside its acquisitions.

    ``sessions`` are pseudonyms; ``doubts`` say whether a session's headers leave a scale open; ``ages`` are years, NaN
    where unknown, and ``sexes`` as `qmri_core.calibration.levels.trend_covariates` has them, both of shape (session,).
    ``people`` and ``clinics`` are codes of each session's, ``scanner`` one of the group's.
    """

    sessions: Sequence[str]
    doubts: Sequence[bool]
    signals: Sequence[Signals]
    people: Sequence[str]
    clinics: Sequence[str]
    scanner: str
    ages: NDArray[np.float64]
    sexes: NDArray[np.float64]
    acquisitions: Mapping[Contrast, Acquisition]

    @property
    def population(self) -> Population:
        """Of its field strength."""
        return population(next(iter(self.acquisitions.values())).field_strength)


def cohort_spreads(groups: Mapping[str, GroupSessions]) -> Spreads:
    """Spreads of log scales between sessions of a group, from all groups together."""
    signals = [(one.signals, one.acquisitions) for one in groups.values()]
    return scale_spreads(signals, suspects=[one.doubts for one in groups.values()])


def level_groups(groups: Mapping[str, GroupSessions], spreads: Spreads) -> dict[str, LevelGroup]:
    """What `qmri_core.calibration.hierarchy.solve_levels` asks, of groups that have a session to tell of them."""
    covariates = trend_covariates(
        np.concatenate([one.ages for one in groups.values()]), np.concatenate([one.sexes for one in groups.values()])
    )
    ends = np.cumsum([len(one.sessions) for one in groups.values()])[:-1]
    asked = {}
    for (group, one), own in zip(groups.items(), np.split(covariates, ends), strict=True):
        told = level_group(
            one.signals,
            one.acquisitions,
            one.people,
            clinics=one.clinics,
            covariates=own,
            scanner=one.scanner,
            cohort=spreads,
            suspects=one.doubts,
        )
        if told.people:
            asked[group] = told
    return asked


def calibrated(
    group: GroupSessions,
    spreads: Spreads,
    *,
    level: GroupLevel,
    hidden: Mapping[Contrast, tuple[Hidden, ...]],
) -> dict[Contrast, ScaleCalibration]:
    """Scales of a group whose level and hidden parameters are known; see `calibrate_group`.

    Raises
    ------
    qmri_core.calibration.scales.CalibrationError
        If no session has a usable white-matter signal in some contrast.
    """
    return calibrate_group(
        group.signals,
        group.acquisitions,
        spreads,
        people=group.people,
        hidden=hidden,
        level=level,
        suspects=group.doubts,
    )
