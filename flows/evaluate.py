"""Evaluate: the maps of a simulated cohort against the truth, beside the null model and the voxelwise estimate."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from flows.aggregate import read_statistics
from flows.clusters import run_bounded
from flows.evaluation_tables import lesion_table, paired_figures, region_table, reproducibility_table, voxel_table
from flows.progress import Progress, quiet
from flows.stages import Outcome
from flows.tables import records
from flows.voxel_evaluation import EvaluationTask, evaluate_pair, evaluate_session, pairs_of
from qmri_core.population import population
from storage.acquisitions import acquisitions_of
from storage.cohort import sessions, slots
from storage.locations import absolute
from storage.repository import StoreError
from storage.schema import Status

if TYPE_CHECKING:
    from distributed import Client

QUANTITIES = {"T1map": "T1", "T2map": "T2", "PDmap": "PD"}
DETAILS = ("voxels", "regions", "lesions", "pairs")
"""Tables of an evaluation that compares voxels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateResult:
    """Tables of an evaluation.

    ``table``: medians of the tissues as segmented, one row per tissue, map and model (network, null model), with
    n_sessions and the columns of `flows.evaluation_tables.paired_figures`. ``voxels``, ``regions``, ``lesions`` and
    ``pairs``: see the functions of that module; empty unless they were asked for.
    """

    table: pd.DataFrame
    voxels: pd.DataFrame = field(default_factory=pd.DataFrame)
    regions: pd.DataFrame = field(default_factory=pd.DataFrame)
    lesions: pd.DataFrame = field(default_factory=pd.DataFrame)
    pairs: pd.DataFrame = field(default_factory=pd.DataFrame)


def evaluate(
    store: str,
    truth: Path,
    linkage: Path,
    *,
    client: Client | None = None,
    out: Path | None = None,
    progress: Progress = quiet,
) -> EvaluateResult:
    """Compare the maps of a simulated cohort with the truth.

    The null model paints literature constants: its variation between groups is 0 by construction, and so is its slope.
    True medians of tissues are over voxels of which at least 95 % is one tissue; estimated ones over the tissue as
    segmented.

    Parameters
    ----------
    client
        Workers that compare voxels, regions and pairs of sessions; without one only medians of tissues are compared.
    out
        Folder for the tables as CSV, and all of them as JSON.

    Raises
    ------
    StoreError
        If no stored session has a truth, or a session cannot be compared.
    ValueError
        If the truth or the linkage table is missing.
    """
    statistics = read_statistics(store)
    if not (truth / "sessions.csv").is_file():
        raise ValueError(f"{truth}: holds no truth (sessions.csv); give the folder that `qmri simulate` wrote")
    if not linkage.is_file():
        raise ValueError(f"{linkage}: no such linkage table; give the one that `qmri ingest --linkage` wrote")
    links = pd.read_csv(linkage, dtype=str)[["session", "study_instance_uid"]]
    known = {"patient_id": str, "study_instance_uid": str, "subject": str}
    true = pd.read_csv(truth / "sessions.csv", dtype=known).merge(links, on="study_instance_uid")
    medians = _medians(statistics, true)
    if medians.empty:
        raise StoreError("no stored session with maps has a row in the truth; is it the truth of this cohort?")
    result = EvaluateResult(table=medians)
    if client is not None:
        result = replace(result, **_by_voxels(store, truth, true, client, progress))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        tables = {"evaluation": result.table} | {name: getattr(result, name) for name in DETAILS}
        for name, table in tables.items():
            if not table.empty:
                table.to_csv(out / f"{name}.csv", index=False)
        text = json.dumps({name: records(table) for name, table in tables.items()}, indent=1, default=str)
        (out / "evaluation.json").write_text(text)
    return result


def _medians(statistics: pd.DataFrame, true: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (tissue, name), members in statistics.groupby(["tissue", "map"], sort=True):
        quantity = QUANTITIES[str(name)]
        pairs = members[["session", "group", "median"]].merge(
            true[["session", f"{tissue}_{quantity}_median"]].rename(columns={f"{tissue}_{quantity}_median": "true"}),
            on="session",
        )
        pairs = pairs[np.isfinite(pairs["median"]) & np.isfinite(pairs["true"])]
        if pairs.empty:
            continue
        constant = _constant(str(tissue), quantity)
        for model, estimated in (("network", pairs["median"]), ("null model", pd.Series(constant, index=pairs.index))):
            figures = {"n_sessions": len(pairs), **paired_figures(pairs.assign(estimated=estimated))}
            rows.append({"tissue": tissue, "map": name, "model": model, **figures})
    return pd.DataFrame(rows)


def _by_voxels(
    store: str, truth: Path, true: pd.DataFrame, client: Client, progress: Progress
) -> dict[str, pd.DataFrame]:
    stored = {str(row["session"]): row for row in records(sessions(store)) if row["checkpoint_digest"]}
    places = slots(store)
    tasks = []
    for row in records(true.sort_values(["subject", "folder"])):
        if (record := stored.get(str(row["session"]))) is None:
            continue
        acquisitions = acquisitions_of(record)
        tasks.append(
            EvaluationTask(
                location=absolute(store),
                slot=places[str(row["session"])],
                subject=str(row["subject"]),
                truth=truth.resolve() / str(row["folder"]),
                acquisitions=acquisitions,
                scales={contrast: float(record[f"{contrast}_scale"]) for contrast in acquisitions},
            )
        )
    of_sessions = run_bounded(client, evaluate_session, tasks, progress=progress, text="evaluate")
    compared = _rows(of_sessions)
    of_pairs = run_bounded(client, evaluate_pair, pairs_of(tasks), progress=progress, text="pairs of sessions")
    pairs = _rows(of_pairs)
    regions = [row for row in compared if row["kind"] == "regions"]
    return {
        "voxels": voxel_table(row for row in compared if row["kind"] == "voxels"),
        "regions": region_table(regions),
        "lesions": lesion_table(regions),
        "pairs": reproducibility_table(pairs),
    }


def _rows(results: Iterable[tuple[object, Outcome | BaseException]]) -> list[Mapping[str, object]]:
    rows: list[Mapping[str, object]] = []
    for _, result in results:
        if not isinstance(result, Outcome) or result.status is Status.FAILED:
            why = result.explanation if isinstance(result, Outcome) else type(result).__name__
            raise StoreError(f"a session could not be compared with its truth: {why}")
        rows += result.rows
    return rows


def _constant(tissue: str, quantity: str) -> float:
    values = population(3.0)
    member = {"WM": values.white_matter, "GM": values.grey_matter, "CSF": values.csf}[tissue]
    return float(getattr(member, quantity.lower()))
