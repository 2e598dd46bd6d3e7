"""Aggregate: tissue statistics per session on workers; group and cohort statistics from those alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from flows.calibration.odd_sessions import marked_sessions
from flows.calibration.tables import levels_table
from flows.cluster.driver import required
from flows.maps.staleness import IMAGES_REST_ON, MAPS_REST_ON, maps_identity
from flows.progress import Progress, quiet
from flows.selection import EVERYTHING, Selection
from flows.statistics.reliability import with_reliability
from flows.statistics.session import summarise_sessions, summarise_tasks
from flows.statistics.thumbnails import commit_thumbnails, make_thumbnails
from flows.statistics.unseen import unseen_of
from flows.tables.text import labels_of, records
from qmri_core.statistics import Moments, inter_group_variation
from storage.store.cohort import Cohort, latest
from storage.store.decisions.effect import Judged, judge
from storage.store.opened.values import RELIABILITY, STATISTICS
from storage.store.schema import Status
from storage.store.tables import write_table
from storage.store.thumbnails import write

if TYPE_CHECKING:
    from distributed import Client

KEYS = ["session", "group", "tissue", "map"]
VALUES = ("status", "quality_marks", *MAPS_REST_ON, *IMAGES_REST_ON)
"""Per-session values that say which statistics are to be taken, and which count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregateResult:
    """Tables of a cohort.

    ``sessions``: session, group, tissue, map, the fields of `qmri_core.statistics.TissueStatistics`, and the columns of
    `flows.statistics.reliability.reliability_table`. ``groups``: group, tissue, map, n_sessions, mean_of_medians,
    sd_of_medians (ddof 1), mean_of_modes, sd_of_modes, determined (mean over sessions). ``variation``:
    tissue, map, n_groups, mean, sd, cov over groups of the means of session medians, cov_of_modes, of modes, and
    ``cov_imposed`` and ``cov_error`` of `flows.statistics.unseen.unseen_of`. T1map and T2map in seconds, PDmap
    relative to CSF. ``labels``: the store's label of each group. ``left_out``: how many sessions with maps count for
    nothing, by reason; ``accepted``: how many count although their maps have failed. ``snapshot``: of the commit; None
    where nothing was written.
    """

    sessions: pd.DataFrame
    groups: pd.DataFrame
    variation: pd.DataFrame
    labels: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    accepted: int = 0
    snapshot: str | None = None


