"""Making a decision on what the store holds now, and telling what it changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage.store.decisions.codes import (
    DEFAULT_SCOPE,
    Decision,
    DecisionError,
    Ground,
    Scope,
    Subject,
    Verdict,
)
from storage.store.decisions.effect import Judged, current_digests, judge
from storage.store.decisions.ledger import append_decisions
from storage.store.decisions.standing import not_undone
from storage.store.schema import Reason, Status

if TYPE_CHECKING:
    from storage.store.cohort import Cohort


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What decisions change: sessions that count from now on, that count no more, and failures that are settled."""

    counted: int
    left_out: int
    settled: int
    unsettled: int

    def text(self) -> str:
        """Say it in a line."""
        parts = [
            f"{count} sessions {what}"
            for count, what in (
                (self.counted, "count again"),
                (self.left_out, "count no more"),
                (self.settled, "that failed are settled"),
                (self.unsettled, "that failed are open again"),
            )
            if count
        ]
        return ", ".join(parts) or "nothing of what counts changes"


def decisions_on(
    cohort: Cohort,
    subjects: Iterable[str],
    verdict: Verdict,
    *,
    rater: str,
    grounds: Sequence[Ground] = (),
    scope: Scope | None = None,
) -> list[Decision]:
    """Decisions of one verdict on sessions and groups as they are now; nothing is written.

    Parameters
    ----------
    subjects
        Pseudonyms of sessions, labels or keys of groups.
    scope
        Default: the verdict's, `storage.store.decisions.codes.DEFAULT_SCOPE`; of an undo that of the rater's last
        decision on the subject.

    Raises
    ------
    DecisionError
        If the store has no such session or group, or there is nothing to decide on.
    """
    rows = cohort.catalogue.set_index("session", drop=False)
    now = current_digests(cohort.catalogue)
    made = []
    for name in dict.fromkeys(subjects):
        kind, subject = Subject.SESSION, name
        if (kind, subject) not in now:
            kind, subject = Subject.GROUP, cohort.groups_by_name.get(name, name)
        if (kind, subject) not in now:
            raise DecisionError(
                "the store has no such session or group; `qmri status` names the groups, the catalogue the sessions"
            )
        wanted = scope or DEFAULT_SCOPE[verdict]
        if verdict is Verdict.UNDO:
            wanted = _undone(cohort, kind, subject, rater, scope)
        decision = Decision(
            kind=kind,
            subject=subject,
            scope=wanted,
            verdict=verdict,
            grounds=tuple(dict.fromkeys(grounds)),
            rater=rater,
            **now[kind, subject],
        )
        if kind is Subject.SESSION:
            row = rows.loc[subject]
            _check_session(decision, str(row["status"]), str(row["reason"]))
        made.append(decision)
    return made


def decide(cohort: Cohort, decisions: Sequence[Decision]) -> tuple[str | None, Change]:
    """Append decisions in one commit; the snapshot, and what they change.

    Raises
    ------
    DecisionError, StoreError
        As `storage.store.decisions.ledger.append_decisions`.
    """
    change = change_of(cohort, decisions)
    with cohort.writing() as repository:
        return append_decisions(repository, decisions), change


def change_of(cohort: Cohort, decisions: Sequence[Decision]) -> Change:
    """What decisions would change; nothing is written."""
    before, after = judge(cohort), judge(cohort, decisions)
    out_before, out_after = _out(cohort, before), _out(cohort, after)
    return Change(
        counted=len(out_before - out_after),
        left_out=len(out_after - out_before),
        settled=len(set(after.settled) - set(before.settled)),
        unsettled=len(set(before.settled) - set(after.settled)),
    )


def _out(cohort: Cohort, judgement: Judged) -> set[str]:
    """Sessions that have maps and do not count."""
    rows = cohort.catalogue
    mapped = rows.loc[(rows["group"] != "") & (rows["checkpoint_digest"] != ""), "session"]
    return set(mapped.astype(str)) & set(judgement.left_out)


def _undone(cohort: Cohort, kind: Subject, subject: str, rater: str, scope: Scope | None) -> Scope:
    """Scope of the rater's last decision on the subject that is not taken back."""
    there = not_undone(cohort.decisions)
    order = {id(decision): place for place, decision in enumerate(cohort.decisions)}
    own = [
        decision
        for (of_kind, name, on), members in there.items()
        if (of_kind, name) == (kind, subject) and on in ([scope] if scope else Scope)
        for decision in members
        if decision.rater == rater
    ]
    if not own:
        raise DecisionError(f"{rater} has no decision there to undo; `qmri qc list` shows whose there are")
    return max(own, key=lambda decision: order[id(decision)]).scope


def _check_session(decision: Decision, status: str, reason: str) -> None:
    name = decision.subject
    if decision.verdict is Verdict.ACKNOWLEDGE and status != Status.FAILED:
        raise DecisionError(f"{name} has not failed: there is nothing to acknowledge")
    has_no_maps = status == Status.SKIPPED or (status == Status.FAILED and reason != Reason.CLOSURE)
    if decision.verdict is Verdict.ACCEPT and decision.scope is Scope.MAPS and has_no_maps:
        raise DecisionError(f"{name} has no maps to accept; a failure that is known is acknowledged")
