"""What ingest would do with a source, and why; nothing is decoded or written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from math import prod
from pathlib import Path
from shutil import disk_usage
from types import MappingProxyType
from typing import IO, TYPE_CHECKING

from distributed.system import MEMORY_LIMIT

from flows.cluster.kinds import default_workers
from flows.ingest.arriving import Quiet, left_for_later
from flows.ingest.forecast import Forecast, Need, durations_of, forecast, need_of, shortages
from flows.ingest.problems import SPOILT_SERIES, Problem, problems
from flows.ingest.rows import is_done
from flows.ingest.session_plan import SessionPlan, assign_groups, finish_plan, plan_session, unmatched_entries
from flows.progress import Progress, quiet
from flows.tables.text import labels_of
from qmri_core.series.classification import Decision, SkipReason
from qmri_core.series.grouping import grid_of
from qmri_core.series.stored_keys import shortened
from storage.source.assume_file import Override, Stated
from storage.source.discovery import Runner, Scanned, in_turn, scan_source
from storage.source.full_disk import temporary_files, temporary_table
from storage.source.origin import Source
from storage.store.labels import with_labels
from storage.store.repository import exists

if TYPE_CHECKING:
    from storage.store.cohort import Cohort


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What ingest would do with a source; ``unmatched`` holds the positions of assume entries that matched nothing.

    ``problems`` are what somebody has to decide, the gravest first; ``need`` is what the sessions to be ingested take.
    ``other_files`` counts the files that are no image that is read, by reason, and ``group_sizes`` the sessions of each
    group. ``table`` is a temporary file with the rows of all sessions, so that memory does not grow with the source but
    for some hundred bytes per session.
    """

    n_sessions: int
    n_series: int
    n_files: int
    other_files: Mapping[str, int]
    group_sizes: Mapping[str, int]
    unmatched: tuple[int, ...]
    problems: tuple[Problem, ...] = ()
    need: Need = field(default_factory=Need)
    table: IO[str] = field(default_factory=StringIO, repr=False)

    def rows(self) -> Iterator[tuple[list[list[str]], list[str], list[list[str]]]]:
        """Of each session the rows of its series, its own row, which is empty if it would be complete, and remarks."""
        self.table.seek(0)
        for line in self.table:
            yield json.loads(line)


