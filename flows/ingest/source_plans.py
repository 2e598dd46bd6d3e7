"""Plans of all sessions of a source, one at a time: what is to be ingested, skipped, and accounted for.

Of sessions that the store knows, what is needed of their first plans is kept in the index of the source: an empty night
reads no series of theirs, as long as all that the plan rests on is as it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from flows.ingest.arriving import Quiet
from flows.ingest.first_plan import FirstPlan, Planned, grounds_of_plans
from flows.ingest.forecast import Need, need_of
from flows.ingest.problems import SMALL_GROUP
from flows.ingest.rows import is_done, known_rows, row_of
from flows.ingest.session_plan import SessionPlan, assign_groups, finish_plan, plan_session
from flows.progress import Progress
from flows.selection import EVERYTHING, Selection
from flows.tables.summary import RunSummary, summarise
from flows.tables.text import records
from qmri_core.series.grouping import grid_of, protocol_keys
from qmri_core.series.remarks import kinds_of
from qmri_core.series.stored_keys import is_short, whole_keys
from qmri_core.versions import CODE_VERSION
from storage.source.assume_file import Override, Stated
from storage.source.discovery import Scanned, scan_source
from storage.source.origin import Source
from storage.store.acquisitions import acquisitions_of
from storage.store.cohort import Cohort
from storage.store.decisions.effect import excluded, judge
from storage.store.lifecycle.forget import forgotten
from storage.store.repository import StoreError
from storage.store.schema import Reason, Status
from storage.store.waves import commit

SKIPPED_PER_COMMIT = 500


class SourcePlans:
    """Plans of a source's sessions, made when they are needed."""

    def __init__(
        self,
        scanned: Scanned,
        cohort: Cohort,
        key: bytes,
        overrides: Sequence[Override],
        by_software: bool,
        quiet_for: float = 0.0,
        selection: Selection = EVERYTHING,
    ) -> None:
        self._scanned, self._cohort, self._overrides, self._by_software = scanned, cohort, overrides, by_software
        self._key = key
        self._known = known_rows(cohort)
        self._forgotten = forgotten(cohort, key, scanned.sessions)
        self._selected = selection.of(cohort, scanned.sessions)
        self._excluded = excluded(cohort)
        self._unchanged = 0
        self._quiet = Quiet.of(quiet_for)
        self._arriving: set[str] = set()
        self._done: dict[str, str] = {}
        self._grounds = grounds_of_plans(overrides, by_software=by_software)
        self.used: list[Override] = []
        self.need = Need()
        self.dates: dict[str, tuple[str, int]] = {}
        """Group and ordinal of the date of each session that is ingested, where it is known."""
        stored = {name: str(row["group"]) for name, row in self._known.items() if row["group"]}
        self._assignment = assign_groups(self._first_plans(), stored, _whole_keys(cohort, stored))
        scanned.keep_no_others()

    def _first_plans(self) -> Iterator[Planned]:
        """Plans by a session's own numbers, without new sessions that are still arriving or of people who withdrew."""
        for session in self._scanned.sessions:
            plan: Planned | None = self._kept(session) if session in self._known else None
            if plan is None:
                made = self._first(session)
                if session not in self._known and forgotten(self._cohort, self._key, [made.person]):
                    self._forgotten.add(session)
                    continue
                if session not in self._known and self._quiet.is_broken(made):
                    self._arriving.add(session)
                    continue
                plan = FirstPlan.of(made)
                self._scanned.keep(session, made.series, self._grounds, plan.to_bytes())
            if self.is_done(plan, self._known.get(session)):
                self._done[session] = plan.group
                self._use(plan)
            if plan.group and plan.date is not None:
                self.dates[session] = plan.group, plan.date
            yield plan

    def is_done(self, plan: Planned, row: Mapping[str, object] | None) -> bool:
        """Whether nothing is left to do of a session, or nothing is to be done: it is excluded as it is."""
        if row is not None and plan.session in self._excluded and row["input_digest"] == plan.input_digest:
            return True
        return is_done(plan, row) and not self._selected.is_again(plan.session)

    def _kept(self, session: str) -> FirstPlan | None:
        content = self._scanned.kept(session, self._grounds)
        return None if content is None else FirstPlan.from_bytes(content)

    def _first(self, session: str) -> SessionPlan:
        return plan_session(self._scanned.session(session)[0], self._overrides, by_software=self._by_software)

    def _is_still_done(self, session: str) -> bool:
        """Whether a session that is done by its own numbers is so by those of all: its plan stays as it was."""
        if session not in self._done:
            return False
        if session in self._excluded:
            return True
        if session in self._assignment.twins:
            return False
        group = self._done[session]
        return not group or self._assignment.groups.get(session, group) == group

    def _use(self, plan: Planned) -> None:
        self.used += [entry for entry in plan.overrides if entry not in self.used]

    def plan(self, session: str) -> SessionPlan:
        """Make the plan of one session."""
        return finish_plan(self._first(session), self._assignment, self._overrides, by_software=self._by_software)

    def sort_out(self) -> tuple[list[str], str | None]:
        """Record the sessions that are skipped; those to ingest, and the last snapshot. ``need`` is theirs then."""
        to_do: list[str] = []
        skipped: list[SessionPlan] = []
        snapshot = None
        for session in self._scanned.sessions:
            if session in self._forgotten or session in self._arriving or session not in self._selected:
                continue
            if self._is_still_done(session):  # as most are on most nights: not planned twice
                self._unchanged += 1
                continue
            plan = self.plan(session)
            self._use(plan)
            if self.is_done(plan, self._known.get(session)):
                self._unchanged += 1
            elif self._quiet.is_broken(plan):
                self._arriving.add(session)
            elif plan.placement is not None:
                to_do.append(session)
                self.need += need_of(plan)
            else:
                skipped.append(plan)
                if len(skipped) == SKIPPED_PER_COMMIT:
                    snapshot = _record_skipped(self._cohort, skipped)
                    skipped.clear()
        return to_do, _record_skipped(self._cohort, skipped) or snapshot

    def summary(self, snapshot: str | None, by_others: int = 0) -> RunSummary:
        """Account for every session of the source from what the store says; ``by_others`` another run has done."""
        nowhere = {
            "status": Status.SKIPPED,
            "reason": Reason.FORGOTTEN,
            "stage": "plan",
            "quality_marks": "",
            "remarks": "",
        }
        now = self._cohort.refreshed()
        known = {
            **known_rows(now),
            **{name: {"session": name, **nowhere} for name in self._forgotten},
        }
        waiting = {**nowhere, "reason": Reason.STILL_ARRIVING}
        known = {
            **{name: {"session": name, **waiting} for name in self._arriving - set(self._forgotten)},
            **known,
        }
        sessions = [session for session in self._scanned.sessions if session in self._selected]
        lost = [session for session in sessions if session not in known]
        if lost:
            raise StoreError(f"{len(lost)} sessions are in no state after the run: {', '.join(lost[:5])}")
        rows = [known[session] for session in sessions]
        sizes = Counter(str(row["group"]) for row in known.values() if row.get("group"))
        summary = summarise(
            [(str(row["session"]), str(row["status"]), str(row["reason"]), str(row["stage"])) for row in rows],
            unchanged=self._unchanged + by_others,
            snapshot=snapshot,
        )
        marks = Counter(mark for row in rows for mark in str(row["quality_marks"]).split(",") if mark)
        return replace(
            summary.with_decisions(judge(now).settled),
            n_files=self._scanned.n_files,
            not_selected=len(self._scanned.sessions) - len(sessions),
            arriving=len((self._arriving - set(self._forgotten)) & set(sessions)),
            other_files=self._scanned.unreadable,
            small_groups={
                f"{now.labels[group]} = {group}" if group in now.labels else group: size
                for group, size in sorted(sizes.items())
                if size < SMALL_GROUP
            },
            marks=dict(sorted(marks.items())),
            remarks=kinds_of(str(row["remarks"]) for row in rows),
        )


