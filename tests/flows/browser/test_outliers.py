"""Planted trouble is in the top rows, deviations are right, and sentences say why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from flows.browser.figure_list import figure_list
from flows.browser.figures import Figures, Group
from flows.browser.outliers import PER_MARK, POOLED_WEIGHT, TO_SIGMA, distances, evidence, outliers
from flows.browser.view import View
from storage.store.cohort import Cohort
from tests.flows.browser.cohorts import Planted


def figures(values: dict[str, list[float]], **columns: list[object]) -> Figures:
    """Sessions with some figures; all others are not known."""
    n = len(next(iter(values.values())))
    listed = figure_list()
    unknown = {figure.name: [np.nan] * n for figure in listed}
    texts = dict.fromkeys(("quality_marks", "reason", "remarks"), [""] * n)
    rows = pd.DataFrame(
        {
            "session": [f"ses-{k:012x}" for k in range(n)],
            "group": ["a/b"] * n,
            "label": ["A-1"] * n,
            "status": ["complete"] * n,
            "counts": [True] * n,
            **texts,
            **unknown,
            **values,
            **columns,
        }
    )
    return Figures(rows=rows, figures=listed, groups=(Group(key="a/b", label="A-1", n=n, n_counting=n),), lacking=0)


def test_all_planted_sessions_are_in_the_top_rows(planted: Planted) -> None:
    found = View(Cohort.open(planted.store)).outliers
    top = [one.session for one in found[:8]]
    assert set(top) >= set(planted.bad)
    people = Cohort.open(planted.store).catalogue.set_index("session")["person"]
    assert len({people[session] for session in top if session not in planted.bad}) == 1  # with an unusual brain, thrice
    why = {one.session: one.sentence for one in found}
    assert "WM T1, median" in why[planted.bad[0]]
    assert "above its group" in why[planted.bad[0]]
    assert "T2w SNR" in why[planted.bad[1]]
    assert "below its group" in why[planted.bad[1]]
    assert why[planted.bad[2]].startswith("Marked FLAIR ghosts")
    assert "Alignment residual" in why[planted.bad[3]]
    assert why[planted.bad[4]].startswith("Failed: closure")


def test_a_deviation_is_that_of_the_formula() -> None:
    values = [10.0, 11.0, 9.0, 10.5, 9.5, 10.2, 20.0]
    off = distances(figures({"T1w_snr": values}))["T1w_snr"].to_numpy()
    logs = [float(np.log(value)) for value in values]
    median = sorted(logs)[3]
    deviation = 1.4826 * sorted(abs(log - median) for log in logs)[3]
    # one group: its own deviation and that of all groups are the same
    np.testing.assert_allclose(off, [(log - median) / deviation for log in logs], rtol=1e-9)
    assert pytest.approx(1.4826) == TO_SIGMA


def test_small_groups_borrow_the_spread_of_all() -> None:
    rng = np.random.default_rng(3)
    large, small = np.exp(0.1 * rng.standard_normal(400)), np.exp(0.001 * rng.standard_normal(4))
    data = figures({"T1w_snr": [*large, *small]})
    data = replace(data, rows=data.rows.assign(group=["a/b"] * 400 + ["c/d"] * 4))
    off = distances(data)["T1w_snr"].to_numpy()[400:]
    alone = 0.001 / (0.1 * np.sqrt(POOLED_WEIGHT / (POOLED_WEIGHT + 4)))
    assert np.abs(off).max() < 4 * alone


def test_who_does_not_count_is_compared_and_moves_nobody() -> None:
    values = [10.0, 11.0, 9.0, 10.5, 9.5, 10.2]
    alone = distances(figures({"T1w_snr": values}))["T1w_snr"].to_numpy()
    with_other = distances(figures({"T1w_snr": [*values, 100.0]}, counts=[True] * 6 + [False]))["T1w_snr"].to_numpy()
    np.testing.assert_allclose(with_other[:6], alone)
    assert with_other[6] > 10


def test_figures_that_are_all_equal_have_no_outliers() -> None:
    found = outliers(figures({"coverage": [1.0] * 8}))
    assert {one.score for one in found} == {0.0}
    assert {one.sentence for one in found} == {"Nothing is far from its group."}


def test_what_checks_found_counts_beside_figures() -> None:
    data = figures(
        {"T1w_snr": [10.0, 11.0, 9.0, 10.5]},
        quality_marks=["", "T2w_scale,signals", "", ""],
        remarks=["", "", '[["widened","x"],["widened","y"]]', ""],
    )
    by_name = {one.session[-1]: one for one in outliers(data)}
    assert by_name["1"].score == pytest.approx(by_name["1"].distance + 2 * PER_MARK, abs=0.02)
    assert by_name["2"].score == pytest.approx(by_name["2"].distance + PER_MARK, abs=0.02)
    assert evidence({"quality_marks": "", "status": "failed", "reason": "read_error", "remarks": ""}) == [
        "failed: read error"
    ]
