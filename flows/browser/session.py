"""Everything about one session but its volumes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from flows.browser.failing import failure
from flows.browser.plain import number, words
from flows.browser.view import View
from flows.browser.volumes import grid_of
from flows.operations.session import commits_of
from flows.tables.text import records
from qmri_core.series.decided import decided_of
from qmri_core.series.remarks import MEANINGS as REMARKS
from qmri_core.series.remarks import remarks_of
from storage.store.schema import Status

PROVENANCE = ("code_version", "preprocessing_version", "calibration_version", "checkpoint_digest", "input_digest")


def session_json(view: View, session: str) -> bytes:
    """Everything about one session but its volumes.

    Raises
    ------
    KeyError
        If the snapshot has no such session.
    """
    row = view.cohort.rows_of([session]).get(session)
    if row is None:
        raise KeyError(session)
    own = view.figures.rows[view.figures.rows["session"] == session]
    value = records(own)[0] if len(own) else {}
    far = next((one for one in view.outliers if one.session == session), None)
    people = view.figures.rows
    same = people[(people["person"] == row["person"]) & (people["person"] != "") & (people["session"] != session)]
    key = str(row["group"])
    told = {
        "session": session,
        "person": str(row["person"]),
        "group": view.labels.get(key, "-"),
        "key": key,
        "status": str(row["status"]),
        "reason": words(row["reason"]),
        "explanation": str(row["explanation"]),
        "failure": _failure(view, row),
        "why": far.sentence if far else "",
        "score": far.score if far else None,
        "marks": str(row["quality_marks"]),
        "people": {name: number(value.get(name)) for name in ("age", "day", "scanner_day")}
        | {"sex": str(value.get("sex", ""))},
        "figures": [[one.title, number(value.get(one.name)), one.unit] for one in view.figures.figures]
        if value
        else [],
        "series": [list(map(str, one)) for one in decided_of(str(row["series"]))],
        "remarks": [[words(one.kind), one.text, REMARKS[one.kind][1]] for one in remarks_of(str(row["remarks"]))],
        "provenance": [[words(name), str(row[name])] for name in PROVENANCE],
        "same_person": [[str(one["session"]), number(one["day"])] for one in records(same.sort_values("day"))],
        "decisions": _decisions_on(view, session, key),
        "counts": _counts(view, session, bool(value) and bool(value["counts"])),
        "volumes": view.volumes(session),
        "grid": _grid(view, session),
    }
    return json.dumps(told, separators=(",", ":"), allow_nan=False).encode()


def _grid(view: View, session: str) -> dict[str, Any] | None:
    """Along x, y, z: voxels, where the first is, how far apart they are, and every which one travels to the viewer."""
    slot = view.cohort.slots.get(session)
    if slot is None:
        return None
    grid = grid_of(view, slot)
    return asdict(grid) | {"every": grid.every}


def _failure(view: View, row: Mapping[str, Any]) -> dict[str, str] | None:
    """What its state means and which command tries again; None of a session that is complete."""
    if str(row["status"]) == Status.COMPLETE and not row["reason"]:
        return None
    told = failure(view, row)
    return {name: told[name] for name in ("meaning", "command", "stage", "known")}


def history_json(view: View, session: str) -> bytes:
    """Commits that changed what the store says of a session, the newest first: time, message and snapshot of each.

    Raises
    ------
    KeyError
        If the snapshot has no such session.
    """
    if session not in view.cohort.rows_of([session]):
        raise KeyError(session)
    told = [[f"{one.time:%Y-%m-%d %H:%M} UTC", one.message, one.id] for one in commits_of(view.cohort, session)]
    return json.dumps(told, separators=(",", ":")).encode()


def _counts(view: View, session: str, has_maps: bool) -> str:
    if session in view.judgement.left_out:
        return f"counts for nothing: {view.judgement.left_out[session]}"
    return "counts" if has_maps else "has no maps that count"


def _decisions_on(view: View, session: str, group: str) -> list[list[str]]:
    return [
        [str(one.kind), str(one.scope), str(one.verdict), ", ".join(map(words, one.grounds)) or "-", one.rater]
        for one in view.cohort.decisions
        if one.subject in (session, group)
    ]
