"""How an inspection is shown: as tables for people, and as JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from functools import partial

from flows.ingest.forecast import Forecast
from flows.ingest.inspection import Inspection
from flows.tables.summary import files_line, unmatched_line
from flows.tables.text import table_parts
from storage.store.schema import Status


def series_rows(inspection: Inspection, labels: Mapping[str, str]) -> Iterator[list[str]]:
    """One row per series: session, number, decision, reason, group by its label, explanation."""
    for members, _, _ in inspection.rows():
        for session, number, decision, reason, group, explanation in members:
            yield [session, number, decision, reason, labels.get(group, "-"), explanation]


def session_rows(inspection: Inspection) -> Iterator[list[str]]:
    """One row per session that would not be complete: session, status, reason, explanation."""
    return (session for _, session, _ in inspection.rows() if session)


def remark_rows(inspection: Inspection) -> Iterator[list[str]]:
    """One row per remark: session, kind, sentence."""
    return (remark for _, _, remarks in inspection.rows() for remark in remarks)


def json_parts(inspection: Inspection, labels: Mapping[str, str], forecast: Forecast) -> Iterator[str]:
    """The whole inspection as one JSON object, in parts: a line per session, so that memory holds one."""
    yield '{"sessions": [\n'
    separator = ""
    for members, session, remarks in inspection.rows():
        yield separator + json.dumps(_session_object(members, session, remarks, labels))
        separator = ",\n"
    rest = {
        "groups": [
            {"label": label, "group": group, "sessions": inspection.group_sizes[group]}
            for group, label in labels.items()
        ],
        "problems": [asdict(problem) for problem in inspection.problems],
        "unmatched": [position + 1 for position in inspection.unmatched],
        "forecast": asdict(forecast),
        "n_sessions": inspection.n_sessions,
        "n_series": inspection.n_series,
        "n_files": inspection.n_files,
        "other_files": dict(sorted(inspection.other_files.items())),
    }
    yield "\n], " + json.dumps(rest)[1:] + "\n"


def _session_object(
    members: list[list[str]], session: list[str], remarks: list[list[str]], labels: Mapping[str, str]
) -> dict[str, object]:
    """One session; its status is complete where it has no row of its own."""
    _, status, reason, explanation = session or [members[0][0], str(Status.COMPLETE), "", ""]
    group = members[0][4]
    return {
        "session": members[0][0],
        "status": status,
        "reason": reason,
        "explanation": explanation,
        "group": group,
        "label": labels.get(group, ""),
        "series": [
            {"number": int(number), "decision": decision, "reason": why.strip("-"), "explanation": text}
            for _, number, decision, why, _, text in members
        ],
        "remarks": [{"kind": kind, "text": text} for _, kind, text in remarks],
    }


def text_parts(
    inspection: Inspection, labels: Mapping[str, str], new: Collection[str], told: Forecast
) -> Iterator[str]:
    """The inspection for people: tables of series, sessions and remarks, groups, what to decide, the forecast."""
    header = ["session", "series", "decision", "reason", "group", "explanation"]
    yield from table_parts(header, lambda: series_rows(inspection, labels))
    for header, rows in (
        (["session", "would be", "reason", "explanation"], session_rows),
        (["session", "remark", "of this session"], remark_rows),
    ):
        if next(rows(inspection), None) is not None:
            yield ""
            yield from table_parts(header, partial(rows, inspection))
    yield ""
    for group, label in labels.items():
        unsure = ", not in the store yet: the label is provisional" if group in new else ""
        yield f"{label} = {group} ({inspection.group_sizes[group]} sessions{unsure})"
    if inspection.problems:
        yield "\nTo decide:"
        yield from (f"  {problem.line()}" for problem in inspection.problems)
    yield from (unmatched_line(position) for position in inspection.unmatched)
    yield f"\n{told.text()}"
    files = files_line(inspection.n_files, inspection.other_files)
    yield f"{inspection.n_series} series, {inspection.n_sessions} sessions; {files}"
