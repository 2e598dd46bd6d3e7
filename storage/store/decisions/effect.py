"""What decisions change: which sessions count in statistics, exports and reports, and which failures are settled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from storage.store.decisions.codes import DIGESTS, Decision, Scope, Subject, Verdict
from storage.store.decisions.standing import Key, Standing, standings
from storage.store.schema import Reason, Status

if TYPE_CHECKING:
    import pandas as pd

    from storage.store.cohort import Cohort

GROUP_CLOSURE = "GroupClosureError"
"""What the catalogue names as the error of a session whose group's maps contradict what was put in."""


class LeftOut(StrEnum):
    """Why a stored session counts in no statistics, export or report."""

    EXCLUDED = "excluded"
    REJECTED = "rejected"
    CLOSURE = "closure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What stands, and what it changes.

    Parameters
    ----------
    standings
        The decision that counts on each scope.
    left_out
        Sessions that count for nothing, and why; those without images too, if they are excluded.
    accepted
        Sessions that have failed for closure and count, because somebody has accepted them.
    settled
        Sessions that have failed, and by which verdict that is known: no run ends as failed for them.
    """

    standings: Mapping[Key, Standing] = field(default_factory=dict, repr=False)
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)
    accepted: frozenset[str] = frozenset()
    settled: Mapping[str, Verdict] = field(default_factory=dict)

    def reasons(self, among: Iterable[str] | None = None) -> dict[str, int]:
        """How many sessions are left out for each reason, ``among`` all or some."""
        chosen = self.left_out if among is None else set(among) & set(self.left_out)
        counts = Counter(self.left_out[session] for session in chosen)
        return {str(why): counts[why] for why in LeftOut if counts[why]}


def judge(cohort: Cohort, more: Sequence[Decision] = ()) -> Judged:
    """What the store's decisions change, as if ``more`` had been made after them.

    A session's own decision comes before that on its group; an exclusion before everything else.
    """
    return judged(cohort.catalogue, [*cohort.decisions, *more])


def excluded(cohort: Cohort) -> frozenset[str]:
    """Sessions that somebody has excluded, of which no run makes anything; nothing is read where nobody has decided."""
    if not cohort.decisions:
        return frozenset()
    return frozenset(session for session, why in judge(cohort).left_out.items() if why is LeftOut.EXCLUDED)


def judged(rows: pd.DataFrame, decisions: Sequence[Decision]) -> Judged:
    """The same from the rows of a catalogue."""
    is_failed = rows["status"] == Status.FAILED
    if not decisions and not (is_failed & (rows["reason"] == Reason.CLOSURE)).any():
        return Judged()
    stand = standings(decisions, current_digests(rows)) if decisions else {}
    verdicts = {key: standing.decision.verdict for key, standing in stand.items() if not standing.changed}
    left_out: dict[str, LeftOut] = {}
    accepted: set[str] = set()
    settled: dict[str, Verdict] = {}
    columns = (rows[name].astype(str) for name in ("session", "group", "status", "reason", "error"))
    for session, group, status, reason, error in zip(*columns, strict=True):
        verdict = _verdict(verdicts, session, group)
        has_failed = status == Status.FAILED
        is_closure = has_failed and reason == Reason.CLOSURE
        covers = (Subject.SESSION, session, Scope.MAPS) in verdicts or error == GROUP_CLOSURE
        if verdict is Verdict.EXCLUDE:
            left_out[session] = LeftOut.EXCLUDED
        elif verdict is Verdict.REJECT:
            left_out[session] = LeftOut.REJECTED
        elif is_closure and verdict is Verdict.ACCEPT and covers:
            accepted.add(session)
        elif is_closure:
            left_out[session] = LeftOut.CLOSURE
        if has_failed:
            known = (Subject.SESSION, session, Scope.FAILURE) in verdicts
            if verdict in {Verdict.EXCLUDE, Verdict.REJECT} or session in accepted:
                settled[session] = verdict or Verdict.ACCEPT
            elif known:
                settled[session] = Verdict.ACKNOWLEDGE
    return Judged(standings=stand, left_out=left_out, accepted=frozenset(accepted), settled=settled)


def verdict_on(judged: Judged, session: str, group: str) -> Verdict | None:
    """What people have decided on a session, by itself or with its group; None where nobody has, or it has changed."""
    standing = {key: one.decision.verdict for key, one in judged.standings.items() if not one.changed}
    return _verdict(standing, session, group)


def _verdict(verdicts: Mapping[Key, Verdict], session: str, group: str) -> Verdict | None:
    """What holds for the session: its own verdict, else its group's; None where nobody has decided."""
    subjects = ((Subject.SESSION, session), (Subject.GROUP, group))
    if any(verdicts.get((*subject, Scope.SESSION)) is Verdict.EXCLUDE for subject in subjects):
        return Verdict.EXCLUDE
    for subject in subjects:
        both = [verdicts.get((*subject, scope)) for scope in (Scope.IMAGES, Scope.MAPS)]
        if Verdict.REJECT in both:
            return Verdict.REJECT
        if both[1] is Verdict.ACCEPT:  # who is unsure has not decided
            return both[1]
    return None


def current_digests(rows: pd.DataFrame) -> dict[tuple[Subject, str], dict[str, str]]:
    """What every session and group of a catalogue rests on now; `storage.store.decisions.codes.DIGESTS` of each.

    A group rests on what its sessions that have maps rest on: their versions, joined by ``+`` where there are several.
    """
    texts = rows.assign(failure=rows["reason"].where(rows["status"] == Status.FAILED, ""))
    result: dict[tuple[Subject, str], dict[str, str]] = {}
    for session, *values in zip(texts["session"], *(texts[name] for name in DIGESTS), strict=True):
        result[Subject.SESSION, str(session)] = dict(zip(DIGESTS, map(str, values), strict=True))
    of_groups = [name for name in DIGESTS if name not in {"input_digest", "failure"}]
    for group, members in texts[texts["group"] != ""].groupby("group"):
        mapped = members[members["checkpoint_digest"] != ""]
        joined = {name: "+".join(sorted(set(map(str, mapped[name])) - {""})) for name in of_groups}
        result[Subject.GROUP, str(group)] = {**dict.fromkeys(DIGESTS, ""), **joined}
    return result