def aggregate(
    store: Cohort | str,
    *,
    client: Client,
    out: Path | None = None,
    selection: Selection = EVERYTHING,
    progress: Progress = quiet,
) -> AggregateResult:
    """Bring statistics and thumbnails in the store up to date, and compute the tables of groups and variation.

    Only sessions whose maps have changed since their statistics were taken are read, or whose statistics were taken
    by a version that knew no modes. Sessions that do not count (`storage.store.decisions.effect.judge`) have none.

    Parameters
    ----------
    out
        Folder for the three tables as CSV; optional.
    selection
        Sessions whose statistics are taken; those of others that are stale are dropped until a later run takes them.

    Raises
    ------
    SelectionError, StoreError
        If what is selected is not there, there is no store, or the maps of a session cannot be read.
    ClusterError, StorageFaultError
        If the workers or the storage fail: run it again.
    """
    cohort = latest(store)
    selected = selection.of(cohort)
    stored = cohort.values_of(VALUES)
    judgement = judge(cohort)
    made = identities_of_maps(stored, judgement)
    table = read_statistics(cohort)
    is_older = cohort.statistics is not None and "determined" not in cohort.statistics
    lacking = table["mode"].isna() & (table["n"] > 0)
    kept = up_to_date(table[~table["session"].isin(table.loc[lacking, "session"])], made, stored)
    if selected.retry:
        kept = kept[~kept["session"].map(selected.is_again).astype(bool)]
    due = sorted(session for session in set(made) - set(kept["session"]) if session in selected)
    rows = _taken(cohort, due, made, client, progress)
    thumbnails = make_thumbnails(cohort, stored, selected=selected, client=client, progress=progress)
    snapshot = None
    if rows or len(kept) != len(table) or is_older:
        table = pd.concat([kept, pd.DataFrame(rows, columns=table.columns)], ignore_index=True) if rows else kept
        table = with_reliability(cohort, table).sort_values(["group", "session", "map", "tissue"], ignore_index=True)
        with cohort.writing() as repository:
            snapshot = write_table(
                repository,
                "statistics",
                xr.Dataset({name: ("row", table[name].to_numpy()) for name in table.columns}),
                message=f"Aggregate {len(rows) // 9} sessions",
                metadata={"run": "aggregate"},
                also=lambda root: write(root, thumbnails),
            )
    elif thumbnails:
        snapshot = commit_thumbnails(cohort, thumbnails)
    result_tables = tables_of(
        table[[*KEYS, *STATISTICS, *RELIABILITY]], left_out=marked_sessions(stored), levels=levels_table(cohort)
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, frame in asdict_frames(result_tables).items():
            frame.to_csv(out / f"{name}.csv", index=False)
    labels = labels_of(result_tables.groups["group"], cohort.labels)
    mapped = stored.loc[stored["checkpoint_digest"] != "", "session"].astype(str)
    return replace(
        result_tables,
        labels=labels,
        left_out=judgement.reasons(mapped),
        accepted=len(judgement.accepted),
        snapshot=snapshot,
    )


def _taken(
    cohort: Cohort, due: Sequence[str], made: Mapping[str, str], client: Client, progress: Progress
) -> list[dict[str, object]]:
    """Rows of the sessions that are due, taken on workers."""
    tasks = list(summarise_tasks(cohort, due))
    failure = "statistics of its maps could not be taken"
    rows: list[dict[str, object]] = []
    done = 0
    progress(done, len(due), "aggregate")
    for task, outcome in required(
        client,
        summarise_sessions,
        tasks,
        name="aggregate",
        failure=failure,
        session=lambda task: task.slots[0].session,
    ):
        rows += ({**row, "made_with": made[str(row["session"])]} for row in outcome.rows)
        done += len(task.slots)
        progress(done, len(due), "aggregate")
    return rows


def read_statistics(cohort: Cohort) -> pd.DataFrame:
    """Stored statistics: one row per session, tissue and map; ``made_with`` says of which maps."""
    columns = [*KEYS, *STATISTICS, *RELIABILITY, "made_with"]
    if cohort.statistics is None:
        return pd.DataFrame(columns=columns)
    return cohort.statistics.reindex(columns=columns)  # modes that were not taken are NaN


def identities_of_maps(stored: pd.DataFrame, judgement: Judged) -> dict[str, str]:
    """What the maps of each session were made from, of all that have maps and count; by `VALUES` of them."""
    is_good = (stored["status"] != Status.FAILED) | stored["session"].isin(judgement.accepted)
    has_maps = (stored["checkpoint_digest"] != "") & is_good & ~stored["session"].isin(list(judgement.left_out))
    return {str(row["session"]): maps_identity(row) for row in records(stored.loc[has_maps, ["session", *VALUES]])}


def up_to_date(table: pd.DataFrame, made: Mapping[str, str], stored: pd.DataFrame) -> pd.DataFrame:
    """Rows of the stored statistics that are of maps as they are now, of sessions in the groups where they lie now."""
    groups = dict(zip(stored["session"], stored["group"], strict=True))
    is_current = (table["session"].map(made) == table["made_with"]) & (table["session"].map(groups) == table["group"])
    return table[table["session"].isin(set(table.loc[is_current, "session"]))]


def tables_of(
    statistics: pd.DataFrame, *, left_out: Collection[str] = frozenset(), levels: pd.DataFrame | None = None
) -> AggregateResult:
    """Group and variation tables from the statistics per session.

    Sessions that are ``left_out`` keep their rows of their own, and count in no group: their scales are none of it.
    ``levels`` is `flows.calibration.tables.levels_table`; without it what is imposed is not known.
    """
    groups, variation = [], []
    pooled = statistics[~statistics["session"].isin(list(left_out))]
    for (tissue, name), of_map in pooled.groupby(["tissue", "map"], sort=True):
        start = {"tissue": tissue, "map": name}
        figures = of_map.reindex(columns=["median", "mode", "determined"]).astype(float)
        by_group = [(group, figures.loc[members]) for group, members in of_map.groupby("group").groups.items()]
        for group, members in by_group:
            medians, modes = Moments.of(members["median"]), Moments.of(members["mode"])
            groups.append(
                {
                    "group": group,
                    **start,
                    "n_sessions": medians.count,
                    **_of("medians", medians),
                    **_of("modes", modes),
                    "determined": float(members["determined"].mean()),
                }
            )
        of_medians = inter_group_variation([list(members["median"]) for _, members in by_group])
        of_modes = inter_group_variation([list(members["mode"]) for _, members in by_group])
        means = {str(group): Moments.of(members["median"]).mean for group, members in by_group}
        variation.append(
            {
                **start,
                **asdict(of_medians),
                "cov_of_modes": of_modes.cov,
                **unseen_of(str(tissue), str(name), means, levels),
            }
        )
    in_groups = [f"{figure}_of_{values}" for values in ("medians", "modes") for figure in ("mean", "sd")]
    return AggregateResult(
        sessions=statistics,
        groups=pd.DataFrame(
            groups, columns=["group", "tissue", "map", "n_sessions", *in_groups, "determined"]
        ).sort_values(["group", "tissue", "map"], ignore_index=True),
        variation=pd.DataFrame(
            variation,
            columns=["tissue", "map", "n_groups", "mean", "sd", "cov", "cov_of_modes", "cov_imposed", "cov_error"],
        ),
    )


def _of(values: str, moments: Moments) -> dict[str, float]:
    """Mean and standard deviation over the sessions of a group."""
    mean = moments.mean if moments.count else float("nan")
    return {f"mean_of_{values}": mean, f"sd_of_{values}": moments.standard_deviation()}


def asdict_frames(result: AggregateResult) -> dict[str, pd.DataFrame]:
    """The tables by name."""
    return {"sessions": result.sessions, "groups": result.groups, "variation": result.variation}
