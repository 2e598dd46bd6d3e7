"""Tables that travel: Parquet and CSV are equal, every column is described, and only what counts is there."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from pyarrow import parquet
from rocrate.rocrate import ROCrate

from storage.exports.tables import TABLES, export_tables
from storage.store.cohort import Cohort
from storage.store.repository import StoreError
from storage.store.schema import PER_SESSION
from tests.storage.store.opened.analysed import PEOPLE, make_store, value_of


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return Cohort.open(make_store(tmp_path_factory.mktemp("tables") / "store"))


@pytest.fixture(scope="module")
def folder(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "tables"
    exported = export_tables(cohort, out)
    assert (exported.sessions, exported.values) == (4, 4 * 9 * 9)
    return out


@pytest.mark.parametrize("name", TABLES)
def test_parquet_and_csv_hold_the_same(folder: Path, name: str) -> None:
    text, binary = (
        pd.read_csv(folder / f"{name}.csv", keep_default_na=True),
        pd.read_parquet(folder / f"{name}.parquet"),
    )
    assert list(text.columns) == list(binary.columns)
    for column in text:
        if pd.api.types.is_numeric_dtype(binary[column]):
            pd.testing.assert_series_equal(text[column].astype(float), binary[column].astype(float))
        else:
            assert text[column].astype(object).fillna("").astype(str).tolist() == binary[column].astype(str).tolist()


def test_values_are_those_of_the_store_and_of_sessions_that_count(folder: Path) -> None:
    values = pd.read_parquet(folder / "values.parquet")
    modes = values[values["statistic"] == "mode"]
    assert len(modes) == 4 * 9
    for row in modes.to_dict("records"):
        assert row["value"] == value_of(row["session"], row["region"], row["map"])
    sessions = pd.read_parquet(folder / "sessions.parquet").set_index("session")
    assert set(sessions.index) == set(PEOPLE) - {"ses-5"}
    assert sessions["age"].to_dict() == {name: PEOPLE[name]["age"] for name in sessions.index}
    left_out = pd.read_csv(folder / "exclusions.csv").set_index("reason")
    assert left_out.loc["no maps yet", "sessions"] == 1
    assert not left_out.loc["no maps yet", "are_here"]


def test_every_column_says_its_unit_and_what_it_is(folder: Path, cohort: Cohort) -> None:
    dictionary = pd.read_csv(folder / "data_dictionary.csv", keep_default_na=False).set_index(["table", "column"])
    for name in TABLES:
        schema = parquet.read_schema(folder / f"{name}.parquet")
        assert schema.names == dictionary.loc[name].index.tolist()
        for field in schema:
            said = dictionary.loc[(name, field.name)]
            assert said["description"]
            assert field.metadata[b"description"].decode() == said["description"]
            assert field.metadata[b"unit"].decode() == said["unit"]
        assert cohort.snapshot in schema.metadata[b"qmri"].decode()
    ages = next(variable for variable in PER_SESSION if variable.name == "age")
    assert dictionary.loc[("sessions", "age"), "unit"] == ages.units


def test_the_datasheet_and_the_crate_are_of_this_snapshot(folder: Path, cohort: Cohort) -> None:
    sheet = (folder / "datasheet.md").read_text(encoding="utf-8")
    assert f"snapshot `{cohort.snapshot}`" in sheet
    assert "4 sessions of 3 people in 2 groups" in sheet
    assert "1 people have several sessions" in sheet
    assert "Ages 30 to 70" in sheet
    assert "Other weights than the shipped ones" in sheet
    crate = ROCrate(folder)  # the library reads what it has written
    there = {path.name for path in folder.iterdir()} - {"ro-crate-metadata.json"}
    assert {entity.id for entity in crate.data_entities} == there
    assert cohort.snapshot in crate.description


def test_an_export_that_is_there_stays_as_it_is(folder: Path, cohort: Cohort) -> None:
    with pytest.raises(StoreError, match="is there already"):
        export_tables(cohort, folder)
