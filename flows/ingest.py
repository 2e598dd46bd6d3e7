"""Ingest: discover, decide, preprocess on workers, commit wave by wave, calibrate new groups."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from flows.calibrate import calibrate
from flows.clusters import run_bounded, waves_for
from flows.plan import SessionPlan, plan_sessions, unmatched_entries
from flows.progress import Progress, part_of, quiet
from flows.stages import IngestTask, Outcome, ingest_session, outcome_of
from flows.summary import RunSummary, summarise
from flows.tables import records
from qmri_core.preprocessing.session import PREPROCESSING_VERSION
from storage.acquisitions import acquisition_values
from storage.assumptions import Assumption, Override, load_entries
from storage.cohort import catalogue
from storage.discovery import Discovery, discover
from storage.repository import StoreError, writing
from storage.schema import Status
from storage.waves import begin_append, commit

if TYPE_CHECKING:
    from distributed import Client

SESSIONS_PER_WORKER = 4
"""In one wave: a wave is what a kill can cost, a commit and idle workers at its end are what every wave costs."""
CODE_VERSION = version("qmri-cohort")


def ingest(
    source: Path,
    store: str,
    *,
    key: bytes,
    client: Client,
    linkage: Path | None = None,
    assume: Path | None = None,
    progress: Progress = quiet,
) -> RunSummary:
    """Bring every session of ``source`` into the store, or record why not.

    Sessions whose input, code and preprocessing have not changed since they were last seen are left alone, failed
    ones too. Safe to kill at any time: what is committed stays, a re-run does the rest.

    Raises
    ------
    SourceError, AssumptionError, StoreError
        If the source, the assume file or the store cannot be used.
    """
    if source.exists():  # a mistyped source leaves no empty store behind
        with writing(store, create=True):
            pass  # a store that cannot be written is found out before hours of work
    entries = load_entries(assume) if assume is not None else ()
    assumptions = [entry for entry in entries if isinstance(entry, Assumption)]
    found = discover(
        source, key=key, assume=assumptions, progress=lambda done, total: progress(done, total, "discover")
    )
    if linkage is not None:
        write_linkage(found, linkage)
    plans = plan_sessions(found.series, [entry for entry in entries if isinstance(entry, Override)])
    known = _known(store)
    fresh = [plan for plan in plans if not _is_done(plan, known)]
    to_do = sorted((plan for plan in fresh if plan.placement is not None), key=lambda plan: plan.session)
    snapshot = _record_skipped(store, [plan for plan in fresh if plan.placement is None])
    done = by_others = 0
    for wave in waves_for(client, to_do, SESSIONS_PER_WORKER):
        written, committed = _ingest_wave(store, wave, client, part_of(progress, done, len(to_do)))
        snapshot, by_others = committed or snapshot, by_others + len(wave) - written
        done += len(wave)
    snapshot = calibrate(store, progress=progress) or snapshot
    summary = _summary(plans, store, unchanged=len(plans) - len(fresh) + by_others, snapshot=snapshot)
    return replace(summary, unmatched=unmatched_entries(entries, found.unmatched, plans))


def write_linkage(found: Discovery, path: Path) -> None:
    """Write which session is whose: CSV for the user alone, readable by nobody else; never into the store."""
    path.touch(mode=0o600)
    path.chmod(0o600)  # of a file that was there before, too
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["session", "patient_id", "study_instance_uid", "path"])
        writer.writerows((row.session, row.patient_id, row.study_instance_uid, row.path) for row in found.linkage)


def _known(store: str) -> Mapping[str, Mapping[str, object]]:
    return {str(row["session"]): row for row in records(catalogue(store))}


def _is_done(plan: SessionPlan, known: Mapping[str, Mapping[str, object]]) -> bool:
    row = known.get(plan.session)
    return row is not None and all(row[name] == value for name, value in _versions(plan).items())


def _versions(plan: SessionPlan) -> dict[str, object]:
    return {
        "input_digest": plan.input_digest,
        "code_version": CODE_VERSION,
        "preprocessing_version": str(PREPROCESSING_VERSION),
    }


def _ingest_wave(store: str, wave: Sequence[SessionPlan], client: Client, progress: Progress) -> tuple[int, str | None]:
    """How many sessions were written, and the snapshot; what another run has done since the plan is left alone."""
    with writing(store) as repository:
        known = _known(store)
        wave = [plan for plan in wave if not _is_done(plan, known)]
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
            values={o.session: _values(plans[o.session], o) for o in outcomes if o.fork is not None},
            rows=[_row(plans[o.session], o) for o in outcomes],
            message=f"Ingest {len(outcomes)} sessions",
            metadata={"run": "ingest", "sessions": len(outcomes), "code_version": CODE_VERSION},
        )


def _values(plan: SessionPlan, outcome: Outcome) -> dict[str, object]:
    first = next(iter(plan.chosen.values()))
    values: dict[str, object] = {
        "sex": first.sex,
        "age": first.age,
        "day": first.day,
        "magnetic_field_strength": first.header.magnetic_field_strength,
        **outcome.values,
    }
    for acquisition in plan.acquisitions.values():
        values |= acquisition_values(acquisition)
    return values


def _row(plan: SessionPlan, outcome: Outcome | None = None) -> dict[str, object]:
    row: dict[str, object] = {
        "session": plan.session,
        "person": plan.person,
        "status": str(plan.status),
        "reason": str(plan.reason or ""),
        "explanation": plan.explanation,
        "contrasts": ",".join(plan.chosen),
        "n_series": len(plan.series),
        "stage": "plan" if plan.placement is None else "",
        "error": "",
        **_versions(plan),
    }
    if plan.placement is not None:
        row |= {"scanner": plan.placement.scanner, "protocol": plan.placement.protocol}
    if outcome is not None:
        row["duration"] = outcome.duration
        if outcome.status is Status.FAILED:
            row |= {
                "status": str(outcome.status),
                "reason": str(outcome.reason),
                "stage": outcome.stage,
                "error": outcome.error,
                "explanation": outcome.explanation,
            }
    return row


def _record_skipped(store: str, plans: Sequence[SessionPlan]) -> str | None:
    if not plans:
        return None
    with writing(store) as repository:
        return commit(
            repository,
            None,
            [],
            values={},
            rows=[_row(plan) for plan in plans],
            message=f"Record {len(plans)} skipped sessions",
            metadata={"run": "ingest", "skipped": len(plans), "code_version": CODE_VERSION},
        )


def _summary(plans: Sequence[SessionPlan], store: str, *, unchanged: int, snapshot: str | None) -> RunSummary:
    known = _known(store)
    lost = [plan.session for plan in plans if plan.session not in known]
    if lost:
        raise StoreError(f"{len(lost)} sessions are in no state after the run: {', '.join(lost[:5])}")
    rows = [known[plan.session] for plan in plans]
    return summarise(
        [(str(row["session"]), str(row["status"]), str(row["reason"]), str(row["stage"])) for row in rows],
        unchanged=unchanged,
        snapshot=snapshot,
    )
