"""Evaluate: what the stored statistics say against the truth of a simulated cohort, beside the null model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from flows.aggregate import read_statistics
from qmri_core.population import population
from qmri_core.statistics import agreement, inter_group_variation
from storage.repository import StoreError

QUANTITIES = {"T1map": "T1", "T2map": "T2", "PDmap": "PD"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateResult:
    """``table``: one row per tissue, map and model (network, null model).

    n_sessions; bias (mean relative error of session medians); slope and r of estimated on true session medians, each
    group centred on its own mean; cov between groups of the estimated medians; true_cov of the true ones.
    """

    table: pd.DataFrame


def evaluate(store: str, truth: Path, linkage: Path, *, out: Path | None = None) -> EvaluateResult:
    """Compare tissue medians per session with the truth.

    The null model paints literature constants: its variation between groups is 0 by construction, and so is its slope.
    Slopes are pooled within groups, so that differences between groups cannot pass for differences between people;
    a group of one session says nothing of them.
    True medians are over voxels of which at least 95 % is one tissue; estimated ones over the tissue as segmented.

    Raises
    ------
    StoreError
        If no stored session has a truth.
    ValueError
        If the truth or the linkage table is missing.
    """
    statistics = read_statistics(store)
    if not (truth / "sessions.csv").is_file():
        raise ValueError(f"{truth}: holds no truth (sessions.csv); give the folder that `qmri simulate` wrote")
    if not linkage.is_file():
        raise ValueError(f"{linkage}: no such linkage table; give the one that `qmri ingest --linkage` wrote")
    links = pd.read_csv(linkage, dtype=str)[["session", "study_instance_uid"]]
    true = pd.read_csv(truth / "sessions.csv", dtype={"patient_id": str, "study_instance_uid": str})
    true = true.merge(links, on="study_instance_uid")
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
            rows.append({"tissue": tissue, "map": name, "model": model, **_figures(pairs.assign(estimated=estimated))})
    if not rows:
        raise StoreError("no stored session with maps has a row in the truth; is it the truth of this cohort?")
    result = EvaluateResult(table=pd.DataFrame(rows))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        result.table.to_csv(out / "evaluation.csv", index=False)
        (out / "evaluation.json").write_text(json.dumps(rows, indent=1, default=str))
    return result


def _figures(pairs: pd.DataFrame) -> dict[str, float]:
    estimated, true = pairs["estimated"].to_numpy(), pairs["true"].to_numpy()
    groups = pairs.groupby("group")
    centred = (pairs[["estimated", "true"]] - groups[["estimated", "true"]].transform("mean"))[
        groups["true"].transform("size") > 1
    ]
    within = agreement(centred["estimated"].to_numpy(), centred["true"].to_numpy())
    return {
        "n_sessions": len(pairs),
        "bias": agreement(estimated, true).bias,
        "slope": within.slope,
        "r": within.r,
        "cov": inter_group_variation([list(g["estimated"]) for _, g in groups]).cov,
        "true_cov": inter_group_variation([list(g["true"]) for _, g in groups]).cov,
    }


def _constant(tissue: str, quantity: str) -> float:
    values = population(3.0)
    member = {"WM": values.white_matter, "GM": values.grey_matter, "CSF": values.csf}[tissue]
    return float(getattr(member, quantity.lower()))