@contextmanager
def inspect_source(
    source: Source,
    *,
    key: bytes,
    assume: Path | None = None,
    by_software: bool = False,
    index: Path | None = None,
    runner: Runner = in_turn,
    progress: Progress = quiet,
    known: Mapping[str, Mapping[str, object]] = MappingProxyType({}),
    quiet_for: float = 0.0,
) -> Iterator[Inspection]:
    """Discover, classify and group a source as ingest into an empty store does.

    Parameters
    ----------
    index, runner
        Where the scan is kept, and how it is run; see `storage.source.discovery.scan_source`.
    known
        Rows of the catalogue by session; what is done there needs nothing any more.
    quiet_for
        Seconds for which the files of a session must not have changed; else it would be left for a later run.

    Raises
    ------
    SourceError, AssumptionError
        If the source is missing or empty, or the assume file is wrong.
    DiskFullError
        If there is no place for temporary files.
    """
    stated = Stated.by(assume)
    with (
        scan_source(
            source, key=key, assume=stated.assumptions, progress=progress, index=index, runner=runner
        ) as scanned,
        temporary_table() as table,
    ):
        plans = _Plans(
            scanned=scanned,
            overrides=stated.overrides,
            by_software=by_software,
            known=known,
            still=Quiet.of(quiet_for),
        )
        tally = _Tally()
        for done, plan in enumerate(plans.final(), start=1):
            tally.add(plan, known.get(plan.session))
            with temporary_files():
                table.write(json.dumps([_series_rows(plan), _session_row(plan), _remark_rows(plan)]) + "\n")
            progress(done, len(scanned.sessions), "decide")
        with temporary_files():
            table.flush()
        unmatched = unmatched_entries(stated.entries, scanned.unmatched, tally.used)
        yield Inspection(
            n_sessions=len(scanned.sessions),
            n_series=tally.n_series,
            n_files=scanned.n_files,
            other_files=scanned.unreadable,
            group_sizes=dict(tally.sizes),
            unmatched=unmatched,
            problems=tally.problems(scanned.unreadable, len(unmatched)),
            need=tally.need,
            table=table,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plans:
    """Plans of a source's sessions as the next run would make them."""

    scanned: Scanned
    overrides: Sequence[Override]
    by_software: bool
    known: Mapping[str, Mapping[str, object]]
    still: Quiet
    arriving: set[str] = field(default_factory=set)

    def final(self) -> Iterator[SessionPlan]:
        """One plan per session."""
        assignment = assign_groups(self._first_plans(), {})
        for session in self.scanned.sessions:
            plan = finish_plan(self._first(session), assignment, self.overrides, by_software=self.by_software)
            is_left = session in self.arriving or (
                self.still.is_broken(plan) and not is_done(plan, self.known.get(session))
            )
            yield left_for_later(plan) if is_left else plan

    def _first_plans(self) -> Iterator[SessionPlan]:
        """Those by a session's own numbers, without new sessions that are still arriving."""
        for plan in map(self._first, self.scanned.sessions):
            if plan.session not in self.known and self.still.is_broken(plan):
                self.arriving.add(plan.session)
            else:
                yield plan

    def _first(self, session: str) -> SessionPlan:
        return plan_session(self.scanned.session(session)[0], self.overrides, by_software=self.by_software)


@dataclass(slots=True)
class _Tally:
    """Counts over the plans of a source, for `flows.ingest.problems.problems`."""

    n_series: int = 0
    need: Need = field(default_factory=Need)
    used: list[Override] = field(default_factory=list)
    sizes: Counter[str] = field(default_factory=Counter)
    states: Counter[tuple[str, str]] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    spoilt: Counter[str] = field(default_factory=Counter)

    def add(self, plan: SessionPlan, row: Mapping[str, object] | None) -> None:
        """Count one plan; ``row`` is the session's in the catalogue."""
        self.n_series += len(plan.series)
        self.need += Need() if is_done(plan, row) else need_of(plan)
        self.used += [entry for entry in plan.overrides if entry not in self.used]
        self.sizes.update([plan.placement.group] if plan.placement is not None else [])
        self.states.update([(str(plan.status), str(plan.reason or ""))])
        self.remarks.update({str(remark.kind) for remark in plan.remarks})
        self.spoilt.update(str(decision.reason) for decision in plan.decisions if _is_spoilt(decision))

    def problems(self, files: Mapping[str, int], n_unmatched: int) -> tuple[Problem, ...]:
        """What somebody has to decide."""
        return tuple(
            problems(
                sessions=self.states,
                series=self.spoilt,
                remarks=self.remarks,
                groups=self.sizes,
                files=files,
                n_unmatched=n_unmatched,
            )
        )


def labels_to_be(inspection: Inspection, cohort: Cohort | None) -> tuple[dict[str, str], set[str]]:
    """Labels of the source's groups, and the groups that have none in ``cohort`` yet.

    The latter get theirs by the rule of the store, in the order in which ingest would make the groups if all sessions
    go well; without a store, or before there is one, all are such. A group whose key is short in the store is known.
    """
    known = {} if cohort is None else cohort.labels
    sizes = inspection.group_sizes
    held = {group: known[key] for group in sizes for key in (shortened(group), group) if key in known}
    return labels_of(sizes, with_labels(sizes, {**known, **held})), set(sizes) - set(held)


def _is_spoilt(decision: Decision) -> bool:
    """Whether a series of a contrast is of no use as it is; a localizer of two slices is as it should be."""
    return decision.reason in SPOILT_SERIES and (
        decision.contrast is not None or decision.reason is SkipReason.NO_PARAMETERS
    )


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


def cohort_at(store: str | None) -> Cohort | None:
    """The cohort of a store that is there."""
    if store is None or not exists(store):
        return None
    from storage.store.cohort import Cohort  # xarray and pandas, which an archive without a store does not need

    return Cohort.open(store)


def forecast_of(
    inspection: Inspection, known: Mapping[str, Mapping[str, object]], *, workers: int | None = None
) -> Forecast:
    """What the inspected source would take; the sessions in ``known`` tell how fast the machine is."""
    groups = {str(row["group"]) for row in known.values() if row["group"]}
    voxels = {group: prod(grid_of(group.partition("/")[2]).shape) for group in groups}
    return forecast(
        inspection.need, workers=workers or default_workers(), durations=durations_of(known.values(), voxels)
    )


def shortages_here(told: Forecast, store: str | None) -> list[str]:
    """What this machine does not have enough of; the disk is looked at where the store is a folder."""
    place = None if store is None or "://" in store else Path(store).absolute()
    while place is not None and not place.exists():
        place = place.parent
    return shortages(told, memory=float(MEMORY_LIMIT), disk=None if place is None else float(disk_usage(place).free))
