"""Ingest: discover, decide, preprocess on workers, commit wave by wave, calibrate new groups."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flows.calibration.calibrate import calibrate
from flows.cluster.boundary import Outcome
from flows.cluster.driver import Begun, WaveRecord, run_waves
from flows.ingest.rows import row_of, values_of
from flows.ingest.scanner_days import ScannerDays, count_days
from flows.ingest.scanning import scan_on_workers
from flows.ingest.session import IngestTask, ingest_session
from flows.ingest.session_plan import SessionPlan, taken_plan, unmatched_entries
from flows.ingest.source_plans import SourcePlans
from flows.progress import Progress, quiet
from flows.selection import EVERYTHING, Selection
from flows.tables.summary import RunSummary
from qmri_core.versions import CODE_VERSION
from storage.source.assume_file import Stated
from storage.source.discovery import LinkageRow, scan_source
from storage.source.origin import Source, absolute
from storage.store.accounts import write_account
from storage.store.cohort import Cohort
from storage.store.keys import mark_of_key, require_key
from storage.store.repository import writing
from storage.store.room import require_room
from storage.store.waves import begin_append

if TYPE_CHECKING:
    import icechunk
    from distributed import Client

SESSIONS_PER_WORKER = 4
"""In one wave: a wave is what a kill can cost, a commit and idle workers at its end are what every wave costs."""


def ingest(
    source: Source,
    store: str,
    *,
    key: bytes,
    client: Client,
    linkage: Path | None = None,
    assume: Path | None = None,
    by_software: bool = False,
    quiet_for: float = 0.0,
    has_transfer: bool | None = None,
    index: Path | None = None,
    scanner_days: bool = False,
    selection: Selection = EVERYTHING,
    check_room: bool = True,
    progress: Progress = quiet,
) -> RunSummary:
    """Bring every session of ``source`` into the store, or record why not.

    Sessions whose input and preprocessing have not changed since they were last seen are left alone, failed ones too.
    Safe to kill at any time: what is committed stays, a re-run does the rest. Memory does not grow with the source but
    for some hundred bytes per session.

    Parameters
    ----------
    by_software
        Tell scanners with another software version apart as scanners.
    quiet_for
        Seconds for which the files of a session must not have changed; else it is left as it is, for a later run.
    has_transfer
        As `flows.calibration.calibrate.calibrate` has it.
    index
        File of the user that keeps what was read of the source; see `storage.source.discovery.scan_source`.
    scanner_days
        Keep ``scanner_day``, also of what the store has of the source already; see `flows.ingest.scanner_days`.
    selection
        Which sessions are taken; the others stay as they are, and the store's account of its source is not renewed.
    check_room
        Begin only if the disk of the store has room for what they may take, with their maps.

    Raises
    ------
    SourceError, AssumptionError, SelectionError, StoreError
        If the source, the assume file or the store cannot be used.
    WrongKeyError
        If the store's sessions are named under another key.
    NoRoomError
        If its disk has too little room; sessions that are skipped are recorded.
    """
    is_seen = isinstance(source, Path) and source.exists()
    cohort = _made(store, key) if is_seen else None  # a mistyped source leaves no empty store behind
    source = absolute(source)  # workers may run in another folder
    stated = Stated.by(assume)
    with scan_source(
        source,
        key=key,
        assume=stated.assumptions,
        progress=lambda done, total: progress(done, total, "discover"),
        index=index,
        runner=lambda tasks: scan_on_workers(client, tasks),
    ) as scanned:
        # the source may have come into being, others may have written
        cohort = (cohort or _made(store, key)).refreshed()
        if linkage is not None:
            write_linkage((scanned.session(session)[1] for session in scanned.sessions), linkage)
        run = SourcePlans(scanned, cohort, key, stated.overrides, by_software, quiet_for, selection)
        to_do, snapshot = run.sort_out()
        if check_room and to_do:
            require_room(store, run.need.disk, f"{len(to_do)} sessions to ingest, with their maps,")
        days, filled = count_days(cohort.refreshed(), key, run.dates) if scanner_days else (ScannerDays(), None)
        writer = _Ingest(plan=run.plan, is_done=run.is_done, days=days)
        ran = run_waves(writer, to_do, cohort=cohort, client=client, per_worker=SESSIONS_PER_WORKER, progress=progress)
        snapshot = calibrate(cohort, has_transfer=has_transfer, progress=progress) or ran.snapshot or filled or snapshot
        summary = run.summary(snapshot, ran.by_others)
        unmatched = unmatched_entries(stated.entries, scanned.unmatched, run.used)
    if selection.is_everything:
        with cohort.writing() as repository:
            snapshot = write_account(repository, summary.account(), key_mark=mark_of_key(key)) or snapshot
    return replace(summary, unmatched=unmatched, snapshot=snapshot)


def _made(store: str, key: bytes) -> Cohort:
    """The cohort, made if it is not there; one that cannot be written, or not under this key, is found out at once."""
    with writing(store, create=True) as repository:
        cohort = Cohort.in_repository(repository, store)
        require_key(cohort.root, key)
        return cohort


def write_linkage(rows: Iterable[LinkageRow], path: Path) -> None:
    """Write which session is whose: CSV for the user alone, readable by nobody else; never into the store."""
    path.touch(mode=0o600)
    path.chmod(0o600)  # of a file that was there before, too
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:  # names may be any bytes
        writer = csv.writer(file)
        writer.writerow(["session", "patient_id", "study_instance_uid", "path"])
        writer.writerows((row.session, row.patient_id, row.study_instance_uid, row.path) for row in rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ingest:
    """Ingest as `flows.cluster.driver.run_waves` drives it, over pseudonyms of sessions."""

    plan: Callable[[str], SessionPlan]
    is_done: Callable[[SessionPlan, Mapping[str, object] | None], bool]
    days: ScannerDays
    name: str = "ingest"

    @property
    def work(self) -> Callable[[IngestTask], Outcome]:
        return ingest_session

    @property
    def together(self) -> None:
        return None

    def begin(self, repository: icechunk.Repository, cohort: Cohort, items: Sequence[str]) -> Begun[SessionPlan] | None:
        known = cohort.rows_of(items)
        plans = {name: plan for name in items if not self.is_done(plan := self.plan(name), known.get(name))}
        if not plans:
            return None
        placements = {name: plan.placement for name, plan in plans.items() if plan.placement is not None}
        wave = begin_append(repository, list(placements.values()))
        tasks = [
            IngestTask(
                slot=wave.slots[name],
                status=plans[name].status,
                series={contrast: plans[name].equals_of(contrast) for contrast in plans[name].chosen},
                acquisitions=plans[name].acquisitions,
                grid=placement.grid,
                fork=wave.fork,
            )
            for name, placement in placements.items()
        ]
        return Begun(wave=wave, plans=plans, tasks=tasks)

    def record(self, cohort: Cohort, begun: Begun[SessionPlan], outcomes: Sequence[Outcome]) -> WaveRecord:  # noqa: ARG002 - the driver's protocol
        plans = {o.session: taken_plan(begun.plans[o.session], o.taken) for o in outcomes}
        return WaveRecord(
            forks=[outcome.fork for outcome in outcomes if outcome.fork is not None],
            values={
                o.session: values_of(plans[o.session], o) | self.days.of(plans[o.session])
                for o in outcomes
                if o.fork is not None
            },
            rows=[row_of(plans[o.session], o) for o in outcomes],
            message=f"Ingest {len(outcomes)} sessions",
            metadata={"run": "ingest", "sessions": len(outcomes), "code_version": CODE_VERSION},
        )
