"""Sessions that are not complete: why, what to do, and the command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.browser.plain import words
from flows.browser.view import View
from flows.tables.text import records
from storage.store.schema import MEANINGS, Reason, Status

COMMANDS: Mapping[str, str] = {
    Reason.CLOSURE: 'qmri qc accept SESSION --store "$QMRI_STORE" --rater r1',
    Reason.NO_CALIBRATION: 'qmri calibrate --store "$QMRI_STORE" && qmri infer --store "$QMRI_STORE"',
    Reason.NO_PARAMETERS: 'qmri ingest "$QMRI_SOURCE" --store "$QMRI_STORE" --assume assume.yaml',
    Reason.WORKER_LOST: 'qmri ingest "$QMRI_SOURCE" --store "$QMRI_STORE" --workers 1',
    Reason.FORGOTTEN: "",
    Reason.FIELD_STRENGTH: "",
}
"""Command that tries again, or decides, where it is not another ingest."""
AGAIN = 'qmri ingest "$QMRI_SOURCE" --store "$QMRI_STORE" && qmri infer --store "$QMRI_STORE"'


def failures(view: View) -> list[dict[str, str]]:
    """Sessions that are not complete, failed ones first: why, what to do, and the command."""
    rows = view.cohort.catalogue
    order = {str(status): number for number, status in enumerate((Status.FAILED, Status.SKIPPED, Status.PARTIAL))}
    chosen = rows[(rows["status"] != Status.COMPLETE) | (rows["reason"] != "")]
    told = [failure(view, row) for row in records(chosen)]
    return sorted(told, key=lambda one: (order.get(one["status"], 9), one["known"] != "", one["session"]))


def failure(view: View, row: Mapping[str, Any]) -> dict[str, str]:
    """Of a session by its row of the catalogue: what happened, what it means, and the command that tries again."""
    session, reason = str(row["session"]), str(row["reason"])
    known = view.judgement.settled.get(session)
    is_stored = session in view.cohort.slots
    return {
        "session": session,
        "label": view.labels.get(str(row["group"]), "-"),
        "status": str(row["status"]),
        "reason": words(reason),
        "stage": str(row["stage"]) or "-",
        "explanation": str(row["explanation"]) or "-",
        "meaning": MEANINGS[Reason(reason)].replace("``", "") if reason in set(Reason) else "",
        "command": COMMANDS.get(reason, AGAIN).replace("SESSION", session),
        "known": f"{known}ed".replace("eed", "ed") if known else "",
        "stored": "yes" if is_stored else "",
    }
