"""Tables of an evaluation from rows whose figures are known in advance."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flows.evaluation.tables import lesion_table, region_table, reproducibility_table, tissue_table, voxel_table
from flows.evaluation.voxels import NULL
from flows.tables.text import detail_tables, text_table
from qmri_core.calibration.population import population
from qmri_core.statistics import JointMoments

TRUE = {"a": 0.80, "b": 0.90}


def voxels(true: np.ndarray, estimated: np.ndarray, **more: Any) -> dict[str, Any]:
    return {
        "model": "network", "tissue": "WM", "map": "T1map", "n": true.size, "median_error": 0.1, "bias": 0.0,
        "within_one": 0.7, "within_two": 0.9, "moments": asdict(JointMoments.of(true, estimated)), **more,
    }  # fmt: skip


def region(session: str, group: str, true: float, estimated: float, name: str = "wm") -> dict[str, Any]:
    return {
        "session": session, "group": group, "model": "network", "map": "T1map", "region": name, "true": true,
        "estimated": estimated,
    }  # fmt: skip


def test_voxels_are_pooled_and_correlations_are_taken_within_sessions() -> None:
    true = np.array([0.8, 0.9, 1.0])
    flat = voxels(true, np.full(3, 0.9), within_one=1.0, n=1)
    row = voxel_table([voxels(true, true), voxels(true + 1, true + 1), flat]).iloc[0]
    assert (row["n_sessions"], row["n"]) == (3, 7)
    assert row["within_one"] == pytest.approx((6 * 0.7 + 1.0) / 7)
    assert row["within_r"] == pytest.approx(1.0)  # the flat session has no correlation; the median is of the others
    x, y = np.concatenate([true, true + 1, true]), np.concatenate([true, true + 1, np.full(3, 0.9)])
    expected = 2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert row["ccc"] == pytest.approx(expected)
    assert voxel_table([voxels(true, true, n=0)]).empty


def test_groups_that_read_differently_vary_although_people_keep_their_order() -> None:
    rows = [
        region(f"{person}{group}", group, true, gain * true)
        for group, gain in (("g", 1.0), ("h", 1.1))
        for person, true in TRUE.items()
    ]
    row = region_table([*rows, region("c", "g", float("nan"), 1.0)]).iloc[0]
    assert row["n_sessions"] == 4
    assert row["bias"] == pytest.approx(0.05)
    assert row["slope"] == pytest.approx(1.05)
    assert row["true_cov"] == pytest.approx(0.0, abs=1e-12)
    assert row["cov"] == pytest.approx(np.std([0.85, 0.935], ddof=1) / np.mean([0.85, 0.935]))


def test_a_lesion_that_is_half_as_bright_counts_as_half() -> None:
    rows = [
        region("s", "g", 0.8, 0.8), region("s", "g", 1.4, 1.1, "lesion"),
        region("t", "g", 0.8, 0.8), region("t", "g", float("nan"), float("nan"), "lesion"),
    ]  # fmt: skip
    row = lesion_table(rows).iloc[0]
    assert (row["n_sessions"], row["ratio"]) == (1, pytest.approx(0.5))


def test_pairs_of_scans_are_told_apart_by_whether_the_scanner_was_the_same() -> None:
    x = np.array([1.0, 2.0, 3.0])
    rows = [
        {
            "voxels": voxels,
            "model": model,
            "pair": pair,
            "map": "T1map",
            "difference": difference,
            "moments": asdict(JointMoments.of(x, x + difference)),
        }
        for voxels, model, pair, difference in (
            ("of the truth", "network", "two groups", 0.1),
            ("of the truth", "network", "two groups", 0.3),
            ("of the truth", "network", "same group", 0.0),
            ("of the truth", "null model", "two groups", 0.0),
            ("of both sessions", "network", "two groups", 0.05),
        )
    ]
    by_voxels = reproducibility_table(rows).set_index(["voxels", "model", "pair"])
    assert by_voxels.loc[("of both sessions", "network", "two groups"), "difference"] == pytest.approx(0.05)
    table = by_voxels.loc["of the truth"]
    assert table.loc[("network", "two groups"), "n_pairs"] == 2
    assert table.loc[("network", "two groups"), "difference"] == pytest.approx(0.2)
    assert table.loc[("network", "same group"), "ccc"] == pytest.approx(1.0)
    assert table.loc[("null model", "two groups"), "n_pairs"] == 1
    (_, header, shown), *_ = detail_tables({"pairs": reproducibility_table(rows)})
    assert header[:4] == ["voxels", "model", "pair", "map"]
    assert [row[1] for row in shown] == ["network", "network", "null model", "network"]


def test_people_read_percentages_and_empty_tables_are_left_out() -> None:
    rows = [region("s", "g", 0.8, 0.88), region("s", "g", 1.4, 1.1, "lesion")]
    tables = detail_tables({"voxels": voxel_table([]), "regions": region_table(rows), "lesions": lesion_table(rows)})
    assert [title.split()[0] for title, _, _ in tables] == ["Medians", "Contrast"]
    text = text_table(*tables[0][1:])
    assert "10.0 %" in text
    assert "network" in text


def test_the_null_model_is_that_of_each_session_s_field_strength() -> None:
    """Of a mixed cohort; the oracle is the population's own table."""
    names = ["a", "b", "c", "d"]
    fields = {"a": 3.0, "b": 2.89, "c": 1.5, "d": 1.494}
    statistics = pd.DataFrame(
        [
            {"session": name, "group": f"{fields[name]}", "tissue": "GM", "map": "T1map", "median": 1.3, "mode": 1.3}
            for name in names
        ]
    )
    true = pd.DataFrame({"session": names, "GM_T1_median": [1.40, 1.40, 1.19, 1.19]})
    table = tissue_table(statistics, true, fields).set_index("model")
    assert table.loc[NULL, "n_sessions"] == 4
    assert table.loc[NULL, "bias"] == pytest.approx(0)
    for field_strength in (1.5, 3.0):
        few = {name for name in names if abs(fields[name] - field_strength) < 0.2}
        only = tissue_table(statistics[statistics["session"].isin(few)], true.assign(GM_T1_median=1.0), fields)
        bias = only.set_index("model").loc[NULL, "bias"]
        assert bias == pytest.approx(population(field_strength).grey_matter.t1 - 1)
