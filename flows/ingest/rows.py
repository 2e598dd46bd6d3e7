"""What ingest writes of a session into its group and into the catalogue, and when a session is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flows.cluster.boundary import Outcome, seconds_of
from flows.ingest.first_plan import Planned
from flows.ingest.session_plan import SessionPlan
from flows.maps.staleness import why_images
from flows.tables.stages import with_stages
from flows.tables.text import records
from qmri_core import versions
from qmri_core.calibration.population import ADULT
from qmri_core.series.acquisition import Contrast
from qmri_core.series.decided import decided_of
from qmri_core.series.remarks import ordered, remarks_text
from qmri_core.versions import CODE_VERSION
from storage.store.acquisitions import acquisition_values
from storage.store.schema import PASSING_REASONS, Status

if TYPE_CHECKING:
    from storage.store.cohort import Cohort

AGE_MARK = "age"
"""Quality mark of a session for whose age the reference values are not known to hold."""


def known_rows(cohort: Cohort) -> Mapping[str, Mapping[str, object]]:
    """Rows of the catalogue by session."""
    return {str(row["session"]): row for row in records(cohort.catalogue)}


def is_done(plan: Planned, row: Mapping[str, object] | None) -> bool:
    """Whether a session's row in the catalogue says that nothing is left to do."""
    if row is None or why_images(row, versions_of(plan)):
        return False
    if str(row["reason"]) in PASSING_REASONS and str(row["status"]) == Status.FAILED:
        return False
    if str(row["person"]) != plan.person:  # what the archive holds now says more of whose it is
        return False
    if not plan.group:  # the same input, and yet skipped: it has become the copy of another
        return str(row["status"]) == str(plan.status) and str(row["reason"]) == str(plan.reason or "")
    if not _takes_what_was_taken(plan, row):
        return False
    return str(row["status"]) == Status.FAILED or str(row["group"]) == plan.group


def _takes_what_was_taken(plan: Planned, row: Mapping[str, object]) -> bool:
    """Whether the series that a row says were taken are those of the plan, or their repeats.

    An older release may have chosen otherwise of the same files: then that session is ingested again, and no other.
    """
    listed = decided_of(str(row["series"]))
    taken = {(decision, number) for number, decision, _ in listed if decision in set(Contrast)}
    allowed = {(str(contrast), number) for contrast, numbers in plan.numbers.items() for number in numbers}
    return taken <= allowed and {contrast for contrast, _ in taken} == set(map(str, plan.numbers))


def versions_of(plan: Planned) -> dict[str, object]:
    """What a session's result depends on."""
    return {
        "input_digest": plan.input_digest,
        "preprocessing_version": str(versions.PREPROCESSING),
    }


def values_of(plan: SessionPlan, outcome: Outcome) -> dict[str, object]:
    """Per-session values of a session that was ingested."""
    first = next(iter(plan.chosen.values()))
    values: dict[str, object] = {
        "sex": plan.sex,
        "age": plan.age,
        "day": first.day,
        "magnetic_field_strength": first.header.magnetic_field_strength,
        "software": first.header.software,
        **outcome.values,
    }
    if plan.age is not None and plan.age < ADULT:
        marks = (str(outcome.values.get("quality_marks", "")), AGE_MARK)
        values["quality_marks"] = ",".join(mark for mark in marks if mark)
    for acquisition in plan.acquisitions.values():
        values |= acquisition_values(acquisition)
    return values


def row_of(plan: SessionPlan, outcome: Outcome | None = None) -> dict[str, object]:
    """Row of a session in the catalogue."""
    row: dict[str, object] = {
        "session": plan.session,
        "person": plan.person,
        "status": str(plan.status),
        "reason": str(plan.reason or ""),
        "explanation": plan.explanation,
        "contrasts": ",".join(plan.chosen),
        "n_series": len(plan.series),
        "series": plan.series_text,
        "remarks": remarks_text(ordered([*plan.remarks, *(outcome.remarks if outcome is not None else ())])),
        "stage": "plan" if plan.placement is None else "",
        "error": "",
        "code_version": CODE_VERSION,
        **versions_of(plan),
    }
    if plan.placement is not None:
        row |= {"scanner": plan.placement.scanner, "protocol": plan.placement.protocol}
    if outcome is not None:
        row |= {"duration": outcome.duration, "stages": with_stages("", "ingest", seconds_of(outcome))}
        if outcome.status is Status.FAILED:
            row |= {
                "status": str(outcome.status),
                "reason": str(outcome.reason),
                "stage": outcome.stage,
                "error": outcome.error,
                "explanation": outcome.explanation,
            }
    return row
