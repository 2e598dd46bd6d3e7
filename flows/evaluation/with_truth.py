"""Evaluate: the maps of a simulated cohort against the truth, beside the null model and the voxelwise estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from flows.calibration.calibrate import acquisitions_of_maps, all_scales
from flows.cluster.driver import required
from flows.evaluation.levels import level_scores_table
from flows.evaluation.recipe import recipe_note, train_published_recipe
from flows.evaluation.rows import write_evaluation
from flows.evaluation.tables import lesion_table, region_table, reproducibility_table, tissue_table, voxel_table
from flows.evaluation.voxels import EvaluationTask, evaluate_pair, evaluate_session, pairs_of
from flows.progress import Progress, quiet
from flows.statistics.aggregate import read_statistics
from flows.tables.text import records
from storage.store.acquisitions import scales_of
from storage.store.cohort import Cohort, latest
from storage.store.decisions.effect import judge
from storage.store.repository import StoreError

if TYPE_CHECKING:
    from distributed import Client

DETAILS = ("levels", "voxels", "regions", "lesions", "pairs")
"""Tables of an evaluation beside that of medians; all but the first compare voxels."""
_FAILURE = "its maps could not be compared with their truth"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateResult:
    """Tables of an evaluation.

    ``table``: medians of the tissues as segmented, one row per tissue, map and model, with n_sessions and the columns
    of `flows.evaluation.tables.paired_figures`; models are network and null model, and those that workers compute.
    ``levels``: of groups, see `flows.evaluation.levels.level_scores_table`; the null model is one constant for all
    groups. ``voxels``, ``regions``, ``lesions`` and ``pairs``: see the functions of that module; empty without workers.
    ``medians``: what ``regions`` is made of, one row per session, model, map and region with the columns ``estimated``
    and ``true``. ``recipe``: record of the published recipe's training, empty if it was not asked for.
    """

    table: pd.DataFrame
    levels: pd.DataFrame = field(default_factory=pd.DataFrame)
    voxels: pd.DataFrame = field(default_factory=pd.DataFrame)
    regions: pd.DataFrame = field(default_factory=pd.DataFrame)
    lesions: pd.DataFrame = field(default_factory=pd.DataFrame)
    pairs: pd.DataFrame = field(default_factory=pd.DataFrame)
    medians: pd.DataFrame = field(default_factory=pd.DataFrame)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """What the published recipe's figures rest on; empty without it."""
        return recipe_note(self.recipe) if self.recipe else ""


