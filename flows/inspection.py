"""What ingest would do with a source, and why; nothing is decoded or written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flows.plan import SessionPlan, plan_sessions, unmatched_entries
from storage.assumptions import Assumption, Override, load_entries
from storage.discovery import discover

Rows = list[tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Plans of all sessions of a source; ``unmatched`` holds the positions of assume entries that matched nothing."""

    plans: tuple[SessionPlan, ...]
    n_files: int
    n_other_files: int
    unmatched: tuple[int, ...]

    @property
    def group_sizes(self) -> dict[str, int]:
        """Sessions per group."""
        return dict(Counter(plan.placement.group for plan in self.plans if plan.placement is not None))


def inspect_source(
    source: Path, *, key: bytes, assume: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> Inspection:
    """Discover, classify and group a source as ingest does.

    Raises
    ------
    SourceError, AssumptionError
        If the source is missing or empty, or the assume file is wrong.
    """
    entries = load_entries(assume) if assume is not None else ()
    assumptions = [entry for entry in entries if isinstance(entry, Assumption)]
    found = discover(source, key=key, assume=assumptions, progress=progress)
    plans = plan_sessions(found.series, [entry for entry in entries if isinstance(entry, Override)])
    return Inspection(
        plans=tuple(plans),
        n_files=found.n_files,
        n_other_files=sum(found.unreadable.values()),
        unmatched=unmatched_entries(entries, found.unmatched, plans),
    )


def series_rows(inspection: Inspection, labels: dict[str, str]) -> Rows:
    """One row per series: session, number, decision, reason, group by its label, explanation."""
    return [
        (
            plan.session,
            str(one.number),
            f"{decision.contrast} {decision.sequence or ''}".strip() if decision.reason is None else "skip",
            str(decision.reason or "-"),
            labels[plan.placement.group] if plan.placement is not None else "-",
            decision.explanation,
        )
        for plan in inspection.plans
        for one, decision in zip(plan.series, plan.decisions, strict=True)
    ]


def session_rows(inspection: Inspection) -> Rows:
    """One row per session that would not be complete: session, status, reason, explanation."""
    return [
        (plan.session, str(plan.status), str(plan.reason), plan.explanation)
        for plan in inspection.plans
        if plan.reason is not None
    ]
