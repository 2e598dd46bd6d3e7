"""Infer: maps of every session whose maps are missing or made with another checkpoint or calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cluster.boundary import Outcome, outcome_of
from flows.cluster.clusters import inference_resource, run_bounded, waves_for
from flows.maps.calibrate import calibrate, current_calibrations, signals_of
from flows.maps.session import InferTask, clear_maps, infer_session
from flows.maps.staleness import made_with, obstacle, why_maps
from flows.maps.weights import Weights, chosen_weights
from flows.progress import Progress, part_of, quiet
from flows.tables.summary import RunSummary, summarise
from flows.tables.text import records as records_of
from qmri_core.calibration.scales import calibrated_acquisitions, session_person, session_scales
from qmri_core.series.acquisition import CONTRASTS
from qmri_core.versions import CODE_VERSION
from storage.store.acquisitions import acquisitions_of
from storage.store.cohort import Cohort, latest
from storage.store.schema import Reason, Status
from storage.store.waves import begin_update, commit

if TYPE_CHECKING:
    from distributed import Client

SESSIONS_PER_WORKER = 8


def infer(
    store: Cohort | str, *, client: Client, checkpoint: Path | None = None, progress: Progress = quiet
) -> RunSummary:
    """Compute maps of all stored sessions that lack current ones.

    Made with ``checkpoint``, else the one that the store has promoted, else the shipped one.

    Groups without a calibration get their first. Sessions of a field strength without population values keep their
    images and get no maps (reason ``field_strength``).

    Raises
    ------
    CheckpointError, StoreError
        If the weights or the store cannot be used.
    """
    cohort = latest(store)
    weights = chosen_weights(cohort, checkpoint)
    calibrate(cohort, progress=progress)
    cohort = cohort.refreshed()
    calibrations = current_calibrations(cohort)
    records = {str(row["session"]): row for row in records_of(cohort.sessions)}
    tasks: list[dict[str, Any]] = []
    without: dict[str, Reason] = {}
    for name, record in sorted(records.items()):
        if record["status"] == Status.SKIPPED:  # its input has changed since its images were stored, and is not usable
            continue
        reason = obstacle(record, calibrations)
        if reason is not None:
            without[name] = reason
            continue
        version, scales, _ = calibrations[str(record["group"])]
        checkpoint_digest = weights.as_recorded(str(record["checkpoint_digest"]))
        if not why_maps(record, checkpoint=checkpoint_digest, calibration=made_with(version)):
            continue
        acquisitions = calibrated_acquisitions(scales, acquisitions_of(record))
        of_session = scales, signals_of(record, acquisitions), acquisitions
        tasks.append(
            {
                "slot": cohort.slots[name],
                "acquisitions": acquisitions,
                "scales": session_scales(*of_session),
                "person": session_person(*of_session),
                "made_with": made_with(version),
                "input_digest": record["input_digest"],
            }
        )
    snapshot = _record_reasons(cohort, {n: r for n, r in without.items() if records[n]["reason"] != str(r)})
    done = by_others = 0
    for wave in waves_for(client, tasks, SESSIONS_PER_WORKER):
        written, committed = _infer_wave(cohort, wave, client, weights, part_of(progress, done, len(tasks)))
        snapshot, by_others = committed or snapshot, by_others + len(wave) - written
        done += len(wave)
    rows = records_of(cohort.refreshed().catalogue)
    return summarise(
        [(str(r["session"]), str(r["status"]), str(r["reason"]), str(r["stage"])) for r in rows],
        unchanged=len(rows) - len(tasks) + by_others,
        snapshot=snapshot,
    )


def _infer_wave(
    cohort: Cohort,
    wave: Sequence[Mapping[str, Any]],
    client: Client,
    weights: Weights,
    progress: Progress,
) -> tuple[int, str | None]:
    """How many sessions were inferred, and the snapshot; those that another run has changed since are left alone."""
    with cohort.writing() as repository:
        cohort = cohort.refreshed()
        rows = {str(row["session"]): row for row in records_of(cohort.catalogue)}
        planned = {name: item for item in wave if _is_as_planned(rows.get(name := item["slot"].session), item, weights)}
        if not planned:
            return 0, None
        begun = begin_update(repository, sorted(planned))
        tasks = [
            InferTask(
                cohort=cohort,
                slot=slot,
                acquisitions=planned[slot.session]["acquisitions"],
                scales=planned[slot.session]["scales"],
                person=planned[slot.session]["person"],
                weights=weights,
                fork=begun.fork,
            )
            for slot in begun.slots.values()
        ]
        outcomes = [
            outcome_of(task.slot.session, "infer", result)
            for task, result in run_bounded(
                client,
                infer_session,
                tasks,
                progress=progress,
                text="infer",
                key=lambda task: task.slot.session,
                resource=inference_resource(client),
            )
        ]
        good = [outcome for outcome in outcomes if outcome.fork is not None]
        return len(planned), commit(
            repository,
            begun,
            [outcome.fork or clear_maps(cohort, begun.slots[outcome.session], begun.fork) for outcome in outcomes],
            values={name: _values(item, weights.digest) for name, item in planned.items()},
            rows=[_row(outcome, planned[outcome.session]) for outcome in outcomes],
            message=f"Infer maps of {len(good)} sessions",
            metadata={
                "run": "infer",
                "sessions": len(good),
                "checkpoint": weights.digest,
                "code_version": CODE_VERSION,
            },
        )


def _is_as_planned(row: Mapping[str, Any] | None, item: Mapping[str, Any], weights: Weights) -> bool:
    if row is None:
        return False
    digest = weights.as_recorded(str(row["checkpoint_digest"]))
    is_stale = bool(why_maps(row, checkpoint=digest, calibration=item["made_with"]))
    return bool(row["group"]) and row["input_digest"] == item["input_digest"] and is_stale


def _values(item: Mapping[str, Any], digest: str) -> dict[str, object]:
    """What the maps, or the failure to make them, rest on: neither is tried again before one of these changes."""
    scales = {f"{contrast}_scale": scale for contrast, scale in item["scales"].items()}
    return {"checkpoint_digest": digest, "calibration_version": item["made_with"], **scales}


def _row(outcome: Outcome, item: Mapping[str, Any]) -> dict[str, object]:
    is_partial = len(item["acquisitions"]) < len(CONTRASTS)
    if outcome.fork is not None:
        status, reason = (Status.PARTIAL, Reason.MISSING_CONTRAST) if is_partial else (Status.COMPLETE, "")
    else:
        status, reason = outcome.status, outcome.reason
    return {
        "session": outcome.session,
        "status": str(status),
        "reason": str(reason),
        "stage": outcome.stage,
        "error": outcome.error,
        "explanation": outcome.explanation,
    }


def _record_reasons(cohort: Cohort, reasons: Mapping[str, Reason]) -> str | None:
    if not reasons:
        return None
    with cohort.writing() as repository:
        return commit(
            repository,
            None,
            [],
            values={},
            rows=[{"session": name, "reason": str(reason)} for name, reason in reasons.items()],
            message=f"Record {len(reasons)} sessions that get no maps",
            metadata={"run": "infer"},
        )
