"""What a result rests on, and which of that has changed: the one place that decides what is done again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qmri_core import versions
from qmri_core.calibration.population import FieldStrengthError, population
from storage.store.decisions.effect import excluded
from storage.store.schema import Reason, Status

if TYPE_CHECKING:
    from storage.store.cohort import Cohort

IMAGES_REST_ON = {
    "input_digest": "its input has changed",
    "preprocessing_version": "its images were made with another preprocessing",
}
"""Columns of the catalogue that say what a session's images were made from, and what to say when one differs.

The version of the package is not among them: a release that changes what comes out raises the version of what it
changes in `qmri_core.versions`.
"""

MAPS_REST_ON = {
    "checkpoint_digest": "its maps were made with another checkpoint",
    "calibration_version": "its maps were made with another calibration",
}
"""The same of its maps. New images take these two away, so that maps never outlive the images they were made from."""

DECIDE_ON_MAPS = ("status", "reason", "magnetic_field_strength", *MAPS_REST_ON)
"""Per-session values that decide whether a session gets new maps."""


def why_images(row: Mapping[str, Any] | None, current: Mapping[str, object]) -> str:
    """Why a session is to be ingested; empty if its images, or the record that it has none, hold.

    Parameters
    ----------
    row
        Its row of the catalogue; ``None`` if it was never seen.
    current
        What they would be made from now: the keys of `IMAGES_REST_ON`, or some of them.
    """
    if row is None:
        return "it is new"
    return next((why for name, why in IMAGES_REST_ON.items() if name in current and row[name] != current[name]), "")


def why_maps(row: Mapping[str, Any], *, checkpoint: str, calibration: str) -> str:
    """Why a stored session's maps are to be made; empty if they, or the record that they failed, hold.

    Parameters
    ----------
    row
        Its per-session values, or its row of the catalogue.
    checkpoint, calibration
        What they would be made with now: the digest, and the version of group and method.
    """
    if not row["checkpoint_digest"]:
        return "it has no maps yet"
    current = {"checkpoint_digest": checkpoint, "calibration_version": calibration}
    return next((why for name, why in MAPS_REST_ON.items() if row[name] != current[name]), "")


def maps_identity(row: Mapping[str, Any]) -> str:
    """What a session's maps were made from; statistics that carry another text are stale."""
    return ",".join(str(row[name]) for name in (*MAPS_REST_ON, *IMAGES_REST_ON))


def stale_sessions(cohort: Cohort) -> dict[str, str]:
    """Sessions that the next run would do again without looking at the source, and why."""
    from flows.calibration.calibrate import current_calibrations
    from flows.maps.weights import chosen_weights
    from flows.tables.text import records

    left = excluded(cohort)
    ours: dict[str, object] = {"preprocessing_version": str(versions.PREPROCESSING)}
    seen = cohort.catalogue[["session", "group", *IMAGES_REST_ON]]
    stale = {str(row["session"]): why for row in records(seen) if (why := why_images(row, ours)) and row["group"]}
    calibrations, weights = current_calibrations(cohort), chosen_weights(cohort)
    for record in records(cohort.values_of(DECIDE_ON_MAPS)):
        if record["status"] == Status.SKIPPED or obstacle(record, calibrations) is not None:
            continue
        digest = weights.as_recorded(str(record["checkpoint_digest"]))
        why = why_maps(record, checkpoint=digest, calibration=made_with(calibrations[str(record["group"])][0]))
        if why:
            stale.setdefault(str(record["session"]), why)
    return {session: why for session, why in stale.items() if session not in left}


def made_with(calibration: int) -> str:
    """What a session's maps rest on beside the weights: version of its group's calibration, and of the method."""
    return f"{calibration}/{versions.INFERENCE}"


def obstacle(record: Mapping[str, Any], calibrations: Mapping[str, object]) -> Reason | None:
    """Why a stored session gets no maps."""
    try:
        population(float(record["magnetic_field_strength"]))
    except FieldStrengthError:
        return Reason.FIELD_STRENGTH
    return None if record["group"] in calibrations else Reason.NO_CALIBRATION
