"""Values that a question is about, from a store."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from flows.analysis.values import Asked, retest_deviations, values_table
from storage.store.cohort import Cohort
from storage.store.repository import StoreError
from tests.storage.store.opened.analysed import PEOPLE, make_store, value_of


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return Cohort.open(make_store(tmp_path_factory.mktemp("values") / "store"))


def test_only_what_counts_has_values(cohort: Cohort) -> None:
    table = values_table(cohort, Asked(), ["sex", "software"])
    assert set(table["session"]) == set(PEOPLE) - {"ses-5"}
    assert {"label", "scanner", "person", "age", "software"} <= set(table.columns)
    for row in table.to_dict("records"):
        assert row["value"] == value_of(row["session"], row["region"], row["map"])


def test_a_table_of_the_user_and_a_condition(cohort: Cohort, tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    pd.DataFrame({"person": ["sub-1", "sub-3"], "drug": ["yes", "no"]}).to_csv(path, sep="\t", index=False)
    table = values_table(cohort, Asked(table=path, where="drug == 'yes'"), ["drug"])
    assert set(table["session"]) == {"ses-1", "ses-2"}
    assert set(values_table(cohort, Asked(regions=("WM", "GM")))["region"]) == {"WM", "GM"}
    with pytest.raises(StoreError, match="thalamus: no such region; there are CSF, GM, WM"):
        values_table(cohort, Asked(regions=("thalamus",)))
    with pytest.raises(StoreError, match="no session is left"):
        values_table(cohort, Asked(where="age > 100"))
    with pytest.raises(StoreError, match="dose: there is no such column"):
        values_table(cohort, Asked(), ["dose"])
    with pytest.raises(StoreError, match="cannot be read"):
        values_table(cohort, Asked(table=tmp_path))


def test_retests_are_visits_of_one_person_in_one_group() -> None:
    rows = [
        {"label": label, "person": person, "value": value, "region": "WM", "map": "T1map"}
        for label, person, value in (
            ("a", "p", 1.0), ("a", "p", 1.1), ("b", "p", 5.0), ("a", "q", 2.0), ("a", "q", 2.2),
        )
    ]  # fmt: skip
    (found,) = retest_deviations(pd.DataFrame(rows)).to_dict("records")
    assert found["n_retests"] == 2
    assert found["retest"] == pytest.approx(0.0953 / 2**0.5, abs=1e-4)  # log of 1.1, as of two
