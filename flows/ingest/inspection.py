"""What ingest would do with a source, and why; nothing is decoded or written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.ingest.session_plan import SessionPlan, plan_sessions, unmatched_entries
from flows.tables.text import labels_of
from qmri_core.series.stored_keys import shortened
from storage.source.assume_file import Assumption, Override, load_entries
from storage.source.discovery import discover
from storage.store.cohort import Cohort
from storage.store.labels import with_labels
from storage.store.repository import exists

Rows = list[tuple[str, ...]]

SMALL_GROUP = 5
"""Sessions; the calibration of a group with fewer rests on few people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Plans of all sessions of a source; ``unmatched`` holds the positions of assume entries that matched nothing.

    ``other_files`` counts the files that are no image that is read, by reason.
    """

    plans: tuple[SessionPlan, ...]
    n_files: int
    other_files: Mapping[str, int]
    unmatched: tuple[int, ...]

    @property
    def group_sizes(self) -> dict[str, int]:
        """Sessions per group."""
        return dict(Counter(plan.placement.group for plan in self.plans if plan.placement is not None))


def inspect_source(
    source: Path,
    *,
    key: bytes,
    assume: Path | None = None,
    by_software: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Discover, classify and group a source as ingest into an empty store does.

    Raises
    ------
    SourceError, AssumptionError
        If the source is missing or empty, or the assume file is wrong.
    """
    entries = load_entries(assume) if assume is not None else ()
    assumptions = [entry for entry in entries if isinstance(entry, Assumption)]
    found = discover(source, key=key, assume=assumptions, progress=progress)
    overrides = [entry for entry in entries if isinstance(entry, Override)]
    plans = plan_sessions(found.series, overrides, by_software=by_software)
    used = [entry for plan in plans for entry in plan.overrides]
    return Inspection(
        plans=tuple(plans),
        n_files=found.n_files,
        other_files=found.unreadable,
        unmatched=unmatched_entries(entries, found.unmatched, used),
    )


def labels_to_be(inspection: Inspection, store: str | None) -> tuple[dict[str, str], set[str]]:
    """Labels of the source's groups, and the groups that have none in ``store`` yet.

    The latter get theirs by the rule of the store, in the order in which ingest would make the groups if all sessions
    go well; without a store, or before there is one, all are such. A group whose key is short in the store is known.
    """
    known = Cohort.open(store).labels if store is not None and exists(store) else {}
    sizes = inspection.group_sizes
    held = {group: known[key] for group in sizes for key in (shortened(group), group) if key in known}
    return labels_of(sizes, with_labels(sizes, {**known, **held})), set(sizes) - set(held)


def series_rows(inspection: Inspection, labels: Mapping[str, str]) -> Rows:
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
