"""`qmri regions`: nuclei and lobes of every session that counts, by the template brought to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from flows.cluster.boundary import Outcome, Stage, at_boundary
from flows.cluster.driver import required
from flows.maps.calibrate import acquisitions_of_maps, all_scales
from flows.progress import Progress, quiet
from flows.statistics.aggregate import VALUES, identities_of_maps
from flows.tables.text import records
from qmri_core.analysis.regions import FEWEST_VOXELS, VERSION
from qmri_core.series.acquisition import Acquisition, Contrast
from qmri_core.tissues import MAPS
from storage.store.cohort import Cohort, latest
from storage.store.decisions.effect import judge
from storage.store.opened.values import STATISTICS
from storage.store.schema import NOT_COMPUTED, Status
from storage.store.slots import Slot
from storage.store.tables import write_table

if TYPE_CHECKING:
    from distributed import Client

COLUMNS = ("session", "group", "region", "map", *STATISTICS, "stated_sd", "overlap", "stretch", "made_with")
"""Of ``/regions``: ``stated_sd`` is the mean standard uncertainty of the region's voxels; ``overlap`` and ``stretch``,
of the session, say whether to believe its regions (`qmri_core.preprocessing.template.registration.Registered`)."""
NOTHING = "none"
"""Region of the one row of a session in which too little was found to bring a template to it."""
SESSIONS_PER_COMMIT = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionTask:
    """A session to measure regions of."""

    cohort: Cohort
    slot: Slot
    acquisitions: Mapping[Contrast, Acquisition]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionsResult:
    """``measured``: sessions in this run; ``unchanged``: before; ``quality``: ``overlap`` and ``stretch`` of all."""

    measured: int
    unchanged: int
    quality: pd.DataFrame
    snapshot: str | None


def measure_regions(store: Cohort | str, *, client: Client, progress: Progress = quiet) -> RegionsResult:
    """Bring the regions in the store up to date: of sessions that count and whose maps have changed since.

    Some seconds to a minute per session. It commits as it goes, so that a run that is stopped goes on where it was.

    Raises
    ------
    StoreError
        If there is no store, or the maps of a session cannot be read.
    ClusterError, StorageFaultError
        If the workers or the storage fail: run it again.
    """
    cohort = latest(store)
    made = {
        name: f"{text},{VERSION}" for name, text in identities_of_maps(cohort.values_of(VALUES), judge(cohort)).items()
    }
    table = pd.DataFrame(columns=list(COLUMNS)) if cohort.regions is None else cohort.regions
    is_current = table["session"].map(made) == table["made_with"]
    is_current &= table["group"] == table["session"].map({name: slot.group for name, slot in cohort.slots.items()})
    kept = table[is_current]
    due = sorted(set(made) - set(kept["session"]))
    snapshot = None
    progress(0, len(due), "regions")
    done = 0
    for start in range(0, len(due), SESSIONS_PER_COMMIT):
        part = list(_tasks(cohort, due[start : start + SESSIONS_PER_COMMIT]))
        rows: list[dict[str, object]] = []
        failure = "its regions could not be measured"
        for task, outcome in required(client, measure_session, part, name="regions", failure=failure, session=_name):
            rows += ({**row, "made_with": made[task.slot.session]} for row in outcome.rows)
            done += 1
            progress(done, len(due), "regions")
        found = pd.DataFrame(rows, columns=list(COLUMNS))
        kept = pd.concat([kept, found], ignore_index=True) if len(kept) else found
        snapshot = _write(cohort, kept.sort_values(["group", "session", "region", "map"], ignore_index=True), len(part))
    quality = kept.drop_duplicates("session").set_index("session")[["overlap", "stretch"]].astype(float)
    return RegionsResult(measured=len(due), unchanged=len(made) - len(due), quality=quality, snapshot=snapshot)


def _name(task: RegionTask) -> str:
    return task.slot.session


def _tasks(cohort: Cohort, due: Sequence[str]) -> Iterator[RegionTask]:
    """Sessions that are due, each with the acquisitions that its maps were made with."""
    scales = all_scales(cohort)
    wanted = set(due)
    for row in records(cohort.sessions):
        if row["session"] in wanted:
            acquisitions = acquisitions_of_maps(row, scales)
            yield RegionTask(cohort=cohort, slot=cohort.slots[str(row["session"])], acquisitions=acquisitions)


def _write(cohort: Cohort, table: pd.DataFrame, n_sessions: int) -> str:
    with cohort.writing() as repository:
        return write_table(
            repository,
            "regions",
            xr.Dataset({name: ("row", table[name].to_numpy()) for name in table.columns}),
            message=f"Measure regions of {n_sessions} sessions",
            metadata={"run": "regions"},
        )


def measure_session(task: RegionTask) -> Outcome:
    """Rows of one session: statistics of each region and map."""
    return at_boundary(task.slot.session, partial(_measure, task))


def _measure(task: RegionTask, stage: Stage) -> Outcome:
    from qmri_core.analysis.regions import regions_in
    from qmri_core.preprocessing.template.brain import template
    from qmri_core.preprocessing.template.segmentation import regions_of
    from qmri_core.preprocessing.tissue import TissueError
    from qmri_core.series.geometry import spacing_of

    slot = task.slot
    with stage("read"):
        names = [
            *map(str, task.acquisitions),
            *MAPS,
            *(f"{name}_sd" for name in MAPS),
            "tissue",
            "brain_mask",
            "affine",
        ]
        stored = task.cohort.read(slot, names)
    start = {"session": slot.session, "group": slot.group}
    with stage("regions"):
        images = {
            contrast: stored[str(contrast)]
            for contrast in task.acquisitions
            if np.isfinite(stored[str(contrast)]).any()
        }
        mask = (stored["brain_mask"] == 1).astype(np.uint8)
        tissue = np.where(stored["tissue"] == NOT_COMPUTED, 0, stored["tissue"])
        try:
            labels, registered = regions_of(images, mask, stored["affine"], task.acquisitions)
        except TissueError:
            rows: tuple[dict[str, object], ...] = ({**start, "region": NOTHING, "map": "", "n": 0},)
            return Outcome(session=slot.session, status=Status.COMPLETE, rows=rows)
        x, y, z = map(float, spacing_of(stored["affine"]))
        found = regions_in(labels, tissue, template().names, (z, y, x))
        quality = {"overlap": registered.overlap, "stretch": registered.stretch}
        rows = tuple(
            {**start, "region": region, "map": name, **_figures(stored, name, where), **quality}
            for name in MAPS
            for region, where in found.items()
        )
    return Outcome(session=slot.session, status=Status.COMPLETE, rows=rows)


def _figures(stored: Mapping[str, Any], name: str, where: Any) -> dict[str, object]:  # noqa: ANN401 - arrays
    from qmri_core.statistics import tissue_statistics

    figures = asdict(tissue_statistics(stored[name][where]))
    stated = stored[f"{name}_sd"][where]
    known = stated[np.isfinite(stated)]
    if figures["n"] < FEWEST_VOXELS:
        return dict.fromkeys(STATISTICS, float("nan")) | {"n": figures["n"], "stated_sd": float("nan")}
    return {**figures, "stated_sd": float(known.mean()) if known.size else float("nan")}
