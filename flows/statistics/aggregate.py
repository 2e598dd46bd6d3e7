"""Aggregate: tissue statistics per session on workers; group and cohort statistics from those alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from flows.cluster.driver import required
from flows.maps.odd_sessions import marked_sessions
from flows.maps.staleness import maps_identity
from flows.progress import Progress, quiet
from flows.statistics.session import SummariseTask, summarise_session
from flows.tables.text import labels_of, records
from qmri_core.statistics import Moments, inter_group_variation
from storage.store.cohort import Cohort, latest
from storage.store.schema import Status
from storage.store.tables import write_table

if TYPE_CHECKING:
    from distributed import Client

    from storage.store.slots import Slot

KEYS = ["session", "group", "tissue", "map"]
_FIGURES = ["n", "mean", "sd", "median", "mode", "q05", "q25", "q75", "q95"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregateResult:
    """Tables of a cohort.

    ``sessions``: session, group, tissue, map and the fields of `qmri_core.statistics.TissueStatistics`. ``groups``:
    group, tissue, map, n_sessions, mean_of_medians, sd_of_medians (ddof 1), mean_of_modes, sd_of_modes. ``variation``:
    tissue, map, n_groups, mean, sd, cov over groups of the means of session medians, and cov_of_modes, of modes. T1map
    and T2map in seconds, PDmap relative to CSF. ``labels``: the store's label of each group.
    ``snapshot``: of the commit; None where nothing was written.
    """

    sessions: pd.DataFrame
    groups: pd.DataFrame
    variation: pd.DataFrame
    labels: Mapping[str, str] = field(default_factory=dict)
    snapshot: str | None = None


def aggregate(
    store: Cohort | str, *, client: Client, out: Path | None = None, progress: Progress = quiet
) -> AggregateResult:
    """Bring the statistics in the store up to date, and compute the tables of groups and variation.

    Only sessions whose maps have changed since their statistics were taken are read, or whose statistics were taken
    by a version that knew no modes.

    Parameters
    ----------
    out
        Folder for the three tables as CSV; optional.

    Raises
    ------
    StoreError
        If there is no store, or the maps of a session cannot be read.
    ClusterError, StorageFaultError
        If the workers or the storage fail: run it again.
    """
    cohort = latest(store)
    made = identities_of_maps(cohort.sessions)
    table = read_statistics(cohort)
    lacking = table["mode"].isna() & (table["n"] > 0)
    kept = up_to_date(table[~table["session"].isin(table.loc[lacking, "session"])], made, cohort.slots)
    due = sorted(set(made) - set(kept["session"]))
    tasks = [SummariseTask(cohort=cohort, slot=cohort.slots[name]) for name in due]
    failure = "statistics of its maps could not be taken"
    rows = [
        {**row, "made_with": made[task.slot.session]}
        for task, outcome in required(
            client, summarise_session, tasks, name="aggregate", failure=failure, progress=progress
        )
        for row in outcome.rows
    ]
    snapshot = None
    if rows or len(kept) != len(table):
        table = pd.concat([kept, pd.DataFrame(rows, columns=table.columns)], ignore_index=True) if rows else kept
        table = table.sort_values(["group", "session", "map", "tissue"], ignore_index=True)
        with cohort.writing() as repository:
            snapshot = write_table(
                repository,
                "statistics",
                xr.Dataset({name: ("row", table[name].to_numpy()) for name in table.columns}),
                message=f"Aggregate {len(rows) // 9} sessions",
                metadata={"run": "aggregate"},
            )
    result_tables = tables_of(table[[*KEYS, *_FIGURES]], left_out=marked_sessions(cohort.sessions))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, frame in asdict_frames(result_tables).items():
            frame.to_csv(out / f"{name}.csv", index=False)
    labels = labels_of(result_tables.groups["group"], cohort.labels)
    return replace(result_tables, labels=labels, snapshot=snapshot)


def read_statistics(cohort: Cohort) -> pd.DataFrame:
    """Stored statistics: one row per session, tissue and map; ``made_with`` says of which maps."""
    columns = [*KEYS, *_FIGURES, "made_with"]
    if cohort.statistics is None:
        return pd.DataFrame(columns=columns)
    return cohort.statistics.reindex(columns=columns)  # modes that were not taken are NaN


def identities_of_maps(stored: pd.DataFrame) -> dict[str, str]:
    """What the maps of each session were made from, of all stored sessions that have maps."""
    has_maps = (stored["checkpoint_digest"] != "") & (stored["status"] != Status.FAILED)
    return {str(row["session"]): maps_identity(row) for row in records(stored[has_maps])}


def up_to_date(table: pd.DataFrame, made: Mapping[str, str], places: Mapping[str, Slot]) -> pd.DataFrame:
    """Rows of the stored statistics that are of maps as they are now."""
    current = {
        str(row["session"])
        for row in records(table)
        if made.get(str(row["session"])) == row["made_with"] and row["group"] == places[str(row["session"])].group
    }
    return table[table["session"].isin(current)]


def tables_of(statistics: pd.DataFrame, *, left_out: Collection[str] = frozenset()) -> AggregateResult:
    """Group and variation tables from the statistics per session.

    Sessions that are ``left_out`` keep their rows of their own, and count in no group: their scales are none of it.
    """
    groups, variation = [], []
    pooled = statistics[~statistics["session"].isin(list(left_out))]
    for (tissue, name), of_map in pooled.groupby(["tissue", "map"], sort=True):
        start = {"tissue": tissue, "map": name}
        by_group = [
            (group, members.astype({"median": float, "mode": float})) for group, members in of_map.groupby("group")
        ]
        for group, members in by_group:
            medians, modes = Moments.of(members["median"]), Moments.of(members["mode"])
            groups.append(
                {"group": group, **start, "n_sessions": medians.count, **_of("medians", medians), **_of("modes", modes)}
            )
        of_medians = inter_group_variation([list(members["median"]) for _, members in by_group])
        of_modes = inter_group_variation([list(members["mode"]) for _, members in by_group])
        variation.append({**start, **asdict(of_medians), "cov_of_modes": of_modes.cov})
    in_groups = [f"{figure}_of_{values}" for values in ("medians", "modes") for figure in ("mean", "sd")]
    return AggregateResult(
        sessions=statistics,
        groups=pd.DataFrame(groups, columns=["group", "tissue", "map", "n_sessions", *in_groups]).sort_values(
            ["group", "tissue", "map"], ignore_index=True
        ),
        variation=pd.DataFrame(variation, columns=["tissue", "map", "n_groups", "mean", "sd", "cov", "cov_of_modes"]),
    )


def _of(values: str, moments: Moments) -> dict[str, float]:
    """Mean and standard deviation over the sessions of a group."""
    mean = moments.mean if moments.count else float("nan")
    return {f"mean_of_{values}": mean, f"sd_of_{values}": moments.standard_deviation()}


def asdict_frames(result: AggregateResult) -> dict[str, pd.DataFrame]:
    """The tables by name."""
    return {"sessions": result.sessions, "groups": result.groups, "variation": result.variation}
