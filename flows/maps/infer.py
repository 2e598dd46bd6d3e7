"""Infer: maps of every session whose maps are missing or made with another checkpoint or calibration."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.calibration.calibrate import calibrate
from flows.calibration.odd_sessions import KINDS
from flows.cluster.boundary import Outcome, seconds_of
from flows.cluster.clusters import inference_resource
from flows.cluster.driver import Begun, WaveRecord, run_waves
from flows.maps.batch import infer_session, infer_sessions
from flows.maps.group_closure import settle_groups
from flows.maps.plan import MapsPlan, plan_maps
from flows.maps.session import InferTask, clear_maps
from flows.maps.staleness import why_maps
from flows.maps.weights import Weights, chosen_weights
from flows.progress import Progress, quiet
from flows.selection import EVERY, EVERYTHING, Selected, Selection
from flows.tables.stages import with_stages
from flows.tables.summary import RunSummary, summarise
from flows.tables.text import records
from qmri_core.series.acquisition import CONTRASTS
from qmri_core.series.remarks import kinds_of
from qmri_core.versions import CODE_VERSION
from storage.store.cohort import Cohort, latest
from storage.store.decisions.effect import judge
from storage.store.room import MAPS, bytes_of, require_room
from storage.store.schema import Reason, Status
from storage.store.waves import begin_update, commit

if TYPE_CHECKING:
    import icechunk
    from distributed import Client

SESSIONS_PER_WORKER = 8
SESSIONS_PER_GPU = 64
"""Of a wave: a device that takes a second per session should seldom wait for a commit."""


def infer(
    store: Cohort | str,
    *,
    client: Client,
    checkpoint: Path | None = None,
    selection: Selection = EVERYTHING,
    check_room: bool = True,
    progress: Progress = quiet,
) -> RunSummary:
    """Compute maps of all stored sessions that lack current ones.

    Made with ``checkpoint``, else the one that the store has promoted, else the shipped one.

    Groups without a calibration get their first. Sessions of a field strength without population values keep their
    images and get no maps (reason ``field_strength``).
    Sessions that are excluded, or not selected, stay as they are.

    Raises
    ------
    CheckpointError, SelectionError, StoreError
        If the weights or the store cannot be used.
    NoRoomError
        With ``check_room``, if the disk of the store has too little room for the maps.
    """
    cohort = latest(store)
    selected = selection.of(cohort)
    weights = chosen_weights(cohort, checkpoint)
    snapshot = calibrate(cohort, progress=progress)
    cohort = cohort.refreshed()
    plans, without = plan_maps(cohort, weights, selected)
    if check_room and plans:
        require_room(cohort.location, _bytes_of(cohort, plans), f"maps of {len(plans)} sessions")
    snapshot = _record_reasons(cohort, without) or snapshot
    ran = run_waves(
        _Infer(weights=weights, selected=selected),
        plans,
        cohort=cohort,
        client=client,
        per_worker=sessions_per_worker,
        resource=inference_resource,
        progress=progress,
    )
    settled = settle_groups(cohort.refreshed())
    now = cohort.refreshed()
    every = records(now.catalogue)
    rows = [row for row in every if str(row["session"]) in selected]
    summary = summarise(
        [(str(r["session"]), str(r["status"]), str(r["reason"]), str(r["stage"])) for r in rows],
        unchanged=len(rows) - len(plans) + ran.by_others,
        snapshot=settled or ran.snapshot or snapshot,
    )
    summary = summary.with_decisions(judge(now).settled)
    counts = kinds_of(str(row["remarks"]) for row in rows)
    told = {kind: n for kind, n in counts.items() if kind in KINDS}
    return replace(summary, remarks=told, not_selected=len(every) - len(rows))


def _bytes_of(cohort: Cohort, plans: Sequence[MapsPlan]) -> float:
    """Bytes that the maps of these sessions may take, by the grids of their groups."""
    counts = Counter(plan.slot.group for plan in plans)
    shapes = {group: cohort.nodes.array(group, "T1map").shape[1:] for group in counts}
    return bytes_of(MAPS, len(plans), sum(count * math.prod(shapes[group]) for group, count in counts.items()))


def sessions_per_worker(client: Client) -> int:
    """Sessions of a wave for each worker."""
    return SESSIONS_PER_WORKER if inference_resource(client) is None else SESSIONS_PER_GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class _Infer:
    """Inference as `flows.cluster.driver.run_waves` drives it."""

    weights: Weights
    selected: Selected = EVERY
    name: str = "infer"

    @property
    def work(self) -> Callable[[InferTask], Outcome]:
        return infer_session

    @property
    def together(self) -> Callable[[tuple[InferTask, ...]], Sequence[Outcome]]:
        return infer_sessions

    def begin(
        self, repository: icechunk.Repository, cohort: Cohort, items: Sequence[MapsPlan]
    ) -> Begun[MapsPlan] | None:
        """Sessions that another run has changed since they were planned are left alone."""
        rows = cohort.rows_of(plan.slot.session for plan in items)
        plans = {
            plan.slot.session: plan
            for plan in items
            if _is_as_planned(
                rows.get(plan.slot.session), plan, self.weights, again=self.selected.is_again(plan.slot.session)
            )
        }
        if not plans:
            return None
        wave = begin_update(repository, sorted(plans))
        weights, fork = self.weights.seen_from(cohort), pickle.dumps(wave.fork)
        tasks = [
            InferTask(
                cohort=cohort,
                slot=slot,
                acquisitions=plans[name].acquisitions,
                scales=plans[name].scales,
                person=plans[name].person,
                is_adult=plans[name].is_adult,
                weights=weights,
                fork=fork,
            )
            for name, slot in sorted(wave.slots.items(), key=lambda of_session: (of_session[1].group, of_session[0]))
        ]
        return Begun(wave=wave, plans=plans, tasks=tasks)

    def record(self, cohort: Cohort, begun: Begun[MapsPlan], outcomes: Sequence[Outcome]) -> WaveRecord:
        good = sum(outcome.status is not Status.FAILED for outcome in outcomes)
        digest = self.weights.digest
        before = cohort.rows_of(begun.plans)
        return WaveRecord(
            forks=[o.fork or clear_maps(cohort, begun.wave.slots[o.session], begun.wave.fork) for o in outcomes],
            values={o.session: _values(begun.plans[o.session], digest) | _UNKNOWN | dict(o.values) for o in outcomes},
            rows=[_row(outcome, begun.plans[outcome.session], before[outcome.session]) for outcome in outcomes],
            message=f"Infer maps of {good} sessions",
            metadata={"run": "infer", "sessions": good, "checkpoint": digest, "code_version": CODE_VERSION},
        )


def _is_as_planned(row: Mapping[str, Any] | None, plan: MapsPlan, weights: Weights, *, again: bool) -> bool:
    if row is None:
        return False
    digest = weights.as_recorded(str(row["checkpoint_digest"]))
    is_stale = again or bool(why_maps(row, checkpoint=digest, calibration=plan.made_with))
    return bool(row["group"]) and row["input_digest"] == plan.input_digest and is_stale


_UNKNOWN: dict[str, object] = {"synthesis_residual": None}
"""What is not known of a session that has no maps."""


def _values(plan: MapsPlan, digest: str) -> dict[str, object]:
    """What the maps, or the failure to make them, rest on: neither is tried again before one of these changes."""
    scales = {f"{contrast}_scale": scale for contrast, scale in plan.scales.items()}
    made_with = {"checkpoint_digest": digest, "calibration_version": plan.made_with}
    return {**made_with, **scales, "quality_marks": plan.marks}


def _row(outcome: Outcome, plan: MapsPlan, before: Mapping[str, Any]) -> dict[str, object]:
    is_partial = len(plan.acquisitions) < len(CONTRASTS)
    if outcome.status is not Status.FAILED:
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
        "remarks": plan.oddity.remarks(str(before["remarks"]), outcome.remarks),
        "stages": with_stages(str(before["stages"]), "infer", seconds_of(outcome)),
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
