"""Answers of `qmri harmonisation` and `qmri power` on simulated cohorts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from flows.analysis.harmonisation import harmonisation_tables, harmonise_table, power_rows, power_table
from storage.store.repository import StoreError
from tests.flows.analysis.cohorts import values


def test_a_cohort_of_single_scans_says_what_it_cannot_tell() -> None:
    result = harmonise_table(values(np.random.default_rng(1)))
    assert result.components.empty
    assert result.agreement.empty
    assert len(result.lacking) == 2
    assert set(result.planted["method"]) == {"as stored", "within groups", "ComBat", "ComBat, told of the effect"}
    few = harmonise_table(values(np.random.default_rng(1), n_people=4))
    assert few.between.empty
    assert len(few.lacking) == 3


def test_repeats_on_one_scanner_and_on_two() -> None:
    table = values(np.random.default_rng(2), visits=2)
    later = table["day"] > 0
    table.loc[later, "label"] = "group-9"  # everybody's second visit, on another scanner
    result = harmonise_table(table)
    assert set(zip(result.agreement["first"], result.agreement["second"], strict=True)) == {
        (f"group-{k}", "group-9") for k in range(3)
    }
    assert (result.agreement["people"] == 20).all()
    assert result.components["rest"].between(0.01, 0.03).all()  # 2 % were drawn
    assert result.components["person"].between(0.03, 0.05).all()  # 4 %
    assert result.components["visit"].isna().all()
    titles = [title for title, _, _ in harmonisation_tables(result)]
    assert titles[:2] == ["Repeats: where variance comes from", "Agreement of groups"]
    _, header, rows = harmonisation_tables(result)[0]
    assert dict(zip(header, rows[0], strict=True))["person"].startswith("(")  # WM T1: 30 % determined


def test_more_people_are_needed_where_less_is_shown() -> None:
    table = values(np.random.default_rng(3), visits=2, n_people=80)
    needed = power_table(table, 0.03).set_index(["region", "map"])["people"]
    assert needed["WM", "T1map"] > 2 * needed["WM", "T2map"]  # 60 % of a difference is shown: 1 / 0.6**2 as many
    assert 20 < needed["WM", "T2map"] < 50  # 4 % and 2 % beside 3 %: 37
    fewer = power_table(table, 0.03, visits=4).set_index(["region", "map"])["people"]
    assert (fewer < needed).all()
    header, rows = power_rows(power_table(table.assign(determined=0.01), 0.03))
    assert {dict(zip(header, row, strict=True))["people per arm"] for row in rows} == {"none is enough"}
    with pytest.raises(StoreError, match="no group has two people"):
        power_table(pd.DataFrame(table.iloc[:1]), 0.03)
