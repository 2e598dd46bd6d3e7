"""`qmri regions`: nuclei and lobes of every session that counts, by the template brought to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from flows.calibration.calibrate import acquisitions_of_maps, all_scales
from flows.cluster.driver import required
from flows.progress import Progress, quiet
from flows.statistics.aggregate import VALUES, identities_of_maps
from flows.statistics.own_regions import Atlas, Masks
from flows.statistics.session_regions import RegionTask, measure_session
from flows.tables.text import records
from qmri_core.analysis.regions import FEWEST_VOXELS, VERSION
from storage.store.cohort import Cohort, latest
from storage.store.decisions.effect import judge
from storage.store.opened.values import MASKS, STATISTICS, TEMPLATE
from storage.store.tables import write_table

if TYPE_CHECKING:
    from distributed import Client

COLUMNS = (
    *("session", "group", "region", "map", *STATISTICS, "stated_sd", "overlap", "stretch", "placed"),
    *("atlas", "made_with"),
)
"""Of ``/regions``: ``stated_sd`` is the mean standard uncertainty of the region's voxels; ``overlap`` and ``stretch``,
of the session, say whether to believe its regions (`qmri_core.preprocessing.template.registration.Registered`), of
masks they are NaN; ``placed`` is how well the region is placed in any session (`qmri_core.analysis.regions.PLACED`),
NaN of an atlas of a user; ``atlas`` is what the regions are of: `TEMPLATE`, `MASKS` or the name of a user's."""
SESSIONS_PER_COMMIT = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionsResult:
    """``measured``: sessions in this run; ``unchanged``: before; ``quality``: ``overlap`` and ``stretch`` of all.

    ``outside``: masks that hold too little of the brain of their session, as session and region.
    """

    measured: int
    unchanged: int
    quality: pd.DataFrame
    outside: tuple[tuple[str, str], ...]
    snapshot: str | None


def measure_regions(
    store: Cohort | str,
    *,
    client: Client,
    atlas: Atlas | None = None,
    masks: Mapping[str, Masks] | None = None,
    progress: Progress = quiet,
) -> RegionsResult:
    """Bring the regions in the store up to date: of sessions that count and whose maps have changed since.

    Some seconds to a minute per session. It commits as it goes, so that a run that is stopped goes on where it was.

    Parameters
    ----------
    store
        A cohort, or where it lies.
    client
        Of the workers.
    atlas
        Measured beside the template's regions; another atlas's of an earlier run stay as long as the maps do.
    masks
        All masks that there are, by session; those of an earlier run that are not among them are dropped.
    progress
        Called as sessions are done.

    Raises
    ------
    StoreError
        If there is no store, or the maps of a session cannot be read.
    ClusterError, StorageFaultError
        If the workers or the storage fail: run it again.
    """
    cohort = latest(store)
    maps = {
        name: f"{text},{VERSION}" for name, text in identities_of_maps(cohort.values_of(VALUES), judge(cohort)).items()
    }
    asked = {session: _asked(made, atlas, (masks or {}).get(session)) for session, made in maps.items()}
    kept = _current(cohort, maps, asked, masks_are_known=masks is not None)
    there = kept.groupby("session")["atlas"].agg(set).to_dict()
    missing = {
        session: {name: made for name, made in of.items() if name not in there.get(session, ())}
        for session, of in sorted(asked.items())
    }
    due = [session for session, of in missing.items() if of]
    snapshot = None
    if not due and cohort.regions is not None and len(kept) < len(cohort.regions):
        snapshot = _write(cohort, kept, 0)
    progress(0, len(due), "regions")
    done = 0
    for start in range(0, len(due), SESSIONS_PER_COMMIT):
        part = list(
            _tasks(cohort, {name: missing[name] for name in due[start : start + SESSIONS_PER_COMMIT]}, atlas, masks)
        )
        rows: list[Mapping[str, object]] = []
        failure = "its regions could not be measured"
        for _, outcome in required(client, measure_session, part, name="regions", failure=failure, session=_name):
            rows += outcome.rows
            done += 1
            progress(done, len(due), "regions")
        found = pd.DataFrame(rows, columns=list(COLUMNS))
        kept = pd.concat([kept, found], ignore_index=True) if len(kept) else found
        snapshot = _write(cohort, kept, len(part))
    drawn = kept[kept["atlas"] == MASKS]
    empty = drawn[drawn["n"] < FEWEST_VOXELS].drop_duplicates(["session", "region"])
    quality = kept[kept["atlas"] != MASKS].drop_duplicates("session").set_index("session")
    return RegionsResult(
        measured=len(due),
        unchanged=len(maps) - len(due),
        quality=quality[["overlap", "stretch"]].astype(float),
        outside=tuple(zip(empty["session"], empty["region"], strict=True)),
        snapshot=snapshot,
    )


def _asked(made: str, atlas: Atlas | None, masks: Masks | None) -> dict[str, str]:
    """What is asked for of a session, by atlas, and what it is made with; ``made`` is of its maps."""
    asked = {TEMPLATE: made}
    if atlas is not None:
        asked[atlas.name] = f"{made},{atlas.digest}"
    if masks is not None:
        asked[MASKS] = f"{made},{masks.digest}"
    return asked


def _current(
    cohort: Cohort, maps: Mapping[str, str], asked: Mapping[str, Mapping[str, str]], *, masks_are_known: bool
) -> pd.DataFrame:
    """Rows of the store that are of the maps and the group that a session has, and made as is asked for, if it is."""
    if cohort.regions is None:
        return pd.DataFrame(columns=list(COLUMNS))
    table = cohort.regions.reindex(columns=list(COLUMNS)).fillna({"atlas": ""})
    groups = {name: slot.group for name, slot in cohort.slots.items()}

    def is_current(session: str, group: str, atlas: str, made: str) -> bool:
        if session not in maps or groups.get(session) != group:
            return False
        if atlas in asked[session]:
            return made == asked[session][atlas]
        return made.startswith(f"{maps[session]},") and not (atlas == MASKS and masks_are_known)

    columns = (table[name] for name in ("session", "group", "atlas", "made_with"))
    return table[[is_current(*map(str, row)) for row in zip(*columns, strict=True)]]


def _name(task: RegionTask) -> str:
    return task.slot.session


def _tasks(
    cohort: Cohort, due: Mapping[str, Mapping[str, str]], atlas: Atlas | None, masks: Mapping[str, Masks] | None
) -> Iterator[RegionTask]:
    """Sessions that are due, each with the acquisitions that its maps were made with."""
    scales = all_scales(cohort)
    for row in records(cohort.sessions):
        session = str(row["session"])
        if session in due:
            yield RegionTask(
                cohort=cohort,
                slot=cohort.slots[session],
                acquisitions=acquisitions_of_maps(row, scales),
                made=due[session],
                atlas=atlas,
                masks=(masks or {}).get(session),
            )


def _write(cohort: Cohort, rows: pd.DataFrame, n_sessions: int) -> str:
    table = rows.sort_values(["group", "session", "atlas", "region", "map"], ignore_index=True)
    with cohort.writing() as repository:
        return write_table(
            repository,
            "regions",
            xr.Dataset({name: ("row", table[name].to_numpy()) for name in table.columns}),
            message=f"Measure regions of {n_sessions} sessions",
            metadata={"run": "regions"},
        )
