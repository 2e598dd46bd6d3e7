"""Answers of `qmri reference` on simulated cohorts."""

from __future__ import annotations

import numpy as np
import pytest

from flows.analysis.reference import calibration_rows, extreme_rows, reference_table, session_rows
from flows.pictures.centiles import centiles_picture
from qmri_core.analysis.centiles import TooFewPeopleError
from storage.store.repository import StoreError
from tests.flows.analysis.cohorts import values


def test_places_of_one_session_and_of_all() -> None:
    table = values(np.random.default_rng(1))
    far = (table["session"] == table["session"].iloc[7]) & (table["map"] == "T2map") & (table["region"] == "GM")
    table.loc[far, "value"] *= 1.4
    result = reference_table(table)
    assert len(result.table) == 4 * 60
    header, rows = session_rows(result, table["session"].iloc[7])
    places = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert places["GM T2"]["centile"] == "100.0 %"
    assert float(places["GM T2"]["z"]) > 4
    assert places["WM T1"]["z"].startswith("(")  # 30 % determined
    _, listed = extreme_rows(result)
    assert listed[0][0] == table["session"].iloc[7]
    header, rows = calibration_rows(result)
    assert {row[1] for row in rows} == {"60"}
    with pytest.raises(StoreError, match="has no place"):
        session_rows(result, "ses-unknown")
    assert centiles_picture(table).startswith(b"\x89PNG")


def test_few_people_have_no_places() -> None:
    with pytest.raises(TooFewPeopleError, match="12 people"):
        reference_table(values(np.random.default_rng(2), n_people=12))
