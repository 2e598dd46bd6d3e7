"""Tables of an evaluation from the rows of its sessions: small values that add up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pandas as pd

from flows.evaluation.voxels import MODES, NETWORK, NULL, RECIPE, VOXELWISE
from qmri_core.evaluation.with_truth import LESION, NORMAL, contrast_ratio, null_values
from qmri_core.statistics import JointMoments, agreement, inter_group_variation

Row = Mapping[str, Any]
QUANTITIES = {"T1map": "T1", "T2map": "T2", "PDmap": "PD"}


def tissue_table(
    statistics: pd.DataFrame,
    true: pd.DataFrame,
    field_strengths: Mapping[str, float],
    others: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """One row per tissue as segmented, map and model, with n_sessions and the columns of `paired_figures`.

    ``determined`` is the share of what people differ by that signals determine, on average; NaN where not known.

    Parameters
    ----------
    statistics
        Stored medians and modes, of the network: session, group, tissue, map, median, mode; and determined.
    true
        Session, and the true median of each tissue and quantity, such as ``WM_T1_median``.
    field_strengths
        Tesla, by session: the null model is that of its field strength.
    others
        Medians of models beside the network and the null model, with the column ``model``.
    """
    rows = []
    columns = ["session", "group", "tissue", "map", "median"]
    stored = statistics[columns]
    by_model = {NETWORK: stored, MODES: statistics[[*columns[:-1], "mode"]].rename(columns={"mode": "median"})}
    if others is not None and not others.empty:
        by_model |= {model: others[others["model"] == model] for model in (VOXELWISE, RECIPE)}
    for (tissue, name), members in stored.groupby(["tissue", "map"], sort=True):
        quantity = QUANTITIES[str(name)]
        known = true[["session", f"{tissue}_{quantity}_median"]].rename(columns={f"{tissue}_{quantity}_median": "true"})
        constant = members[np.isfinite(members["median"])]
        fields = constant["session"].map(lambda session: field_strengths[str(session)])
        null = {field: null_values(field)[str(tissue)][str(name)] for field in fields.unique()}
        determined = float(statistics.reindex(columns=["determined"]).loc[constant.index, "determined"].mean())
        constant = constant.assign(median=fields.map(null))
        for model, medians in {**by_model, NULL: constant}.items():
            of_map = medians[(medians["tissue"] == tissue) & (medians["map"] == name)]
            pairs = of_map[columns].rename(columns={"median": "estimated"}).merge(known, on="session")
            pairs = pairs[np.isfinite(pairs["estimated"]) & np.isfinite(pairs["true"])]
            if not pairs.empty:
                figures = {"n_sessions": len(pairs), **paired_figures(pairs), "determined": determined}
                rows.append({"tissue": tissue, "map": name, "model": model, **figures})
    return pd.DataFrame(rows)


def voxel_table(rows: Iterable[Row]) -> pd.DataFrame:
    """One row per model, tissue and map.

    n_sessions, n (voxels); median_error and bias: medians over sessions; ccc: over all voxels of all sessions;
    within_r: the median over sessions of the correlation within the session's tissue; within_one and within_two:
    share of all voxels whose truth lies within one and two stated standard deviations, NaN where none is stated.
    """

    def figures(members: list[Row]) -> dict[str, object]:
        moments = [JointMoments(**row["moments"]) for row in members]
        counts = np.asarray([row["n"] for row in members], dtype=np.float64)
        shares = {
            name: float(np.average([row[name] for row in members], weights=counts))
            for name in ("within_one", "within_two")
        }
        return {
            "n_sessions": len(members),
            "n": int(counts.sum()),
            "median_error": finite_median(row["median_error"] for row in members),
            "bias": finite_median(row["bias"] for row in members),
            "ccc": reduce(add, moments, JointMoments()).ccc,
            "within_r": finite_median(each.r for each in moments),
            **shares,
        }

    return table_by([row for row in rows if row["n"]], ("model", "tissue", "map"), figures)


def region_table(rows: Iterable[Row]) -> pd.DataFrame:
    """One row per model, region and map, from the medians of each session's region; see `paired_figures`."""
    used = [row for row in rows if np.isfinite(row["estimated"]) and np.isfinite(row["true"])]
    return table_by(
        used,
        ("model", "region", "map"),
        lambda members: {"n_sessions": len(members), **paired_figures(pd.DataFrame(members))},
    )


def paired_figures(pairs: pd.DataFrame) -> dict[str, float]:
    """How the columns ``estimated`` and ``true`` of sessions go together, by ``group``.

    bias: mean relative error; slope and r of estimated on true, each group centred on its own mean, so that differences
    between groups cannot pass for differences between people; cov between groups of the estimated values and true_cov
    of the true ones. Where every person was scanned in every group, differences between people cancel in the last two.
    """
    estimated, true = pairs["estimated"].to_numpy(), pairs["true"].to_numpy()
    groups = pairs.groupby("group")
    centred = (pairs[["estimated", "true"]] - groups[["estimated", "true"]].transform("mean"))[
        groups["true"].transform("size") > 1
    ]
    within = agreement(centred["estimated"].to_numpy(), centred["true"].to_numpy())
    return {
        "bias": agreement(estimated, true).bias,
        "slope": within.slope,
        "r": within.r,
        "cov": inter_group_variation([list(g["estimated"]) for _, g in groups]).cov,
        "true_cov": inter_group_variation([list(g["true"]) for _, g in groups]).cov,
    }


def lesion_table(rows: Iterable[Row]) -> pd.DataFrame:
    """Contrast of lesions to normal white matter, estimated over true: the median over sessions, by model and map."""
    sessions: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        sessions.setdefault((row["model"], row["map"], row["session"]), {})[row["region"]] = row
    ratios: list[Row] = [
        {
            "model": model,
            "map": name,
            "ratio": contrast_ratio(_medians(regions, "estimated"), _medians(regions, "true"), LESION, NORMAL),
        }
        for (model, name, _), regions in sessions.items()
    ]
    return table_by(
        [row for row in ratios if np.isfinite(row["ratio"])],
        ("model", "map"),
        lambda members: {"n_sessions": len(members), "ratio": finite_median(row["ratio"] for row in members)},
    )


def reproducibility_table(rows: Iterable[Row]) -> pd.DataFrame:
    """Agreement of two sessions of one person, by voxels, model, kind of pair and map: medians over pairs."""

    def figures(members: list[Row]) -> dict[str, object]:
        moments = [JointMoments(**row["moments"]) for row in members]
        return {
            "n_pairs": len(members),
            "r": finite_median(each.r for each in moments),
            "ccc": finite_median(each.ccc for each in moments),
            "difference": finite_median(row["difference"] for row in members),
        }

    return table_by(list(rows), ("voxels", "model", "pair", "map"), figures)


def _medians(regions: Mapping[str, Row], of: str) -> dict[str, float]:
    return {name: float(row[of]) for name, row in regions.items()}


def table_by(
    rows: Sequence[Row], keys: tuple[str, ...], figures: Callable[[list[Row]], Mapping[str, object]]
) -> pd.DataFrame:
    """One row per different values of ``keys``, in the order of their first row, with the figures of its members."""
    members: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        members.setdefault(tuple(str(row[key]) for key in keys), []).append(row)
    return pd.DataFrame([{**dict(zip(keys, key, strict=True)), **figures(each)} for key, each in members.items()])


def finite_median(values: Iterable[float]) -> float:
    """Median of the values that are known; NaN without any."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.median(finite)) if finite else float("nan")
