"""Which stored sessions get maps, and what their maps are to be made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.calibration.calibrate import current_calibrations
from flows.calibration.groups import signals_of
from flows.calibration.odd_sessions import Oddity, oddity_of
from flows.maps.staleness import DECIDE_ON_MAPS, made_with, obstacle, why_maps
from flows.selection import EVERY, Selected
from flows.tables.text import records
from qmri_core.calibration.population import ADULT
from qmri_core.calibration.scales import ScaleCalibration, calibrated_acquisitions, session_person, session_scales
from qmri_core.calibration.session_model import PersonLevels
from qmri_core.series.acquisition import Acquisition, Contrast
from storage.store.acquisitions import acquisitions_of
from storage.store.decisions.effect import excluded
from storage.store.schema import Reason, Status

if TYPE_CHECKING:
    from flows.maps.weights import Weights
    from storage.store.cohort import Cohort
    from storage.store.slots import Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class MapsPlan:
    """What the maps of one session are to be made from."""

    slot: Slot
    acquisitions: Mapping[Contrast, Acquisition]
    scales: Mapping[Contrast, float]
    person: PersonLevels
    oddity: Oddity
    marks: str
    """Of the session, with those of its scales."""
    is_adult: bool
    made_with: str
    input_digest: str


def plan_maps(cohort: Cohort, weights: Weights, selected: Selected = EVERY) -> tuple[list[MapsPlan], dict[str, Reason]]:
    """Sessions whose maps are to be made, and those that get none for a reason that is not recorded yet.

    Of sessions that are excluded, or not selected, neither.
    """
    left = excluded(cohort)
    calibrations = current_calibrations(cohort)
    due: list[str] = []
    without: dict[str, Reason] = {}
    for row in records(cohort.values_of(DECIDE_ON_MAPS).sort_values("session")):
        if row["status"] == Status.SKIPPED:  # its input has changed since its images were stored, and is not usable
            continue
        if row["session"] in left or row["session"] not in selected:
            continue
        reason = obstacle(row, calibrations)
        if reason is not None:
            if row["reason"] != str(reason):
                without[str(row["session"])] = reason
            continue
        digest = weights.as_recorded(str(row["checkpoint_digest"]))
        why = why_maps(row, checkpoint=digest, calibration=made_with(calibrations[str(row["group"])][0]))
        if why or selected.is_again(str(row["session"])):
            due.append(str(row["session"]))
    if not due:
        return [], without
    stored = cohort.sessions[cohort.sessions["session"].isin(due)].sort_values("session")
    return [_plan(cohort, row, calibrations) for row in records(stored)], without


def _plan(
    cohort: Cohort,
    row: Mapping[str, Any],
    calibrations: Mapping[str, tuple[int, dict[Contrast, ScaleCalibration], str]],
) -> MapsPlan:
    version, scales, _ = calibrations[str(row["group"])]
    acquisitions = calibrated_acquisitions(scales, acquisitions_of(row))
    of_session = scales, signals_of(row, acquisitions), acquisitions
    oddity = oddity_of(*of_session)
    return MapsPlan(
        slot=cohort.slots[str(row["session"])],
        acquisitions=acquisitions,
        scales=session_scales(*of_session),
        person=session_person(*of_session),
        oddity=oddity,
        marks=oddity.marks(str(row["quality_marks"])),
        is_adult=not float(row["age"]) < ADULT,  # an unknown age is NaN
        made_with=made_with(version),
        input_digest=str(row["input_digest"]),
    )
