"""Evaluate maps of real sessions: what can be said of them without a truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from flows.calibration.calibrate import acquisitions_of_maps, all_scales
from flows.cluster.boundary import Outcome, Stage, at_boundary
from flows.cluster.driver import required
from flows.evaluation.plausibility_tables import (
    candidate_table,
    resynthesis_table,
    value_table,
    visit_pairs,
    visit_table,
    weak_test,
)
from flows.evaluation.rows import write_evaluation
from flows.progress import Progress, quiet
from flows.statistics.aggregate import identities_of_maps, read_statistics, up_to_date
from flows.tables.text import records
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.tissues import MAPS
from storage.store.acquisitions import scales_of
from storage.store.cohort import Cohort, latest
from storage.store.decisions.effect import judge
from storage.store.repository import StoreError
from storage.store.schema import Status

if TYPE_CHECKING:
    from distributed import Client

    from storage.store.slots import Slot

MAX_PICTURED = 4
"""Most sessions in the picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlausibilityResult:
    """Tables of maps without a truth; see the functions of `flows.evaluation.plausibility_tables`.

    ``values``: medians of tissues beside the literature. ``resynthesis``: by group and contrast, from
    ``resynthesis_sessions``. ``visits``: over the pairs of ``visit_pairs``. ``candidates``: white matter that is bright
    on FLAIR by group, from ``candidate_sessions``.
    """

    values: pd.DataFrame
    resynthesis: pd.DataFrame
    visits: pd.DataFrame
    candidates: pd.DataFrame
    visit_pairs: pd.DataFrame
    resynthesis_sessions: pd.DataFrame
    candidate_sessions: pd.DataFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class PlausibilityTask:
    """One session whose maps are held against its own images."""

    cohort: Cohort
    slot: Slot
    acquisitions: Mapping[Contrast, Acquisition] = field(repr=False)
    scales: Mapping[Contrast, float] = field(repr=False)


def evaluate_real(
    store: Cohort | str, *, client: Client, out: Path | None = None, progress: Progress = quiet
) -> PlausibilityResult:
    """Describe the maps of a cohort whose truth is not known.

    To lie within the intervals of the literature is a weak test, since reported values differ by a factor of two; and
    the mean white matter of a group is imposed by the calibration, so that its level says nothing.

    Parameters
    ----------
    client
        Workers that read the images, a session each.
    out
        Folder for the tables as CSV, all of them as ``evaluation.json``, and a picture, ``evaluation.png``.

    Raises
    ------
    StoreError
        If there is no store, it has no maps or no statistics of them as they are now, or a session cannot be read.
    ClusterError, StorageFaultError
        If the workers or the storage fail: run it again.
    """
    cohort = latest(store)
    stored = cohort.sessions
    made = identities_of_maps(stored, judge(cohort))
    if not made:
        raise StoreError("no stored session has maps; run `qmri infer` and then `qmri aggregate` first")
    statistics = up_to_date(read_statistics(cohort), made, stored)
    if missing := set(made) - set(statistics["session"]):
        raise StoreError(
            f"{len(missing)} of {len(made)} sessions with maps lack statistics; run `qmri aggregate` first"
        )
    stored = stored[stored["session"].isin(made)]
    scales = all_scales(cohort)
    tasks = [_task(cohort, row, acquisitions_of_maps(row, scales)) for row in records(stored)]
    failure = "its maps could not be evaluated"
    reviewed = required(client, review_session, tasks, name="evaluate", failure=failure, progress=progress)
    rows = sorted(
        (row for _, outcome in reviewed for row in outcome.rows),
        key=lambda row: (str(row["group"]), str(row["session"])),
    )
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ("resynthesis", "candidates")}
    of_sessions = {
        kind: pd.DataFrame(members).drop(columns="kind", errors="ignore") for kind, members in by_kind.items()
    }
    pairs = visit_pairs(statistics, stored)
    result = PlausibilityResult(
        values=value_table(statistics, stored),
        resynthesis=resynthesis_table(by_kind["resynthesis"]),
        visits=visit_table(pairs),
        candidates=candidate_table(by_kind["candidates"]),
        visit_pairs=pairs,
        resynthesis_sessions=of_sessions["resynthesis"],
        candidate_sessions=of_sessions["candidates"],
    )
    if out is not None:
        tables = {each.name: getattr(result, each.name) for each in fields(PlausibilityResult)}
        write_evaluation(out, tables, more={"note": weak_test()}, picture=_picture(cohort, stored))
    return result


def review_session(task: PlausibilityTask) -> Outcome:
    """Hold one session's maps against its images; ``kind`` of the rows is ``resynthesis`` or ``candidates``."""
    return at_boundary(task.slot.session, lambda stage: _review(task, stage))


def _review(task: PlausibilityTask, stage: Stage) -> Outcome:
    from qmri_core.evaluation.without_truth import lesion_candidates, resynthesis

    with stage("read"):
        names = [*MAPS, *map(str, task.acquisitions), "brain_mask", "tissue", "affine"]
        stored = task.cohort.read(task.slot, names)
    maps = {name: stored[name] for name in MAPS}
    start = {"session": task.slot.session, "group": task.slot.group}
    rows: list[dict[str, object]] = []
    with stage("resynthesis"):
        for contrast, acquisition in task.acquisitions.items():
            found = resynthesis(
                acquisition, stored[str(contrast)], task.scales[contrast], maps, stored["brain_mask"] == 1
            )
            rows.append({"kind": "resynthesis", **start, "contrast": str(contrast), **asdict(found)})
    with stage("candidates"):
        bright = lesion_candidates(stored["tissue"], stored.get(str(Contrast.FLAIR)), maps, stored["affine"])
        ratios = {f"{name}_ratio": ratio for name, ratio in bright.ratios.items()}
        volume = {"voxels": bright.voxels, "millilitres": bright.millilitres}
        rows.append({"kind": "candidates", **start, **volume, **ratios})
    return Outcome(session=task.slot.session, status=Status.COMPLETE, rows=tuple(rows))


def _task(cohort: Cohort, row: Mapping[str, Any], acquisitions: Mapping[Contrast, Acquisition]) -> PlausibilityTask:
    return PlausibilityTask(
        cohort=cohort,
        slot=cohort.slots[str(row["session"])],
        acquisitions=acquisitions,
        scales=scales_of(row),
    )


def _picture(cohort: Cohort, stored: pd.DataFrame) -> bytes:
    """The first session of each group, then the second, up to `MAX_PICTURED`."""
    from flows.pictures.volumes import StoredSession, maps_picture

    ordered = stored.sort_values(["group", "session"])
    turn = ordered.groupby("group").cumcount()
    chosen = ordered.assign(turn=turn).sort_values(["turn", "group"], kind="stable").head(MAX_PICTURED)
    rows = {
        str(row["session"]): row
        for row in records(cohort.catalogue[cohort.catalogue["session"].isin(chosen["session"])])
    }
    return maps_picture(
        [StoredSession(cohort=cohort, slot=cohort.slots[name], row=rows[name]) for name in map(str, chosen["session"])]
    )
