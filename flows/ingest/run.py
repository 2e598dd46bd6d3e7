"""Ingest: discover, decide, preprocess on workers, commit wave by wave, calibrate new groups."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flows.cluster.boundary import outcome_of
from flows.cluster.clusters import run_bounded, waves_for
from flows.ingest.rows import is_done, row_of, values_of
from flows.ingest.scanning import scan_on_workers
from flows.ingest.session import IngestTask, ingest_session
from flows.ingest.session_plan import SessionPlan, unmatched_entries
from flows.ingest.source_plans import SourcePlans, known_rows
from flows.maps.calibrate import calibrate
from flows.progress import Progress, part_of, quiet
from flows.tables.summary import RunSummary
from qmri_core.versions import CODE_VERSION
from storage.source.assume_file import Assumption, Override, load_entries
from storage.source.discovery import Discovery, LinkageRow, scan_source
from storage.store.accounts import write_account
from storage.store.cohort import Cohort
from storage.store.repository import writing
from storage.store.waves import begin_append, commit

if TYPE_CHECKING:
    from distributed import Client

SESSIONS_PER_WORKER = 4
"""In one wave: a wave is what a kill can cost, a commit and idle workers at its end are what every wave costs."""


def ingest(
    source: Path,
    store: str,
    *,
    key: bytes,
    client: Client,
    linkage: Path | None = None,
    assume: Path | None = None,
    by_software: bool = False,
    index: Path | None = None,
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
    index
        File of the user that keeps what was read of the source; see `storage.source.discovery.scan_source`.

    Raises
    ------
    SourceError, AssumptionError, StoreError
        If the source, the assume file or the store cannot be used.
    """
    cohort = _made(store) if source.exists() else None  # a mistyped source leaves no empty store behind
    source = source.absolute()  # workers may run in another folder
    entries = load_entries(assume) if assume is not None else ()
    with scan_source(
        source,
        key=key,
        assume=[entry for entry in entries if isinstance(entry, Assumption)],
        progress=lambda done, total: progress(done, total, "discover"),
        index=index,
        runner=lambda tasks: scan_on_workers(client, tasks),
    ) as scanned:
        cohort = (cohort or _made(store)).refreshed()  # the source may have come into being, others may have written
        if linkage is not None:
            write_linkage((scanned.session(session)[1] for session in scanned.sessions), linkage)
        overrides = [entry for entry in entries if isinstance(entry, Override)]
        run = SourcePlans(scanned, cohort, key, overrides, by_software)
        to_do, snapshot = run.sort_out()
        done = by_others = 0
        for wave in waves_for(client, to_do, SESSIONS_PER_WORKER):
            plans = [run.plan(session) for session in wave]
            written, committed = _ingest_wave(cohort, plans, client, part_of(progress, done, len(to_do)))
            snapshot, by_others = committed or snapshot, by_others + len(wave) - written
            done += len(wave)
        snapshot = calibrate(cohort, progress=progress) or snapshot
        summary = run.summary(snapshot, by_others)
        unmatched = unmatched_entries(entries, scanned.unmatched, run.used)
    with cohort.writing() as repository:
        snapshot = write_account(repository, summary.account()) or snapshot
    return replace(summary, unmatched=unmatched, snapshot=snapshot)


def _made(store: str) -> Cohort:
    """The cohort, made if it is not there; a store that cannot be written is found out before hours of work."""
    with writing(store, create=True) as repository:
        return Cohort.in_repository(repository, store)


def write_linkage(rows: Iterable[LinkageRow] | Discovery, path: Path) -> None:
    """Write which session is whose: CSV for the user alone, readable by nobody else; never into the store."""
    path.touch(mode=0o600)
    path.chmod(0o600)  # of a file that was there before, too
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["session", "patient_id", "study_instance_uid", "path"])
        rows = rows.linkage if isinstance(rows, Discovery) else rows
        writer.writerows((row.session, row.patient_id, row.study_instance_uid, row.path) for row in rows)


def _ingest_wave(
    cohort: Cohort, wave: Sequence[SessionPlan], client: Client, progress: Progress
) -> tuple[int, str | None]:
    """How many sessions were written, and the snapshot; what another run has done since the plan is left alone."""
    with cohort.writing() as repository:
        known = known_rows(cohort.refreshed())
        wave = [plan for plan in wave if not is_done(plan, known.get(plan.session))]
        if not wave:
            return 0, None
        plans = {plan.session: plan for plan in wave}
        begun = begin_append(repository, [plan.placement for plan in wave if plan.placement is not None])
        tasks = [
            IngestTask(
                slot=begun.slots[plan.session],
                status=plan.status,
                series=plan.chosen,
                grid=plan.placement.grid,
                fork=begun.fork,
            )
            for plan in wave
            if plan.placement is not None
        ]
        outcomes = [
            outcome_of(task.slot.session, "ingest", result)
            for task, result in run_bounded(
                client, ingest_session, tasks, progress=progress, text="ingest", key=lambda task: task.slot.session
            )
        ]
        outcomes.sort(key=lambda outcome: outcome.session)
        return len(wave), commit(
            repository,
            begun,
            [outcome.fork for outcome in outcomes if outcome.fork is not None],
            values={o.session: values_of(plans[o.session], o) for o in outcomes if o.fork is not None},
            rows=[row_of(plans[o.session], o) for o in outcomes],
            message=f"Ingest {len(outcomes)} sessions",
            metadata={"run": "ingest", "sessions": len(outcomes), "code_version": CODE_VERSION},
        )
