"""What ingest would do with a source, and why; nothing is decoded or written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from flows.ingest.session_plan import SessionPlan, assign_groups, finish_plan, plan_session, unmatched_entries
from flows.progress import Progress, quiet
from flows.tables.text import labels_of
from qmri_core.series.stored_keys import shortened
from storage.source.assume_file import Assumption, Override, load_entries
from storage.source.discovery import Runner, in_turn, scan_source
from storage.store.cohort import Cohort
from storage.store.labels import with_labels
from storage.store.repository import exists

SMALL_GROUP = 5
"""Sessions; the calibration of a group with fewer rests on few people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What ingest would do with a source; ``unmatched`` holds the positions of assume entries that matched nothing.

    ``other_files`` counts the files that are no image that is read, by reason, ``group_sizes`` the sessions of each
    group, and ``remarks`` those of which each kind of remark is made. ``table`` is a temporary file with the rows of
    all sessions, so that memory does not grow with the source but for some hundred bytes per session.
    """

    n_sessions: int
    n_series: int
    n_files: int
    other_files: Mapping[str, int]
    group_sizes: Mapping[str, int]
    unmatched: tuple[int, ...]
    remarks: Mapping[str, int] = field(default_factory=dict)
    table: IO[str] = field(default_factory=StringIO, repr=False)

    def rows(self) -> Iterator[tuple[list[list[str]], list[str], list[list[str]]]]:
        """Of each session the rows of its series, its own row, which is empty if it would be complete, and remarks."""
        self.table.seek(0)
        for line in self.table:
            yield json.loads(line)


@contextmanager
def inspect_source(
    source: Path,
    *,
    key: bytes,
    assume: Path | None = None,
    by_software: bool = False,
    index: Path | None = None,
    runner: Runner = in_turn,
    progress: Progress = quiet,
) -> Iterator[Inspection]:
    """Discover, classify and group a source as ingest into an empty store does.

    Parameters
    ----------
    index, runner
        Where the scan is kept, and how it is run; see `storage.source.discovery.scan_source`.

    Raises
    ------
    SourceError, AssumptionError
        If the source is missing or empty, or the assume file is wrong.
    """
    entries = load_entries(assume) if assume is not None else ()
    assumptions = [entry for entry in entries if isinstance(entry, Assumption)]
    overrides = [entry for entry in entries if isinstance(entry, Override)]
    with (
        scan_source(source, key=key, assume=assumptions, progress=progress, index=index, runner=runner) as scanned,
        TemporaryFile("w+", encoding="utf-8") as table,
    ):

        def first_plan(session: str) -> SessionPlan:
            return plan_session(scanned.session(session)[0], overrides, by_software=by_software)

        assignment = assign_groups(map(first_plan, scanned.sessions), {})
        sizes: Counter[str] = Counter()
        remarks: Counter[str] = Counter()
        used: list[Override] = []
        n_series = 0
        for done, session in enumerate(scanned.sessions, start=1):
            plan = finish_plan(first_plan(session), assignment, overrides, by_software=by_software)
            used += [entry for entry in plan.overrides if entry not in used]
            sizes.update([plan.placement.group] if plan.placement is not None else [])
            n_series += len(plan.series)
            remarks.update({str(remark.kind) for remark in plan.remarks})
            table.write(json.dumps([_series_rows(plan), _session_row(plan), _remark_rows(plan)]) + "\n")
            progress(done, len(scanned.sessions), "decide")
        yield Inspection(
            n_sessions=len(scanned.sessions),
            n_series=n_series,
            n_files=scanned.n_files,
            other_files=scanned.unreadable,
            group_sizes=dict(sizes),
            unmatched=unmatched_entries(entries, scanned.unmatched, used),
            remarks=dict(remarks),
            table=table,
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


def _series_rows(plan: SessionPlan) -> list[list[str]]:
    group = plan.placement.group if plan.placement is not None else ""
    return [
        [
            plan.session,
            str(series.number),
            f"{decision.contrast} {decision.sequence or ''}".strip() if decision.reason is None else "skip",
            str(decision.reason or "-"),
            group,
            decision.explanation,
        ]
        for series, decision in zip(plan.series, plan.decisions, strict=True)
    ]


def _session_row(plan: SessionPlan) -> list[str]:
    if plan.reason is None:
        return []
    return [plan.session, str(plan.status), str(plan.reason), plan.explanation]


def _remark_rows(plan: SessionPlan) -> list[list[str]]:
    return [[plan.session, str(remark.kind), remark.text] for remark in plan.remarks]


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