def evaluate(
    store: Cohort | str,
    truth: Path,
    linkage: Path,
    *,
    client: Client | None = None,
    out: Path | None = None,
    published_recipe: float | None = None,
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
        Folder for the tables as CSV, all of them as JSON, and with workers a picture, ``evaluation.png``.
    published_recipe
        Minutes to train the published recipe for, on the stored images of the sessions that are compared, in this
        process: one more model in all tables. It needs workers.

    Raises
    ------
    StoreError
        If no stored session has a truth, or a session cannot be compared.
    ClusterError, StorageFaultError
        If the workers or the storage fail: run it again.
    ValueError
        If the truth or the linkage table is missing, or the published recipe is asked for without workers.
    """
    if published_recipe is not None and client is None:
        raise ValueError("the published recipe is compared by workers, and there is no client of a cluster")
    cohort = latest(store)
    statistics = read_statistics(cohort)
    true = _true_sessions(truth, linkage)
    stored = cohort.sessions.set_index("session")["magnetic_field_strength"]
    field_strengths = {str(name): float(value) for name, value in stored.items()}
    medians = tissue_table(statistics, true, field_strengths)
    if medians.empty:
        raise StoreError(
            "no session with statistics has a row in the truth: run qmri aggregate; is it the truth of this cohort?"
        )
    levels = level_scores_table(cohort, statistics, true)
    result = EvaluateResult(table=medians, levels=levels)
    if client is not None:
        tasks = evaluation_tasks(cohort, truth, true)
        recipe: dict[str, Any] = {}
        if published_recipe is not None:
            network, recipe = train_published_recipe(tasks, minutes=published_recipe, progress=progress)
            tasks = [replace(task, recipe=network) for task in tasks]
        of_workers = _by_voxels(tasks, client, progress)
        medians = tissue_table(statistics, true, field_strengths, of_workers.pop("tissues"))
        result = EvaluateResult(table=medians, levels=levels, recipe=recipe, **of_workers)
    if out is not None:
        _write(result, out, cohort.labels)
    return result


def _true_sessions(truth: Path, linkage: Path) -> pd.DataFrame:
    """Rows of the truth's ``sessions.csv``, with the pseudonym of each as ``session``."""
    if not (truth / "sessions.csv").is_file():
        raise ValueError(f"{truth}: holds no truth (sessions.csv); give the folder that `qmri simulate` wrote")
    if not linkage.is_file():
        raise ValueError(f"{linkage}: no such linkage table; give the one that `qmri ingest --linkage` wrote")
    links = pd.read_csv(linkage, dtype=str, encoding_errors="surrogateescape")[["session", "study_instance_uid"]]
    known = {"patient_id": str, "study_instance_uid": str, "subject": str}
    return pd.read_csv(truth / "sessions.csv", dtype=known).merge(links, on="study_instance_uid")


def _write(result: EvaluateResult, out: Path, labels: Mapping[str, str]) -> None:
    from flows.pictures.volumes import medians_picture

    write_evaluation(
        out,
        {"evaluation": result.table} | {name: getattr(result, name) for name in DETAILS},
        more={"published_recipe": {**result.recipe, "note": result.note}} if result.recipe else {},
        picture=None if result.medians.empty else medians_picture(result.medians, labels, result.note),
    )


def evaluation_tasks(cohort: Cohort, truth: Path, true: pd.DataFrame) -> list[EvaluationTask]:
    """Sessions with maps that count and can be compared, those of one person beside each other.

    Parameters
    ----------
    true
        Rows of the truth's ``sessions.csv``, with the pseudonym of each as ``session``.
    """
    left_out = judge(cohort).left_out
    stored = {
        name: row
        for row in records(cohort.sessions)
        if row["checkpoint_digest"] and (name := str(row["session"])) not in left_out
    }
    scales = all_scales(cohort)
    tasks = []
    for row in records(true.sort_values(["subject", "folder"])):
        if (record := stored.get(str(row["session"]))) is None:
            continue
        tasks.append(
            EvaluationTask(
                cohort=cohort,
                slot=cohort.slots[str(row["session"])],
                subject=str(row["subject"]),
                truth=truth.resolve() / str(row["folder"]),
                acquisitions=acquisitions_of_maps(record, scales),
                scales=scales_of(record),
            )
        )
    return tasks


def _by_voxels(tasks: Sequence[EvaluationTask], client: Client, progress: Progress) -> dict[str, pd.DataFrame]:
    compared = [
        row
        for _, outcome in required(
            client, evaluate_session, tasks, name="evaluate", failure=_FAILURE, progress=progress
        )
        for row in outcome.rows
    ]
    pairs = [
        row
        for _, outcome in required(
            client,
            evaluate_pair,
            pairs_of(tasks),
            name="pairs of sessions",
            failure=_FAILURE,
            session=lambda pair: pair[0].slot.session,
            progress=progress,
        )
        for row in outcome.rows
    ]
    regions = [row for row in compared if row["kind"] == "regions"]
    return {
        "voxels": voxel_table(row for row in compared if row["kind"] == "voxels"),
        "regions": region_table(regions),
        "lesions": lesion_table(regions),
        "pairs": reproducibility_table(pairs),
        "medians": pd.DataFrame(regions).drop(columns="kind", errors="ignore"),
        "tissues": pd.DataFrame([row for row in compared if row["kind"] == "tissues"]),
    }
