"""Answers of `qmri compare` on simulated cohorts: planted effects, no effects, reliability, refusals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from distributed import Client
from scipy import stats

from flows.analysis.compare import Comparison, compare_table, comparison_rows, with_periods
from flows.pictures.effects import effects_picture
from qmri_core.analysis.design import ConfoundedError
from tests.flows.analysis.cohorts import values

PLANTED = {("WM", "T1map"): 0.03, ("GM", "T2map"): 0.05}


def answer(table: pd.DataFrame, factor: str = "factor", **options: str) -> Comparison:
    return compare_table(table, factor, ["age", "sex"], reference="control" if factor == "factor" else None, **options)


def test_planted_effects_are_found_where_they_are_and_nowhere_else() -> None:
    result = answer(values(np.random.default_rng(1), PLANTED, n_people=120))
    assert len(result.table) == 4
    for row in result.table.to_dict("records"):
        planted = PLANTED.get((row["region"], row["map"]), 0.0)
        assert row["low"] <= planted <= row["high"]
        assert (row["p_corrected"] < 0.05) == (planted > 0)
        assert row["p_corrected"] >= row["p"]


@pytest.mark.walk
def test_one_of_all_tests_is_false_no_more_often_than_stated() -> None:
    rng = np.random.default_rng(2)
    n_runs = 25
    false = [bool((answer(values(rng, n_people=40)).table["p_corrected"] < 0.05).any()) for _ in range(n_runs)]
    assert sum(false) <= stats.binom.ppf(0.999, n_runs, 0.05)


def test_the_reliability_stands_beside_each_difference() -> None:
    result = answer(values(np.random.default_rng(3), PLANTED))
    header, rows = comparison_rows(result)
    table = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    weak, strong = table["WM T1"], table["WM T2"]
    assert weak["difference"].startswith("(")  # 30 % determined
    assert not strong["difference"].startswith("(")
    assert (weak["determined"], weak["shown"]) == ("30.0 %", "60.0 %")
    assert (strong["determined"], strong["shown"]) == ("90.0 %", "100.0 %")
    of_white = result.table.set_index(["region", "map"]).loc[("WM", "T1map")]
    assert of_white["standardised_if_true"] == pytest.approx(of_white["standardised"] / 0.3**0.5)
    assert any("tell no people apart" in note for note in result.notes)


def test_visits_say_to_what_values_are_measured() -> None:
    result = answer(values(np.random.default_rng(4), visits=2, n_people=60))
    assert result.table["n_retests"].tolist() == [60] * 4
    np.testing.assert_allclose(result.table["retest"], 0.02, rtol=0.3)  # 60 pairs: 9 % standard error
    assert set(result.table["method"]) == {"mixed model"}


def test_scanners_are_compared_with_a_warning_and_without_groups() -> None:
    result = answer(values(np.random.default_rng(5)), "scanner")
    assert any("no property of people" in note for note in result.notes)


def test_periods_of_scanners_are_compared_where_days_are_kept() -> None:
    """Three percent more since day 400 of each scanner, on which people of both periods were."""
    table = values(np.random.default_rng(8), n_people=120)
    day = table["person"].str.removeprefix("sub-").astype(int) // 3 * 20.0
    table["scanner_day"] = day.where(day > 20)  # of some it is not known
    table.loc[table["scanner_day"] >= 400, "value"] *= 1.03
    result = compare_table(with_periods(table, 400), "period", ["age", "sex"], reference="before")
    assert (result.table["term"] == "since").all()
    assert (result.table["n_people"] == 120 - 6).all()
    assert (result.table["low"] < 0.03).all()
    assert (result.table["high"] > 0.03).all()
    with pytest.raises(ConfoundedError, match="QMRI_KEEP_DAYS"):
        with_periods(table.assign(scanner_day=np.nan), 400)


def test_processes_find_the_same_as_this_one() -> None:
    table = values(np.random.default_rng(9), PLANTED, visits=2, n_people=30)
    with Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0") as client:
        found = compare_table(table, "factor", ["age", "sex"], client=client).table
    pd.testing.assert_frame_equal(found, compare_table(table, "factor", ["age", "sex"]).table)


def test_a_confounded_question_is_refused() -> None:
    table = values(np.random.default_rng(6))
    table["label"] = np.where(table["factor"] == "patient", "Prisma-1", "Skyra-1")
    with pytest.raises(ConfoundedError, match="scanners and protocols"):
        answer(table)


def test_the_picture_greys_what_tells_no_people_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.axes

    colours: list[str] = []
    plot = matplotlib.axes.Axes.plot

    def noted(self: object, *arguments: object, **options: object) -> object:
        colours.append(str(options["color"]))
        return plot(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(matplotlib.axes.Axes, "plot", noted)
    content = effects_picture(answer(values(np.random.default_rng(7))).table, "factor")
    assert content.startswith(b"\x89PNG")
    assert [colours.count(colour) for colour in ("#b4bac1", "#0b5c7d")] == [2, 6]  # WM T1 alone is weak
