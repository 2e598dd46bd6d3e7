"""All that a store says of one session, for a person who looks into it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

from flows.maps.staleness import stale_sessions
from flows.selection import RECORD
from flows.tables.stages import stages_of
from flows.tables.text import text_table
from qmri_core.series.decided import decided_of
from qmri_core.series.remarks import MEANINGS as OF_REMARKS
from qmri_core.series.remarks import remarks_of
from storage.store.decisions.effect import judge
from storage.store.repository import StoreError, iterate_history
from storage.store.schema import MEANINGS, Reason, Status

if TYPE_CHECKING:
    from storage.store.cohort import Cohort
    from storage.store.repository import Snapshot

MOST_COMMITS = 100
"""Of the store's history that are compared; older ones are not told."""
DIGESTS = ("input_digest", "preprocessing_version", "calibration_version", "checkpoint_digest", "code_version")


def session_lines(cohort: Cohort, session: str) -> Iterator[str]:
    """What became of a session and why, what was decided on each series, what it rests on, and what changed it when.

    Raises
    ------
    StoreError
        If the store has no such session.
    """
    row = cohort.rows_of([session]).get(session)
    if row is None:
        raise StoreError("the store has no such session; the catalogue has the pseudonyms")
    group = str(row["group"])
    person = str(row["person"]) or "an unknown person"
    yield f"{session} of {person}, in {f'{cohort.labels.get(group, group)} = {group}' if group else 'no group'}"
    yield from _state_lines(cohort, session, row)
    if series := decided_of(str(row["series"])):
        yield ""
        yield text_table(["series", "decision", "why"], [list(map(str, one)) for one in series])
    for one in remarks_of(str(row["remarks"])):
        yield f"remark: {one.text} ({one.kind}); {OF_REMARKS[one.kind][1]}"
    yield ""
    yield from (f"{name.replace('_', ' ')}: {row[name] or '-'}" for name in DIGESTS)
    yield from _slot_lines(cohort, session)
    yield ""
    yield from (f"{one.time:%Y-%m-%d %H:%M:%S} UTC  {one.id}  {one.message}" for one in commits_of(cohort, session))


def _state_lines(cohort: Cohort, session: str, row: dict[str, Any]) -> Iterator[str]:
    status, reason = str(row["status"]), str(row["reason"])
    stage = f" in stage {row['stage']}" if row["stage"] else ""
    error = f" ({row['error']})" if row["error"] else ""
    yield f"{status}{f': {reason}' if reason else ''}{stage}{error}: {MEANINGS[Status(status)]}"
    if row["explanation"]:
        yield f"  {row['explanation']}"
    if reason:
        yield f"  {MEANINGS[Reason(reason)]}"
    if row["duration"] == row["duration"]:  # NaN where nothing was processed
        yield f"ingest took {float(row['duration']):.1f} s"
    for run, seconds in stages_of(str(row["stages"])).items():
        yield f"seconds of {run}: " + ", ".join(f"{stage} {each:.2f}" for stage, each in seconds.items())
    if why := stale_sessions(cohort).get(session):
        yield f"stale: {why}"
    judgement = judge(cohort)
    if session in judgement.left_out:
        yield f"counts for nothing: {judgement.left_out[session]}"
    for (_, subject, scope), standing in judgement.standings.items():
        if subject in {session, str(row["group"])}:
            one = standing.decision
            grounds = f" for {', '.join(one.grounds)}" if one.grounds else ""
            changed = f"; open again: {', '.join(standing.changed)} changed" if standing.changed else ""
            yield f"decided by {one.rater} on its {scope}: {one.verdict}{grounds}{changed}"


def _slot_lines(cohort: Cohort, session: str) -> Iterator[str]:
    slot = cohort.slots.get(session)
    yield "no images are stored" if slot is None else f"stored at {slot.group}, index {slot.index}"


def commits_of(cohort: Cohort, session: str) -> Iterator[Snapshot]:
    """Commits that changed what the catalogue says of a session, newest first, of the last `MOST_COMMITS`."""
    columns = ("group", *RECORD)
    states = (
        (one, {name: str(row[name]) for name in columns} if (row := _row(cohort, one.id, session)) else None)
        for one in islice(iterate_history(cohort.repository), MOST_COMMITS)
    )
    last: tuple[Snapshot, dict[str, str] | None] | None = None
    for (newer, after), (older, before) in pairwise(states):
        if after != before:
            yield newer
        last = older, before
    if last is not None and last[1] is not None:
        yield last[0]


def _row(cohort: Cohort, snapshot: str, session: str) -> dict[str, Any] | None:
    return cohort.at_snapshot(snapshot).rows_of([session]).get(session)