def source_problems(
    source: Source, cohort: Cohort, *, key: bytes, assume: Path | None, by_software: bool = False, progress: Progress
) -> list[tuple[str, str, str]]:
    """Read a source again: sessions whose bytes are no longer those that were ingested, as session, variable, message.

    Sessions of the source that the store has never seen are no problem of the store; `qmri inspect` tells of them.
    ``assume`` and ``by_software`` are those of the ingest: what they state is part of the digests.
    """
    stated = Stated.by(assume)
    told = stated.assumptions
    with scan_source(source, key=key, assume=told, progress=lambda done, total: progress(done, total)) as scanned:
        plans, known = SourcePlans(scanned, cohort, key, stated.overrides, by_software), known_rows(cohort)
        seen = [session for session in scanned.sessions if session in known]
        return [
            (session, "input_digest", "its source is not what was ingested")
            for session in seen
            if plans.plan(session).input_digest != known[session]["input_digest"]
        ]


def _whole_keys(cohort: Cohort, stored: Mapping[str, str]) -> dict[str, str]:
    """Whole keys of the groups with short ones, from the acquisitions that are stored of their sessions."""
    if not any(map(is_short, stored.values())):
        return {}
    candidates = []
    for row in records(cohort.sessions):
        group = str(row["group"])
        if is_short(group):
            scanner, _, protocol = group.partition("/")
            acquisitions = acquisitions_of(row)
            spacings = dict.fromkeys(acquisitions, grid_of(protocol).spacing)
            keys = tuple(f"{scanner}/{key}" for key in protocol_keys(acquisitions, spacings))
            candidates.append((str(row["session"]), group, keys))
    return whole_keys(candidates)


def _record_skipped(cohort: Cohort, plans: Sequence[SessionPlan]) -> str | None:
    if not plans:
        return None
    with cohort.writing() as repository:
        return commit(
            repository,
            None,
            [],
            values={},
            rows=[row_of(plan) for plan in plans],
            message=f"Record {len(plans)} skipped sessions",
            metadata={"run": "ingest", "skipped": len(plans), "code_version": CODE_VERSION},
        )
