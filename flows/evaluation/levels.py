"""Levels of a simulated cohort's groups against the truth: as calibrated, in the maps, and one constant for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from flows.calibration.tables import levels_table
from flows.evaluation.tables import QUANTITIES
from flows.evaluation.voxels import MODES, NETWORK, NULL
from qmri_core.calibration.session_model import LEVELS
from qmri_core.evaluation.levels import YEARS, level_scores, slope_over_people
from qmri_core.evaluation.with_truth import null_values
from storage.store.cohort import Cohort

CALIBRATED = "levels"
"""What calibrations say of the people of each group, by the name that the table gives it."""


def level_scores_table(cohort: Cohort, statistics: pd.DataFrame, true: pd.DataFrame) -> pd.DataFrame:
    """One row per tissue, map and model, of groups that have statistics.

    Columns are those of `qmri_core.evaluation.levels.LevelScores`, deviations beside what all groups share, and
    ``ageing`` and ``true_ageing``: slopes with age over the people of a group, logs per `YEARS`.

    Parameters
    ----------
    statistics
        Stored medians and modes: session, group, tissue, map, median, mode.
    true
        Session, and the true median of each tissue and quantity, such as ``WM_T1_median``.
    """
    stored = cohort.sessions.set_index("session")
    levels = levels_table(cohort).set_index(["group", "tissue", "quantity"])
    rows = []
    for tissue, quantity in LEVELS:
        name = next(one for one, short in QUANTITIES.items() if short.lower() == quantity)
        column = f"{tissue}_{QUANTITIES[name]}_median"
        of_map = statistics[(statistics["tissue"] == tissue) & (statistics["map"] == name)]
        known = of_map.merge(true[["session", column]], on="session").rename(columns={column: "true"})
        known = known[(known[["median", "mode", "true"]] > 0).all(axis=1)]
        if known.empty:
            continue
        fields = known["session"].map(stored["magnetic_field_strength"]).astype(float)
        constants = {field: null_values(field)[tissue][name] for field in fields.unique()}
        logs = pd.DataFrame(
            {
                "group": known["group"],
                "age": known["session"].map(stored["age"]).astype(float),
                "true": np.log(known["true"]),
                NETWORK: np.log(known["median"].astype(float)),
                MODES: np.log(known["mode"].astype(float)),
                NULL: np.log(fields.map(constants)),
            }
        )
        of_groups = levels.loc[levels.index.isin([(group, tissue, quantity) for group in logs["group"].unique()])]
        of_groups = of_groups.droplevel(["tissue", "quantity"])
        rows += _of_models(logs, of_groups, {"tissue": tissue, "map": name})
    return pd.DataFrame(rows)


def _of_models(logs: pd.DataFrame, levels: pd.DataFrame, start: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows of one quantity; ``logs`` by session, ``levels`` by group, of those that have any."""
    means = logs.groupby("group").mean()
    members = [group for _, group in logs.groupby("group")]
    ages = [group["age"].to_numpy() for group in members]
    true_ageing = YEARS * slope_over_people([group["true"].to_numpy() for group in members], ages)
    rows = []
    for model in (CALIBRATED, NETWORK, MODES, NULL):
        if model == CALIBRATED:
            if set(levels.index) != set(means.index):  # a calibration of before levels
                continue
            estimated, ageing = means[NULL] + levels["level"].astype(float), float("nan")
        else:
            estimated = means[model]
            ageing = YEARS * slope_over_people([group[model].to_numpy() for group in members], ages)
        scores = level_scores(
            estimated.loc[means.index].to_numpy(),
            means["true"].to_numpy(),
            means["age"].to_numpy(),
            sd=levels.loc[means.index, "sd"].to_numpy(dtype=float) if model == CALIBRATED else None,
            is_shared=True,
        )
        rows.append({**start, "model": model, **asdict(scores), "ageing": ageing, "true_ageing": true_ageing})
    return rows
