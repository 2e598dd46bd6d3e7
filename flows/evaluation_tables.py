"""Tables of an evaluation from the rows of its sessions: small values that add up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pandas as pd

from qmri_core.evaluation import LESION, NORMAL, contrast_ratio
from qmri_core.statistics import JointMoments, agreement, inter_group_variation

Row = Mapping[str, Any]


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
            "median_error": _median(row["median_error"] for row in members),
            "bias": _median(row["bias"] for row in members),
            "ccc": reduce(add, moments, JointMoments()).ccc,
            "within_r": _median(each.r for each in moments),
            **shares,
        }

    return _table([row for row in rows if row["n"]], ("model", "tissue", "map"), figures)


def region_table(rows: Iterable[Row]) -> pd.DataFrame:
    """One row per model, region and map, from the medians of each session's region; see `paired_figures`."""
    used = [row for row in rows if np.isfinite(row["estimated"]) and np.isfinite(row["true"])]
    return _table(
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
    return _table(
        [row for row in ratios if np.isfinite(row["ratio"])],
        ("model", "map"),
        lambda members: {"n_sessions": len(members), "ratio": _median(row["ratio"] for row in members)},
    )


def reproducibility_table(rows: Iterable[Row]) -> pd.DataFrame:
    """Agreement of two sessions of one person, by model, kind of pair and map: medians over pairs."""

    def figures(members: list[Row]) -> dict[str, object]:
        moments = [JointMoments(**row["moments"]) for row in members]
        return {
            "n_pairs": len(members),
            "r": _median(each.r for each in moments),
            "ccc": _median(each.ccc for each in moments),
            "difference": _median(row["difference"] for row in members),
        }

    return _table(list(rows), ("model", "pair", "map"), figures)


def _medians(regions: Mapping[str, Row], of: str) -> dict[str, float]:
    return {name: float(row[of]) for name, row in regions.items()}


def _table(
    rows: Sequence[Row], keys: tuple[str, ...], figures: Callable[[list[Row]], Mapping[str, object]]
) -> pd.DataFrame:
    members: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        members.setdefault(tuple(str(row[key]) for key in keys), []).append(row)
    return pd.DataFrame([{**dict(zip(keys, key, strict=True)), **figures(each)} for key, each in members.items()])


def _median(values: Iterable[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.median(finite)) if finite else float("nan")
