"""What a run found and did, in numbers that add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from qmri_core.series.remarks import MEANINGS, RemarkKind
from storage.source.unread import UNREAD_SESSION, UNREADABLE_FOLDER

SESSIONS_FAILED = 3
"""Exit status of a run that finished although sessions of its source have failed."""


PAST = {"accept": "accepted", "reject": "rejected", "exclude": "excluded", "acknowledge": "acknowledged"}
"""Verdicts of people on a failed session, as something that was done."""


class Failure(NamedTuple):
    """A session that failed, why, in which stage, and what a person has decided on it; empty if nothing."""

    session: str
    reason: str
    stage: str
    decided: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """Result of a run over sessions.

    Parameters
    ----------
    found
        Sessions of this source; each ended as exactly one of the next four.
    complete, partial, skipped, failed
        How many ended in which status, now or in an earlier run.
    unchanged
        How many of them were done before and not touched by this run.
    reasons
        How often each reason was given, over all sessions that are not complete.
    failures
        The failed sessions.
    snapshot
        Identifier of the last commit, None where nothing was written.
    unmatched
        Positions of the assume file's entries that matched nothing.
    n_files, other_files
        Files of the source, and those that are no image that is read, by reason.
    arriving
        Sessions left as they are because their files are still changing.
    not_selected
        Other sessions, which were not asked for; ``found`` does not count them.
    small_groups
        Groups of few sessions in the store, by label and key, with their sizes.
    marks
        How often each quality figure was beyond its limit.
    remarks
        Of how many sessions each kind of remark was made.

    Raises
    ------
    ValueError
        If the statuses do not add up to ``found``: a session would have been lost without a word.
    """

    found: int
    complete: int = 0
    partial: int = 0
    skipped: int = 0
    failed: int = 0
    unchanged: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    snapshot: str | None = None
    unmatched: tuple[int, ...] = ()
    n_files: int = 0
    other_files: Mapping[str, int] = field(default_factory=dict)
    arriving: int = 0
    not_selected: int = 0
    small_groups: Mapping[str, int] = field(default_factory=dict)
    marks: Mapping[str, int] = field(default_factory=dict)
    remarks: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        accounted = self.complete + self.partial + self.skipped + self.failed
        if accounted != self.found:
            raise ValueError(f"{self.found} sessions found, but {accounted} accounted for; a session was lost")
        if len(self.failures) != self.failed:
            raise ValueError(f"{self.failed} sessions failed, but {len(self.failures)} failures are listed")

    @property
    def exit_status(self) -> int:
        """0, or 3 where sessions failed and nobody has decided on it."""
        return SESSIONS_FAILED if self.unsettled else 0

    @property
    def unsettled(self) -> tuple[Failure, ...]:
        """Failed sessions that nobody has accepted, acknowledged, rejected or excluded."""
        return tuple(failure for failure in self.failures if not failure.decided)

    def with_decisions(self, settled: Mapping[str, str]) -> RunSummary:
        """The summary with what people have decided on the failed sessions; ``settled`` is verdicts by session."""
        return replace(
            self, failures=tuple(one._replace(decided=str(settled.get(one.session, ""))) for one in self.failures)
        )

    def account(self) -> dict[str, Any]:
        """What is kept of the run in the store: counts and codes, the same for the same source and outcome.

        Without remarks it is what release 0.1 kept: a store of it that has nothing to do is not written.
        """
        remarks = {"remarks": dict(self.remarks)} if self.remarks else {}
        return {
            "found": self.found,
            "complete": self.complete,
            "partial": self.partial,
            "skipped": self.skipped,
            "failed": self.failed,
            "reasons": dict(sorted(self.reasons.items())),
            "files": self.n_files,
            "other_files": dict(sorted(self.other_files.items())),
            "marks": dict(self.marks),
            **remarks,
        }

    def text(self) -> str:
        """Describe the run for people, without a path or an identity."""
        untouched = f", {self.unchanged} of them unchanged" if self.unchanged else ""
        lines = [
            f"{self.found} sessions found = {self.complete} complete + {self.partial} partial + "
            f"{self.skipped} skipped + {self.failed} failed{untouched}"
        ]
        if self.not_selected:
            lines.append(f"{self.not_selected} other sessions were not selected")
        lines += [
            f"  {count:5d}  {reason}" for reason, count in sorted(self.reasons.items(), key=lambda r: (-r[1], r[0]))
        ]
        lines += [
            f"  failed: {session} in {stage or 'unknown stage'}: {reason}" + (f" ({PAST[decided]})" if decided else "")
            for session, reason, stage, decided in self.failures
        ]
        decided = Counter(failure.decided for failure in self.failures if failure.decided)
        if decided:
            told = ", ".join(f"{count} {PAST[verdict]}" for verdict, count in sorted(decided.items()))
            lines.append(f"of those that failed, {told}: no run ends as failed for them")
        lines += [unmatched_line(position) for position in self.unmatched]
        if self.n_files:
            lines.append(files_line(self.n_files, self.other_files))
        if self.arriving:
            lines.append(f"{self.arriving} sessions are still arriving: a run takes them when their files are quiet")
        lines += [f"small group: {group} ({size} sessions)" for group, size in self.small_groups.items()]
        if self.marks:
            lines.append("marked: " + ", ".join(f"{count} {mark}" for mark, count in self.marks.items()))
        lines += remark_lines(self.remarks)
        lines.append(f"snapshot {self.snapshot}" if self.snapshot else "nothing was written")
        return "\n".join(lines)


def left_out_text(reasons: Mapping[str, int]) -> str:
    """Tell how many sessions do not count and why; empty where all count."""
    if not reasons:
        return ""
    told = ", ".join(f"{count} {why}" for why, count in reasons.items())
    return f"left out: {told}; `qmri qc list` says who decided what"


def files_line(n_files: int, other: Mapping[str, int]) -> str:
    """Tell how many files there were, why some are no image that is read, and what of folders and sessions is lost."""
    closed, unread = other.get(UNREADABLE_FOLDER, 0), other.get(UNREAD_SESSION, 0)
    of_files = sorted(set(other) - {UNREADABLE_FOLDER, UNREAD_SESSION})
    reasons = ", ".join(f"{other[reason]} {reason}" for reason in of_files)
    return (
        f"{n_files} files"
        + (f", of them no image that is read: {reasons}" if reasons else "")
        + (f"; {closed} folders cannot be read ({UNREADABLE_FOLDER}), and what they hold is missing" if closed else "")
        + (f"; {unread} sessions by BIDS names have no image that can be read ({UNREAD_SESSION})" if unread else "")
    )


def remark_lines(counts: Mapping[str, int]) -> list[str]:
    """Tell of each kind of remark how many sessions it is made of, what it says and what to do, a line each."""
    return [
        f"{counts[kind]} sessions: {MEANINGS[kind][0]} ({kind}); {MEANINGS[kind][1]}"
        for kind in RemarkKind
        if counts.get(kind)
    ]


def unmatched_line(position: int) -> str:
    """Tell of the entry at ``position`` of the assume file that it matched nothing."""
    return f"entry {position + 1} of the assume file matched no series; is its glob wrong?"


def summarise(
    outcomes: Iterable[tuple[str, str, str, str]], *, unchanged: int = 0, snapshot: str | None = None
) -> RunSummary:
    """Count ``outcomes``: tuples of session, status, reason and stage (the last two empty where there is none).

    Raises
    ------
    ValueError
        If a status is none of complete, partial, skipped, failed.
    """
    rows = sorted((session, str(status), str(reason), str(stage)) for session, status, reason, stage in outcomes)
    counts = Counter(status for _, status, _, _ in rows)
    unknown = set(counts) - {"complete", "partial", "skipped", "failed"}
    if unknown:
        raise ValueError(f"status {sorted(unknown)} is none of complete, partial, skipped, failed")
    return RunSummary(
        found=len(rows),
        complete=counts["complete"],
        partial=counts["partial"],
        skipped=counts["skipped"],
        failed=counts["failed"],
        unchanged=unchanged,
        reasons=dict(Counter(reason for _, status, reason, _ in rows if reason and status != "complete")),
        failures=tuple(
            Failure(session, reason, stage) for session, status, reason, stage in rows if status == "failed"
        ),
        snapshot=snapshot,
    )
